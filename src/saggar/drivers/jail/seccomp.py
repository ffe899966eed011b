"""
The system call filters: what the kernel refuses a guest before it looks at it.

Two of them. The outer one goes onto the fork server and denies what building inner walls never
needs; the inner one goes onto the guest and denies what its walls were built with as well. A call
that is known and not named here is allowed, a number that is not known does not exist.
"""

import errno
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import groupby
from typing import Final

from saggar.drivers.jail.bpf import (
    ARCHITECTURE,
    AT_LEAST,
    EQUALS,
    HAS_ANY,
    Decision,
    If,
    Span,
    argument,
    assemble,
    search,
)
from saggar.drivers.jail.syscall_table import NUMBERS

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000


def refuse(error: int) -> int:
    """The verdict by which a call fails with `error` and does nothing."""
    return 0x00050000 | error


ABSENT: Final = refuse(errno.ENOSYS)
FORBIDDEN: Final = refuse(errno.EPERM)
NO_FAMILY: Final = refuse(errno.EAFNOSUPPORT)
NO_NETLINK: Final = refuse(errno.EOPNOTSUPP)
NO_PROTOCOL: Final = refuse(errno.EPROTONOSUPPORT)
NO_OPTION: Final = refuse(errno.ENOPROTOOPT)

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32: Final = 0x40000000
_NO_CALL: Final = 0xFFFFFFFF
"""-1, with which some ask whether a filter is there. It has the bit of x32 and means no harm."""

# Absent rather than forbidden: whoever tries these has another way, and takes it on ENOSYS.
_ABSENT: Final = """
    io_uring_setup io_uring_enter io_uring_register
    clone3
    statmount listmount listns
    lsm_get_self_attr lsm_set_self_attr lsm_list_modules
    memfd_secret process_madvise process_mrelease cachestat
    io_setup io_destroy io_getevents io_submit io_cancel io_pgetevents
    uselib ustat sysfs _sysctl create_module get_kernel_syms query_module nfsservctl getpmsg putpmsg
    afs_syscall tuxcall security vserver epoll_ctl_old epoll_wait_old lookup_dcookie
    set_thread_area get_thread_area remap_file_pages
"""
"""
io_uring: a second door to most other calls, which no filter sees. clone3: its flags stand behind a
pointer. memfd_secret hides memory from whoever measures it, cachestat tells what others have read
of a shared file. io_setup takes from one quota of the whole machine. The rest is gone from Linux
or from use.
"""

_FORBIDDEN: Final = """
    bpf perf_event_open userfaultfd
    keyctl add_key request_key
    ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd
    open_by_handle_at fanotify_init fanotify_mark
    kexec_load kexec_file_load init_module finit_module delete_module reboot
    swapon swapoff acct quotactl quotactl_fd syslog vhangup
    settimeofday clock_settime clock_adjtime adjtimex
    iopl ioperm modify_ldt
    move_pages migrate_pages mbind set_mempolicy set_mempolicy_home_node
    chroot sync syncfs
"""
"""sync and syncfs write out what everybody else on the machine has not yet written."""

_BUILDING_ABSENT: Final = """
    open_tree open_tree_attr move_mount mount_setattr fsopen fsconfig fsmount fspick
"""

_BUILDING: Final = """
    mount umount2 pivot_root setns unshare
    sched_setaffinity
"""
"""Walls are built with these. The cores too: where no cgroup keeps the share, they keep it."""

# Both keep memory that no process need have mapped.
_UNSEEN: Final = "memfd_create shmget"

_BY_PATH: Final = """
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat
    utime utimes futimesat utimensat
    setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat
    file_setattr truncate
    inotify_init inotify_init1 inotify_add_watch
"""
"""Landlock does not see these, or not in its first versions (truncate), wherever a path leads."""

_BY_USER: Final = """
    shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    sched_setscheduler sched_setparam sched_setattr ioprio_set
"""
"""What reaches any process of the same user, where no namespace stands between."""

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM, _PACKETS = 1, 2, 5
_TYPE: Final = argument(1, 0xF)
_TCP, _UDP = 6, 17
_LEVELS: Final = (0, 41)  # IPPROTO_IP, IPPROTO_IPV6
_NETFILTER: Final = 64

# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_CLONE_NEW: Final = 0x7E020000
# A sibling instead of a child would be the fork server's to reap, not the guest's.
_CLONE_PARENT: Final = 0x8000

_TTY: Final = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD


