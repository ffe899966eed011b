"""Attacks on the host's files and secrets: reading what is not granted, writing what is shared."""

import os
import re
import sys
import sysconfig

from saggar.model.policy import Rung
from saggar.testing.attacks.attack import attack
from saggar.testing.attacks.checks import held
from saggar.testing.attacks.inside import (
    SECRET,
    attempt,
    denied,
    descriptors,
    escaped,
    look_for_secrets,
    outsiders,
    pids,
    read,
    scene,
    touch,
    tries,
    watch,
)


@attack(held)
def read_the_password_file() -> None:
    """Read password hashes, keys and credentials from where they usually are."""
    home = os.path.expanduser(f"~{scene['uid']}")
    for path in (
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/sudoers",
        "/etc/ssh/ssh_host_ed25519_key",
        "/root/.ssh/id_ed25519",
        "/root/.bash_history",
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
        f"{home}/.aws/credentials",
    ):
        attempt(f"read {path}", read, path)


@attack(held, shows=True)
def read_planted_secrets() -> None:
    """Read files of the caller's own: one in the home folder, one open to everybody in /tmp."""
    for path in scene["secrets"]:
        attempt(f"read {path}", read, path)


@attack(held)
def climb_out_of_the_root() -> None:
    """Reach the host's files through /proc, through dots and through descriptors."""
    dots = "/.." * 12
    roots = [f"/proc/{who}/root" for who in ("1", "self", "thread-self", os.getppid())]
    roots += [f"/proc/{who}/{what}" for who in pids() for what in ("root", "cwd")]
    roots += [f"/proc/self/cwd{dots}", f"/work{dots}", f"/proc/self/root{dots}", f"/tmp{dots}"]
    roots += [f"/proc/{scene['bystander']}/root", f"/proc/{scene['host']}/cwd{dots}"]
    for path in scene["secrets"]:
        for root in roots:
            attempt(root, read, root + path)


@attack(held)
def climb_out_through_a_descriptor() -> None:
    """Open paths relative to every directory that was left open."""
    above = os.open("/", os.O_PATH | os.O_DIRECTORY)
    for fd in [above, *descriptors()]:
        for path in scene["secrets"]:
            for dots in ("", "../" * 12):
                attempt(f"from {fd}", open_beneath, fd, dots + path[1:])


def open_beneath(folder: int, name: str) -> int:
    """Openat."""
    return os.open(name, os.O_RDONLY, dir_fd=folder)


@attack(held)
def list_the_host() -> None:
    """Find the host's folders by listing what is usually there."""
    tries.append("list")
    wanted = {os.path.basename(scene["folder"]), f".{scene['token']}"}
    for top in ("/", "/home", "/root", "/tmp", "/var", "/var/tmp", "/srv", "/mnt", "/run", "/opt"):
        for folder, names, files in os.walk(top):
            if wanted & {*names, *files}:
                escaped(f"the host's {folder}")
            if folder.count("/") > 2:
                names.clear()


@attack(held, shows=True)
def read_environments() -> None:
    """Look for the host's secrets in the environment of this and of every other process."""
    look_for_secrets("environment", repr(dict(os.environ)).encode())
    for who in ["self", scene["bystander"], scene["host"], *pids()]:
        try:
            look_for_secrets(f"environment of {who}", read(f"/proc/{who}/environ"))
        except OSError as error:
            print("refused", who, error)


@attack(held)
def search_own_memory() -> None:
    """Look for what the fork server or the host left behind in this process's memory."""
    tries.append("self")
    try:
        search_memory("self")
    except OSError as error:
        print("refused", error)


def search_memory(who: object) -> None:
    """Say so if a secret of the host's is in a process's writable memory."""
    with open(f"/proc/{who}/maps") as maps, open(f"/proc/{who}/mem", "rb", 0) as memory:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found is None:
                continue
            start, end = (int(part, 16) for part in found.groups())
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, OverflowError):
                continue
            for secret in SECRET.findall(data):
                escaped(f"memory of {who}: {secret.decode()}")


@attack(held)
def search_the_memory_of_others() -> None:
    """Read the memory of every process in sight, of the host's and of a bystander's."""
    for who in {*outsiders(), *pids(), 1}:
        attempt(f"memory of {who}", search_memory, who)


