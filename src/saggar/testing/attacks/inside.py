"""
What attacks have to hand behind the wall. Its text travels with them: standard library only.

An attack says what it got away with by `escaped`; everything else it prints is for the reader. Its
word counts against the walls only: what must not have happened outside is looked up outside.
"""

import ctypes
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

scene: dict[str, Any] = json.loads(os.environ.get("SAGGAR_SCENE") or "{}")
"""What stands on the host to be found: paths, ports, a process; see `scene.py`."""
tries: list[str] = []
libc = ctypes.CDLL(None, use_errno=True)
REFUSALS = (errno.EPERM, errno.ENOSYS, errno.EACCES)
SECRET = re.compile(rb"saggar-secret-[0-9a-f]{32}")

# Of the two machines that walls exist for: x86-64, aarch64 (0: it has no such call).
NUMBERS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "capget": (125, 90),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "getpid": (39, 172),
    "init_module": (175, 105),
    "inotify_add_watch": (254, 27),
    "inotify_init": (253, 0),
    "inotify_init1": (294, 26),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, 0),
    "iopl": (172, 0),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, 0),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "sched_setattr": (314, 274),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}


def begin() -> None:
    """Bear the name by which this process and all it forks are recognised from outside."""
    libc.prctl(15, str(scene.get("token", "attack")).encode(), 0, 0, 0)


def end() -> None:
    """Say that every try was made: an attack that broke off early proves nothing."""
    print("TRIED", len(tries), flush=True)


def escaped(what: str) -> None:
    """Say what was got away with."""
    print("ESCAPED", what, flush=True)


def attempt(what: str, call: Callable[..., object], *arguments: object) -> None:
    """Try it. Getting through is the escape; being refused is what walls are for."""
    tries.append(what)
    try:
        got = call(*arguments)
    except (OSError, ValueError, OverflowError, ImportError) as error:
        print("refused", what, error)
    else:
        escaped(f"{what}: {got!r:.300}")


def watch(what: str, call: Callable[..., object], *arguments: object) -> None:
    """Try it. Getting through is allowed: what may come of it is looked up outside."""
    tries.append(what)
    try:
        print("did", what, repr(call(*arguments))[:300])
    except OSError as error:
        print("refused", what, error)


def syscall(name: str, *arguments: object) -> int:
    """A raw system call; OSError where it fails, ENOSYS where this machine has none."""
    number = NUMBERS[name][["x86_64", "aarch64"].index(os.uname().machine)]
    return numbered(number, *arguments) if number else refuse(name)


def numbered(number: int, *arguments: object) -> int:
    """The system call of this number."""
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *plain)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def refuse(name: str) -> int:
    """What a kernel without this call says."""
    raise OSError(errno.ENOSYS, f"{name}: {os.strerror(errno.ENOSYS)}")


def denied(name: str, *arguments: object) -> None:
    """
    Make a call that must be refused for what it is.

    A kernel that goes on to complain about the arguments was reached, and that is an escape.
    """
    tries.append(name)
    try:
        got = syscall(name, *arguments)
    except OSError as error:
        if error.errno not in REFUSALS:
            escaped(f"{name} was let through to the kernel, which said: {error.strerror}")
    else:
        if name in ("clone", "clone3") and got == 0:
            os._exit(0)
        escaped(f"{name} answered {got}")


def apart(call: Callable[[], object]) -> int:
    """Call it in a child, which may not survive it: 0 if it got through, else how it ended."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            call()
        except OSError as error:
            code = error.errno or 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read(path: str, size: int = 1 << 16) -> bytes:
    """The first bytes of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def touch(path: str, flags: int = os.O_WRONLY) -> str:
    """Open it for writing, and write nothing: a wall that fails here must not hurt anybody."""
    os.close(os.open(path, flags | os.O_NONBLOCK, 0o600))
    return path


def pids() -> Iterator[int]:
    """Every process this one can see, itself excepted."""
    try:
        names = os.listdir("/proc")
    except OSError:
        names = []
    return (int(name) for name in names if name.isdigit() and int(name) != os.getpid())


def outsiders() -> list[int]:
    """Processes of the host's, by numbers too high to mean one of our own."""
    return [pid for pid in (scene["host"], scene["bystander"]) if pid > 8]


def look_for_secrets(where: str, data: bytes) -> None:
    """Say so if one of the host's secrets is in there."""
    tries.append(where)
    for found in SECRET.findall(data):
        escaped(f"{where}: {found.decode()}")


def descriptors() -> list[int]:
    """What is open here beyond the three that everybody has."""
    found = []
    for fd in range(3, 4096):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(fd)
    return found


def flush() -> None:
    """Send what was printed on its way before something violent."""
    sys.stdout.flush()
