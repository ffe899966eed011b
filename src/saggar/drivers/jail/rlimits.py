"""
Resource limits: what the kernel counts for each process, whatever else is there to count.

Most are the first line for what a cgroup does not know (open files, the length of a file). Those on
memory and on processes are the second line: they stop one process, or one user, where the first
line looks at the whole tree but only now and then.
"""

import math
from typing import Final

from saggar.model.limits import Limits

CPU, FSIZE, DATA, STACK, CORE, NPROC, NOFILE, MEMLOCK, AS = 0, 1, 2, 3, 4, 6, 7, 8, 9
SIGPENDING, MSGQUEUE, NICE, RTPRIO = 11, 12, 13, 14
"""The same on x86-64 and aarch64, and not all of them known to Python's own `resource`."""

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_STACK: Final = 8 * _MIB

# Address space is cheap and much is reserved that is never used: threads, arenas, libraries that
# map gigabytes. Enough for those, and an end for what is shared and counted nowhere else.
_RESERVED: Final = 4 * _GIB

# A cgroup must be the first to refuse, because it is the one that counts refusals.
_BEHIND_CGROUP: Final = 64

Rlimit = tuple[int, int, int]


def _same(resource: int, value: int) -> Rlimit:
    return (resource, value, value)


FIXED: Final = (
    _same(CORE, 0),
    _same(MEMLOCK, 64 * _KIB),
    _same(MSGQUEUE, 0),
    _same(SIGPENDING, 1024),
    _same(NICE, 0),
    _same(RTPRIO, 0),
)
"""What no task has a say in: set once, on the fork server, for all its children."""


def rlimits(
    limits: Limits,
    *,
    memory_enforced: bool,
    processes_enforced: bool,
    own_uid: bool = True,
    gpu: bool = False,
) -> tuple[Rlimit, ...]:
    """
    Resource, soft and hard limit of all that a task has a say in; `FIXED` is the rest.

    `memory_enforced` and `processes_enforced` say whether a cgroup keeps these limits. Without a
    user id (or a user namespace) of its own, processes cannot be counted this way: the count would
    be that of everything its user runs. With a `gpu` there is no limit on address space: its driver
    takes as much of it as all memory of the machine and its cards together.

    A hard limit cannot be raised: whoever sets these takes the lower of it and the inherited one.
    """
    found = [
        *_time(limits),
        _stack(limits),
        _same(FSIZE, limits.file_size),
        _same(NOFILE, limits.open_files),
    ]
    if not memory_enforced:
        found += [one for one in _memory(limits) if one[0] != AS or not gpu]
    if own_uid:
        # Counts the process that is the task itself; pid 1 has another user id.
        spare = _BEHIND_CGROUP if processes_enforced else 0
        found.append(_same(NPROC, limits.processes + spare))
    return tuple(found)


def _time(limits: Limits) -> list[Rlimit]:
    """SIGXCPU at the soft limit, which says what happened; SIGKILL a second later."""
    seconds = math.ceil(limits.cpu)
    return [(CPU, seconds, seconds + 1)]


def _stack(limits: Limits) -> Rlimit:
    """A deep recursion may grow its stack to its memory."""
    return (STACK, _STACK, max(_STACK, limits.memory))


def _memory(limits: Limits) -> list[Rlimit]:
    """
    Where only a watchdog measures memory: how far one process comes between two looks.

    DATA is all that is private and writable, used or not, so twice the limit: a program that goes
    over is seen and ended for it, rather than told that there is no more. AS is the only one that
    counts shared memory, and everything else besides.
    """
    return [_same(DATA, 2 * limits.memory), _same(AS, 2 * limits.memory + _RESERVED)]
