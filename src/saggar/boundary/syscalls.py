"""
The system calls Python has no name for, over ctypes and libc.

Each raises `OSError` with what was tried. Runs on both sides of the wall, on Python 3.11 and later,
so nothing here imports more than ctypes and os.
"""

import ctypes
import errno
import os
import stat
from ctypes import c_char_p, c_int, c_long, c_size_t, c_ulong, c_void_p

CLONE_VM, CLONE_NEWTIME = 0x100, 0x80
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 4096, 8192, 16384, 1 << 18
MNT_DETACH = 2

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
AT_RECURSIVE, AT_EMPTY_PATH = 0x8000, 0x1000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_CHILD_SUBREAPER, PR_CAP_AMBIENT = 24, 28, 36, 47
PR_SET_NAME, PR_CAP_AMBIENT_CLEAR_ALL = 15, 4
SECBITS_LOCKED = 0xEF
"""NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE locked on, KEEP_CAPS off: uid 0 means nothing."""
SECBIT_NO_SETUID_FIXUP = 4

CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP = 0, 5, 6, 7, 8
CAP_NET_ADMIN, CAP_SYS_CHROOT, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_SETFCAP = 12, 18, 21, 24, 31

FSCONFIG_SET_STRING, FSCONFIG_CMD_RECONFIGURE = 1, 7
FSPICK_CLOEXEC, FSPICK_EMPTY_PATH = 1, 8
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 1, 2, 4, 8

_X86_64 = {
    "rt_sigprocmask": 14,
    "close": 3,
    "write": 1,
    "sendmsg": 46,
    "socketpair": 53,
    "fcntl": 72,
    "chdir": 80,
    "umask": 95,
    "setresuid": 117,
    "setresgid": 119,
    "capset": 126,
    "pivot_root": 155,
    "prctl": 157,
    "mount": 165,
    "umount2": 166,
    "openat": 257,
    "mkdirat": 258,
    "unshare": 272,
    "dup3": 292,
    "pipe2": 293,
    "setns": 308,
    "seccomp": 317,
}
_AARCH64 = {
    "rt_sigprocmask": 135,
    "close": 57,
    "write": 64,
    "sendmsg": 211,
    "socketpair": 199,
    "fcntl": 25,
    "chdir": 49,
    "umask": 166,
    "setresuid": 147,
    "setresgid": 149,
    "capset": 91,
    "pivot_root": 41,
    "prctl": 167,
    "mount": 40,
    "umount2": 39,
    "openat": 56,
    "mkdirat": 34,
    "unshare": 97,
    "dup3": 24,
    "pipe2": 59,
    "setns": 268,
    "seccomp": 277,
}
# Newer ones have the same number everywhere.
_SAME = {
    "open_tree": 428,
    "move_mount": 429,
    "fsconfig": 431,
    "fspick": 433,
    "pidfd_open": 434,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}
_BY_MACHINE = {"x86_64": _X86_64, "aarch64": _AARCH64}
NUMBERS = _SAME | _BY_MACHINE.get(os.uname().machine, {})

PAGE = os.sysconf("SC_PAGESIZE")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_libc.syscall.restype = c_long
_libc.clone.argtypes = (c_void_p, c_void_p, c_int, c_void_p)
_libc.mmap.restype = c_size_t
_libc.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_libc.prctl.argtypes = (c_int, c_ulong, c_ulong, c_ulong, c_ulong)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def call(name: str, *arguments: object) -> int:
    """A raw system call by name; integers and bytes become what the kernel expects."""
    plain = [c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(c_long(NUMBERS[name]), *plain), name)


def unshare(flags: int) -> None:
    """Leave the namespaces in `flags` for new ones."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Join the namespace behind `fd`, which must be of `kind`."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2), with the target in the error."""
    done = _libc.mount(
        source.encode(), target.encode(), kind.encode(), flags, options.encode() or None
    )
    _check(done, f"mount {kind or 'bind'} {source} on {target}")


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target.encode(), flags), f"unmount {target}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    call("pivot_root", c_char_p(new.encode()), c_char_p(old.encode()))


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def mount_setattr(path: str, attributes: int, flags: int = AT_RECURSIVE) -> None:
    """Set mount attributes on `path` and, by default, on everything below it."""
    attr = _MountAttr(attributes, 0, 0, 0)
    where = c_char_p(path.encode())
    call("mount_setattr", -100, where, flags, ctypes.byref(attr), c_size_t(ctypes.sizeof(attr)))


def pick_filesystem(directory: int) -> int:
    """A context over the mounted file system behind `directory`, to change its options later."""
    return call("fspick", directory, c_char_p(b""), FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)


