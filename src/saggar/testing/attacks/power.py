"""Attacks for more power: users, capabilities, set-uid programs, device nodes."""

import ctypes
import os
import shutil
import stat
import subprocess

from saggar.model.policy import Rung
from saggar.testing.attacks.attack import attack
from saggar.testing.attacks.checks import held
from saggar.testing.attacks.inside import (
    attempt,
    escaped,
    libc,
    read,
    scene,
    syscall,
    tries,
    watch,
)


@attack(held)
def become_another_user() -> None:
    """Change uid, gid and groups: root, nobody, whoever runs the host."""
    for uid in {0, 1, 65534, scene["uid"], os.getuid() + 1} - {os.getuid()}:
        attempt(f"uid {uid}", os.setresuid, uid, uid, uid)
        attempt(f"effective uid {uid}", os.seteuid, uid)
        attempt(f"gid {uid}", os.setresgid, uid, uid, uid)
        attempt(f"group {uid}", os.setgroups, [uid])
        attempt(f"give a file to {uid}", os.chown, ".", uid, uid)


@attack(held)
def be_root() -> None:
    """Look whether it is root already."""
    tries.append("who")
    if 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups()):
        escaped(f"is root: {os.getresuid()} {os.getresgid()} {os.getgroups()}")


def read_lines(path: str) -> list[str]:
    """A small file's lines; none where it cannot be read."""
    try:
        return read(path).decode().splitlines()
    except OSError:
        return []


@attack(held)
def take_capabilities() -> None:
    """Ask for every capability, by capset, by the ambient set, by keeping them."""
    tries.append("have")
    for line in read_lines("/proc/self/status"):
        if line.startswith(("CapPrm", "CapEff", "CapInh", "CapAmb")) and int(line.split()[1], 16):
            escaped(line)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    everything = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
    attempt("capset", syscall, "capset", ctypes.byref(header), ctypes.byref(everything))
    for capability in (0, 1, 6, 7, 12, 21, 39):
        attempt(f"ambient {capability}", control, 47, 2, capability)
    attempt("securebits", control, 28, 0)


def control(option: int, first: int, second: int = 0) -> int:
    """prctl, as OSError where it fails."""
    done: int = libc.prctl(option, first, second, 0, 0)
    if done < 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
    return done


@attack(held)
def gain_from_an_exec() -> None:
    """Switch off what keeps an exec from adding power, and the filter with it."""
    tries.append("have")
    if control(39, 0) != 1:
        escaped("programs may gain power by exec")
    if control(21, 0) != 2:
        escaped("no filter is in force")
    attempt("no_new_privs off", control, 38, 0)
    attempt("filter off", control, 22, 0)
    attempt("memory map of another program", control, 35, 13, -1)


@attack(held)
def run_set_uid_programs() -> None:
    """Start the programs that make root of a user."""
    tries.append("run")
    for argv in (
        ["sudo", "-n", "id", "-u"],
        ["su", "-c", "id -u"],
        ["pkexec", "id", "-u"],
        ["newuidmap", str(os.getpid()), "0", "0", "1"],
        ["ping", "-c1", "-W1", "127.0.0.1"],
        ["mount", "-t", "tmpfs", "none", "/tmp"],
        ["fusermount", "-u", "/tmp"],
    ):
        try:
            done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        except OSError as error:
            print("refused", argv[0], error)
            continue
        if done.returncode == 0:
            escaped(f"{argv[0]} answered {done.stdout!r}")


UNMARKED = {
    Rung.CONTAINER: "an engine mounts an image's root without nosuid; no-new-privileges, which"
    " gain-from-an-exec looks at, makes the bits count for nothing"
}


@attack(held, stopped_from=Rung.JAIL, apart_from=UNMARKED)
def find_a_place_for_set_uid_programs() -> None:
    """Look for mounts where set-uid bits count."""
    tries.append("look")
    for place in ("/usr/bin", "/usr/lib", ".", "/tmp", "/dev/shm", "/dev"):
        if os.path.exists(place) and not os.statvfs(place).f_flag & os.ST_NOSUID:
            escaped(f"{place} honours set-uid bits")


@attack(held)
def make_a_set_uid_program() -> None:
    """Make a program of its own with every bit set, and run it."""
    shutil.copyfile("/usr/bin/env", "mighty")
    watch("set-uid", os.chmod, "mighty", 0o6755)
    try:
        done = subprocess.run(["./mighty", "id", "-u"], capture_output=True, check=False)
    except OSError as error:
        print("refused", error)
    else:
        if done.stdout.strip() == b"0":
            escaped("became root by a program of its own")


@attack(held)
def make_device_nodes() -> None:
    """Make a node for memory, for a disk, for the terminal, and open it."""
    for place in (".", "/tmp", "/dev/shm", "/dev"):
        for name, kind, major, minor in (
            ("mem", stat.S_IFCHR, 1, 1),
            ("disk", stat.S_IFBLK, 254, 0),
            ("tty", stat.S_IFCHR, 4, 0),
        ):
            path = f"{place}/{scene['token']}-{name}"
            attempt(path, os.mknod, path, kind | 0o600, os.makedev(major, minor))


@attack(held)
def use_devices_where_they_lie() -> None:
    """Look for device nodes beyond the harmless ones."""
    tries.append("look")
    harmless = {(1, minor) for minor in (3, 5, 7, 8, 9)} | {(5, 0), (5, 2)}
    for folder, names, files in os.walk("/dev"):
        for name in names + files:
            found = os.lstat(f"{folder}/{name}")
            number = (os.major(found.st_rdev), os.minor(found.st_rdev))
            special = stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode)
            if special and number not in harmless and os.access(f"{folder}/{name}", os.R_OK):
                escaped(f"{folder}/{name}: {number}")