@attack(held)
def write_what_everybody_runs() -> None:
    """Put files where other runs and the host would execute or read them."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib", "scripts")}
    paths |= {sys.prefix, sys.base_prefix, os.path.dirname(sys.executable), "/", "/usr"}
    paths |= {"/usr/bin", "/usr/lib", "/usr/local/bin", "/etc", "/bin", "/lib", "/opt", "/dev"}
    for folder in sorted(filter(os.path.isdir, paths)):
        attempt(f"create in {folder}", touch, f"{folder}/{scene['token']}.pth", os.O_CREAT)
        attempt(f"folder in {folder}", os.mkdir, f"{folder}/{scene['token']}")


@attack(held)
def change_what_everybody_runs() -> None:
    """Change the interpreter and the system: content, mode, times, attributes, links."""
    for path in (os.__file__, os.path.realpath(sys.executable), "/usr/bin/env", "/etc/passwd"):
        attempt(f"open {path}", touch, path, os.O_RDWR)
        attempt(f"mode of {path}", os.chmod, path, os.stat(path).st_mode & 0o7777)
        attempt(f"times of {path}", os.utime, path)
        attempt(f"owner of {path}", os.chown, path, os.getuid(), os.getgid())
        attempt(f"attribute of {path}", os.setxattr, path, "user.saggar", b"")
        attempt(f"link to {path}", os.link, path, f"{scene['token']}-link")


@attack(held)
def read_the_kernels_memory() -> None:
    """Open devices and files by which memory, disks and the kernel's log can be read."""
    for path in ("mem", "kmem", "port", "kmsg", "sda", "vda", "nvme0n1", "kvm", "fuse", "loop0"):
        attempt(path, read, f"/dev/{path}")
    for path in ("/dev/net/tun", "/dev/loop-control", "/dev/vhost-vsock", "/dev/dri/card0"):
        attempt(path, read, path)
    for path in ("kcore", "kmsg", "keys", "timer_list", "sched_debug", "vmallocinfo"):
        attempt(path, read_something, f"/proc/{path}")


def read_something(path: str) -> bytes:
    """A file's first bytes; a masked file has none."""
    data = read(path)
    if not data:
        raise OSError(f"{path} is empty")
    return data


@attack(held)
def read_kernel_addresses() -> None:
    """Learn where the kernel lies: kallsyms, modules, notes, wchan."""
    tries.append("addresses")
    for path in ("/proc/kallsyms", "/proc/modules", "/sys/kernel/notes", "/proc/self/stack"):
        try:
            data = read(path)
        except OSError as error:
            print("refused", error)
            continue
        if re.search(rb"\b(?!0{16})f{4}[0-9a-f]{12}\b", data):
            escaped(f"addresses in {path}")


@attack(held, stopped_from=Rung.JAIL)
def see_the_hosts_disks_and_mounts() -> None:
    """Learn the host's layout from the mount table: device names, the scene's path."""
    tries.append("mounts")
    for path in ("/proc/self/mountinfo", "/proc/self/mounts", "/proc/partitions"):
        try:
            data = read(path, 1 << 20).decode()
        except OSError as error:
            print("refused", error)
            continue
        for word in (scene["folder"], scene["token"]):
            if word in data:
                escaped(f"{word} in {path}")


@attack(held)
def open_a_terminal() -> None:
    """Push input to the terminal of whoever started the host, and take it over."""
    import fcntl
    import termios

    for path in ("/dev/tty", "/dev/console", "/dev/tty1", "/dev/pts/0", "/dev/vcs"):
        attempt(path, touch, path, os.O_RDWR)
    for fd in range(3):
        attempt(f"push to {fd}", fcntl.ioctl, fd, termios.TIOCSTI, b"\n")
        attempt(f"own {fd}", fcntl.ioctl, fd, termios.TIOCSCTTY, 1)
        watch(f"linux console {fd}", fcntl.ioctl, fd, 0x541C, b"\x02")


@attack(held)
def watch_what_others_do_with_files() -> None:
    """Be told by the kernel when the host or a neighbour opens, reads or changes a shared file."""
    import fcntl

    for name in ("inotify_init", "inotify_init1"):
        denied(name, 0)
    denied("inotify_add_watch", -1, b"/usr/bin", 0xFFF)
    denied("fanotify_init", 0x200, 0)  # FAN_REPORT_FID: since Linux 5.13 without a privilege
    denied("fanotify_mark", -1, 1, 0x20, -100, b"/usr/bin")
    for path in ("/usr/bin", "/usr/lib", os.path.dirname(os.__file__), "."):
        folder = os.open(path, os.O_RDONLY)
        attempt(f"notes of {path}", fcntl.fcntl, folder, fcntl.F_NOTIFY, fcntl.DN_ACCESS)
    with open("own", "w"):
        pass
    for path in (os.__file__, "/usr/bin/env", "own"):
        file = os.open(path, os.O_RDONLY)
        for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
            attempt(f"lease of {path}", fcntl.fcntl, file, fcntl.F_SETLEASE, kind)