_SET_ID: Final = 0o6000
_CREATES: Final = 0o100 | 0o20000000
"""O_CREAT and the bit of O_TMPFILE: without them a mode is not looked at, and may be anything."""
_WATCHING: Final = (1024, 1026)
"""F_SETLEASE and F_NOTIFY."""


def _one_of(word_index: int, values: tuple[int, ...], yes: Decision, no: Decision) -> Decision:
    """`yes` where the argument is one of `values`."""
    for value in reversed(values):
        no = If(argument(word_index), EQUALS, value, yes, no)
    return no


def _typed(types: Mapping[int, Decision]) -> Decision:
    """A decision by the type of a socket, its flags aside; every other type is raw, or as bad."""
    decision: Decision = FORBIDDEN
    for number, then in types.items():
        decision = If(_TYPE, EQUALS, number, then, decision)
    return decision


_LOCAL: Final = _typed(dict.fromkeys((_STREAM, _DATAGRAM, _PACKETS), ALLOW))
# Connected for good. A pair of datagram sockets is not: each may still send to any path.
_TIED: Final = _typed(dict.fromkeys((_STREAM, _PACKETS), ALLOW))
# Each other protocol is another piece of kernel, loaded when the first socket asks for it.
_INTERNET: Final = _typed(
    {
        _STREAM: _one_of(2, (0, _TCP), ALLOW, NO_PROTOCOL),
        _DATAGRAM: _one_of(2, (0, _UDP), ALLOW, NO_PROTOCOL),
    }
)


def _families(families: Mapping[int, Decision]) -> Decision:
    """A decision by the family of a socket."""
    decision: Decision = NO_FAMILY
    for number, then in families.items():
        decision = If(argument(0), EQUALS, number, then, decision)
    return decision


_LOCAL_ONLY: Final = _families({_AF_UNIX: _LOCAL})
# Where there is a network, its interfaces are asked for by netlink. libzmq, of which xeus is made,
# goes on without an answer after this error, and aborts its process after any other one.
_INTERNETS: Final = {_AF_INET: _INTERNET, _AF_INET6: _INTERNET}
_NETWORKED: Final = {**_INTERNETS, _AF_NETLINK: NO_NETLINK}
_INTERNET_ONLY: Final = _families(_NETWORKED)
_ALL_SOCKETS: Final = _families({**_NETWORKED, _AF_UNIX: _LOCAL})
# On the landlock rung no unix sockets but pairs, not even with the host's network: a path to one is
# not Landlock's business before its ninth version, and a container engine listens on such a path.
# The price: managers of multiprocessing, X clients, whatever else listens on a path.
_SOCKETS: Final[Mapping[tuple[str, str], Decision]] = {
    ("jail", "none"): _LOCAL_ONLY,
    ("jail", "loopback"): _ALL_SOCKETS,
    ("jail", "host"): _ALL_SOCKETS,
    # With the host's network come the names of its sockets, which no namespace else keeps apart.
    ("container", "none"): _LOCAL_ONLY,
    ("container", "loopback"): _ALL_SOCKETS,
    ("container", "host"): _INTERNET_ONLY,
    ("landlock", "none"): NO_FAMILY,
    ("landlock", "loopback"): NO_FAMILY,
    ("landlock", "host"): _INTERNET_ONLY,
}
# From 64 up lie the packet filter's tables, on any socket of the family.
_OPTION: Final = _one_of(1, _LEVELS, If(argument(2), AT_LEAST, _NETFILTER, NO_OPTION, ALLOW), ALLOW)


def _all(names: str, verdict: int) -> dict[str, Decision]:
    return dict.fromkeys(names.split(), verdict)


def outer_policy() -> dict[str, Decision]:
    """What the fork server is refused, by the name of the call; all else is allowed."""
    return {
        **_all(_ABSENT, ABSENT),
        **_all(_FORBIDDEN, FORBIDDEN),
        # 0 is what everybody has, all ones only asks.
        "personality": _one_of(0, (0, 0xFFFFFFFF), ALLOW, FORBIDDEN),
        "socket": _families({**_INTERNETS, _AF_UNIX: _LOCAL}),
        "socketpair": _LOCAL_ONLY,
        "setsockopt": _OPTION,
        "getsockopt": _OPTION,
    }


