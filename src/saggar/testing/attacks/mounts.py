"""Attacks by way of folders that the host shares: one may be written, one may only be read."""

import os
import socket
import stat

from saggar.model.policy import Rung
from saggar.testing.attacks.attack import attack
from saggar.testing.attacks.checks import held
from saggar.testing.attacks.inside import (
    attempt,
    denied,
    escaped,
    look_for_secrets,
    read,
    scene,
    touch,
    tries,
)


def mounted(name: str) -> str:
    """A folder of the host's by the name it has here: without a root of one's own, its own."""
    here = f"/srv/{name}"
    return here if os.path.isdir(here) else str(scene[name])


def write_to(path: str) -> int:
    """Open it for writing, whatever it is, and write."""
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        return os.write(fd, b"from inside")
    finally:
        os.close(fd)


@attack(held, mounts=True)
def use_what_is_shared() -> None:
    """Read and write what may be: or what follows here would prove nothing."""
    tries.append("use")
    if read(f"{mounted('fixed')}/file") != b"as it was":
        escaped("the read-only folder is not the host's")
    with open(f"{mounted('shared')}/note", "w") as file:
        file.write("a note")


@attack(held, mounts=True)
def write_through_a_read_only_mount() -> None:
    """Change the content, mode, times, name or place of what may only be read; add to it."""
    folder, shared = mounted("fixed"), mounted("shared")
    path, token = f"{folder}/file", scene["token"]
    for name in ("file", "fifo"):
        attempt(f"write to {name}", write_to, f"{folder}/{name}")
    attempt("open for both", touch, path, os.O_RDWR)
    attempt("truncate", os.truncate, path, 0)
    attempt("truncate on opening", touch, path, os.O_RDONLY | os.O_TRUNC)
    attempt("mode", os.chmod, path, 0o777)
    attempt("mode of the folder", os.chmod, folder, 0o755)
    attempt("owner", os.chown, path, os.getuid(), os.getgid())
    attempt("times", os.utime, path)
    attempt("attribute", os.setxattr, path, "user.saggar", b"")
    attempt("remove", os.unlink, path)
    attempt("create", touch, f"{folder}/{token}", os.O_WRONLY | os.O_CREAT)
    attempt("nameless file", touch, folder, os.O_WRONLY | os.O_TMPFILE)
    attempt("folder", os.mkdir, f"{folder}/{token}")
    attempt("fifo", os.mkfifo, f"{folder}/{token}")
    attempt("link", os.symlink, path, f"{folder}/{token}")
    attempt("second name", os.link, path, f"{folder}/{token}")
    attempt("second name where writing is allowed", os.link, path, f"{shared}/{token}")
    attempt("move out", os.rename, path, f"{shared}/{token}")
    attempt("move within", os.rename, path, f"{folder}/{token}")
    attempt("reopen", reopen_for_writing, path)


def reopen_for_writing(path: str) -> None:
    """Open it for reading, then that descriptor for writing."""
    fd = os.open(path, os.O_RDONLY)
    touch(f"/proc/self/fd/{fd}", os.O_WRONLY)


@attack(held, mounts=True)
def make_a_mount_writable() -> None:
    """Take away what makes it read-only, or mount it again without."""
    folder = mounted("fixed").encode()
    denied("mount", None, folder, None, 32 | 4096, None)
    denied("mount", folder, b"/tmp", None, 4096, None)
    denied("umount2", folder, 2)
    denied("mount_setattr", -100, folder, 0, None, 0)
    denied("open_tree", -100, folder, 1)


@attack(held, mounts=True)
def leave_a_share_by_a_link() -> None:
    """Plant links to the host's files in a folder of the host's, and follow them from inside."""
    folder = mounted("shared")
    for number, secret in enumerate(scene["secrets"]):
        for kind, target in (
            ("whole", secret),
            ("dots", "/".join([".."] * 12) + secret),
            ("beside", "../secret"),
            ("root", f"/proc/self/root{secret}"),
            ("first", f"/proc/1/root{secret}"),
            ("host", f"/proc/{scene['host']}/root{secret}"),
        ):
            path = f"{folder}/{kind}{number}"
            os.symlink(target, path)
            attempt(f"{kind} {secret}", read, path)
            os.unlink(path)


@attack(held, mounts=True)
def leave_a_share_by_its_parent() -> None:
    """Climb from inside a mounted folder: by dots, by descriptors, by folders moved meanwhile."""
    folder = mounted("shared")
    os.makedirs(f"{folder}/a/b")
    below = os.open(f"{folder}/a/b", os.O_PATH | os.O_DIRECTORY)
    os.rename(f"{folder}/a/b", f"{folder}/b")
    os.rmdir(f"{folder}/a")
    for dots in ("..", "../..", "../../..", "../../../.."):
        for fd in (below, os.open(folder, os.O_PATH | os.O_DIRECTORY)):
            for name in (f"{dots}/secret", f"{dots}{scene['secrets'][0]}"):
                attempt(name, read_beneath, fd, name)
    os.rmdir(f"{folder}/b")


def read_beneath(folder: int, name: str) -> bytes:
    """A file's beginning, by a path from an open folder."""
    fd = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


@attack(held, mounts=True, stopped_from=Rung.JAIL)
def look_around_a_share() -> None:
    """List what lies beside a mounted folder: of the host's there is nothing."""
    tries.append("list")
    beside = {*os.listdir(f"{mounted('shared')}/..")} | {*os.listdir("/tmp")}
    for name in ("secret", "stream", "datagram", os.path.basename(scene["folder"])):
        if name in beside:
            escaped(f"{name} of the host lies beside")


@attack(held, mounts=True)
def give_the_host_a_second_name() -> None:
    """Link, move or bind the host's secrets into a folder that may be written."""
    folder = mounted("shared")
    for secret in scene["secrets"]:
        attempt(f"link {secret}", os.link, secret, f"{folder}/link")
        attempt(f"move {secret}", os.rename, secret, f"{folder}/moved")
        denied("mount", secret.encode(), folder.encode(), None, 4096, None)


@attack(held, mounts=True)
def use_devices_of_a_share() -> None:
    """Make device nodes in a folder of the host's, where they would stay; open them."""
    for name, kind, major, minor in (
        ("memory", stat.S_IFCHR, 1, 1),
        ("null", stat.S_IFCHR, 1, 3),
        ("disk", stat.S_IFBLK, 254, 0),
    ):
        path = f"{mounted('shared')}/{name}"
        attempt(f"make {name}", os.mknod, path, kind | 0o666, os.makedev(major, minor))
        attempt(f"open {name}", touch, path, os.O_RDWR)


def leave_traps() -> None:
    """Things in the shared folder on which somebody could hang, or which lead elsewhere."""
    folder = mounted("shared")
    for secret in scene["secrets"]:
        os.symlink(secret, f"{folder}/{os.path.basename(secret)}")
    os.symlink(".", f"{folder}/loop")
    os.mkfifo(f"{folder}/trap")
    try:
        socket.socket(socket.AF_UNIX).bind(f"{folder}/socket")
    except OSError as error:
        print("refused", error)
    tries.append("traps")


@attack(held, mounts=True, first=leave_traps)
def run_where_another_left_traps() -> None:
    """Mount a folder again in which an earlier run left fifos, sockets and links to secrets."""
    folder = mounted("shared")
    for name in (*map(os.path.basename, scene["secrets"]), "loop/loop/secret"):
        tries.append(name)
        try:
            look_for_secrets(name, read(f"{folder}/{name}"))
        except OSError as error:
            print("refused", error)