def resize(context: int, *, size: int, inodes: int) -> None:
    """Give the tmpfs behind a `pick_filesystem` context a new size in bytes and in inodes."""
    for key, value in ((b"size", size), (b"nr_inodes", inodes)):
        text = c_char_p(str(value).encode())
        call("fsconfig", context, FSCONFIG_SET_STRING, c_char_p(key), text, 0)
    call("fsconfig", context, FSCONFIG_CMD_RECONFIGURE, None, None, 0)


class _OpenHow(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """openat2(2): open `path` below `directory` under the rules in `resolve`."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    return call("openat2", directory, c_char_p(path), ctypes.byref(how), c_size_t(24))


def prctl(option: int, first: int = 0, second: int = 0) -> int:
    """prctl(2) with up to two integers."""
    return _check(_libc.prctl(option, first, second, 0, 0), f"prctl {option}")


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def set_capabilities(mask: int) -> None:
    """Make `mask` the effective and permitted set; nothing is inheritable."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (_CapData * 2)(_CapData(low, low, 0), _CapData(high, high, 0))
    call("capset", ctypes.byref(_CapHeader(0x20080522, 0)), ctypes.byref(data))


def drop_bounding(keep: int = 0) -> None:
    """Take every capability that is not in `keep` out of the bounding set, for good."""
    for capability in range(64):
        if not keep >> capability & 1 and _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # past the last capability this kernel knows


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", c_char_p)]


def seccomp(program: bytes) -> None:
    """Install a packed filter on this thread; it can never be taken off."""
    assembled = _SockFprog(len(program) // 8, program)
    call("seccomp", 1, 0, ctypes.byref(assembled))


class _RulesetAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("fs", "net", "scoped")]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("access", ctypes.c_uint64), ("parent", ctypes.c_int32)]


FILE_RIGHTS = 0x1C007
"""Those of Landlock's rights that a rule on something other than a directory may name."""


def landlock(  # noqa: PLR0913, PLR0917 - a ruleset's description, as the kernel has it
    fs: int, net: int, scoped: int, rules: "list[tuple[str, int]]", size: int, flags: int
) -> None:
    """
    Confine this thread to `rules` (path, access mask) for good.

    `size` is how much of the ruleset's description this kernel knows: 8, 16 or 24 bytes. A path
    that does not exist here, or leads through a link, grants nothing and is passed over.
    """
    ruleset = call(
        "landlock_create_ruleset", ctypes.byref(_RulesetAttr(fs, net, scoped)), c_size_t(size), 0
    )
    try:
        for path, access in rules:
            _add_rule(ruleset, path, access)
        call("landlock_restrict_self", ruleset, flags)
    finally:
        os.close(ruleset)


def _add_rule(ruleset: int, path: str, access: int) -> None:
    try:
        # Rules are made when a child is parked: by then a link in a shared folder may be a guest's.
        parent = openat2(-100, path.encode(), os.O_PATH, RESOLVE_NO_SYMLINKS)
    except OSError as exc:
        if exc.errno in {errno.ENOENT, errno.ELOOP}:
            return
        raise
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            access &= FILE_RIGHTS
        call("landlock_add_rule", ruleset, 1, ctypes.byref(_PathRule(access, parent)), 0)
    finally:
        os.close(parent)


def close_range(first: int, last: int = 0x7FFFFFFF) -> None:
    """Close every descriptor from `first` to `last`."""
    if first <= last:
        call("close_range", first, last, 0)


def signal_descriptor(number: int) -> int:
    """A descriptor that becomes readable when signal `number`, blocked, is pending."""
    mask = (ctypes.c_uint64 * 16)(1 << (number - 1))
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    return _check(_libc.signalfd(-1, ctypes.byref(mask), flags), "signalfd")


def clone_into(function: int, stack: int, flags: int) -> int:
    """A child that runs the machine code at `function` on `stack`, and no Python at all."""
    return _check(_libc.clone(function, stack, flags, None), "clone")


def flush_stdio() -> None:
    """fflush(NULL): what C code printed and did not flush."""
    _libc.fflush(None)


def private_memory(size: int) -> int:
    """The address of fresh memory that no forked child shares."""
    address = _libc.mmap(None, c_size_t(size), 0x3, 0x22, -1, 0)
    if address == ctypes.c_size_t(-1).value:
        _check(-1, "mmap")
    return int(address)


def executable_memory(code: bytes, room: int = 0) -> int:
    """`code` at the start of a page that can only be read and run, and `room` bytes behind it."""
    address = private_memory(PAGE + room)
    ctypes.memmove(address, code, len(code))
    _check(_libc.mprotect(c_void_p(address), c_size_t(PAGE), 0x5), "mprotect")
    return address