def inner_policy(
    network: str, rung: str, *, memory_enforced: bool = True, shares: bool = False
) -> dict[str, Decision]:
    """
    The same for a guest on `rung` ("jail", "container", "landlock") with `network` as a policy
    names it.

    `memory_enforced` says whether a cgroup counts memory. Whoever adds up what processes have
    mapped does not see what is kept in a file or a segment that nobody maps. `shares` says whether
    it writes to folders of the host's.
    """
    if (rung, network) not in _SOCKETS:
        raise ValueError(f"no filter for a rung named {rung!r} with a network named {network!r}")
    policy = {
        **outer_policy(),
        **_all(_BUILDING_ABSENT, ABSENT),
        **_all(_BUILDING, FORBIDDEN),
        "clone": If(argument(0), HAS_ANY, _CLONE_NEW | _CLONE_PARENT, FORBIDDEN, ALLOW),
        "ioctl": _one_of(1, _TTY, FORBIDDEN, ALLOW),
        "socket": _SOCKETS[rung, network],
        # Their quota is the host user's, and they tell what others open in the folders we share.
        **_all("inotify_init inotify_init1 inotify_add_watch", FORBIDDEN),
        "fcntl": _one_of(1, _WATCHING, FORBIDDEN, ALLOW),
    }
    if not memory_enforced:
        policy |= _all(_UNSEEN, ABSENT)
    if (rung, network) == ("container", "host"):
        policy["socketpair"] = _families({_AF_UNIX: _TIED})
    if shares:
        policy |= _without_owners_power()
    return policy | _without_namespaces() if rung == "landlock" else policy


def _without_owners_power() -> dict[str, Decision]:
    """
    No program that runs as its owner, for whoever calls it on the host: the owner is our user.

    openat2 keeps the mode behind a pointer; programs that know it fall back to openat.
    """

    def mode(word: int) -> Decision:
        return If(argument(word), HAS_ANY, _SET_ID, FORBIDDEN, ALLOW)

    def opened(flags: int) -> Decision:
        return If(argument(flags), HAS_ANY, _CREATES, mode(flags + 1), ALLOW)

    return {
        **dict.fromkeys(("chmod", "fchmod", "creat", "mknod"), mode(1)),
        **dict.fromkeys(("fchmodat", "fchmodat2", "mknodat"), mode(2)),
        "open": opened(1),
        "openat": opened(2),
        "openat2": ABSENT,
    }


def _without_namespaces() -> dict[str, Decision]:
    """What only a namespace would have kept apart from the rest of the host."""
    return {
        **_all(_BY_PATH, FORBIDDEN),
        **_all(_BY_USER, FORBIDDEN),
        "socketpair": _families({_AF_UNIX: _TIED}),
        "prlimit64": If(argument(0), EQUALS, 0, ALLOW, FORBIDDEN),
        # One process, and that oneself: the other two forms name groups and users.
        "setpriority": If(
            argument(0), EQUALS, 0, If(argument(1), EQUALS, 0, ALLOW, FORBIDDEN), FORBIDDEN
        ),
    }


@cache
def outer_filter(machine: str) -> bytes:
    """The fork server's filter, as an array of `struct sock_filter`."""
    return _program(machine, outer_policy())


@cache
def inner_filter(
    machine: str, network: str, rung: str, *, memory_enforced: bool = True, shares: bool = False
) -> bytes:
    """The guest's filter, as an array of `struct sock_filter`."""
    policy = inner_policy(network, rung, memory_enforced=memory_enforced, shares=shares)
    return _program(machine, policy)


def _program(machine: str, policy: Mapping[str, Decision]) -> bytes:
    """Another architecture has other numbers; a process that changes it means no good."""
    if machine not in _ARCHITECTURES:
        raise ValueError(f"no filter for {machine}; there are: {', '.join(_ARCHITECTURES)}")
    tree = search(tuple(spans(machine, policy)))
    return assemble(If(ARCHITECTURE, EQUALS, _ARCHITECTURES[machine], tree, KILL))


def spans(machine: str, policy: Mapping[str, Decision]) -> Iterator[Span]:
    """Every call number of `machine` in order, those that are decided alike together."""
    known = {number: policy.get(name, ALLOW) for name, number in NUMBERS[machine].items()}
    highest = max(known)
    numbers = ((number, known.get(number, ABSENT)) for number in range(highest + 1))
    for decision, group in groupby(numbers, key=lambda pair: pair[1]):
        members = [number for number, _ in group]
        yield Span(members[0], len(members), decision)
    if machine != "x86_64":
        yield Span(highest + 1, _NO_CALL - highest, ABSENT)
        return
    yield Span(highest + 1, _X32 - highest - 1, ABSENT)
    yield Span(_X32, _NO_CALL - _X32, KILL)
    yield Span(_NO_CALL, 1, ABSENT)
