"""
A process tree weighed through /proc, where no control group is writable.

A lesser guarantee than a control group, and said so in the driver's Capabilities: it samples. What
is born and dies between two looks is seen only through the times its parent was handed, and
memory that no process maps (an unmapped memfd, files on a tmpfs) is not seen at all; the size of
the writable file systems is what bounds that.

Memory is the sum of Pss, not of Rss. Every sandboxed process is a fork of one server and shares
its pages until it writes to them; Rss counts those pages once per child, so forty idle children
of a 12 MB server would look like half a gigabyte. Pss divides each page by those who map it.
"""

import os
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

MOST = 4096
"""Processes looked at in one reading; a bigger tree is far past any limit already."""

ROUNDS = 256
"""Looks for newcomers while a tree is stopped; what forks faster than that has its limit."""

_TICKS = os.sysconf("SC_CLK_TCK")
# Positions behind the command name in /proc/<pid>/stat; the first one there is field 3.
_PARENT, _OWN, _REAPED, _STARTED = 1, slice(11, 13), slice(13, 15), 19


class Weight(NamedTuple):
    """What a tree weighs, all of it lower bounds but `memory` where only the fallback was left."""

    cpu: float
    memory: int
    peak: int
    processes: int


class Life(NamedTuple):
    """One process from its first moment on: enough to know it again, and what it has used."""

    started: int
    """Clock ticks since boot. With the number it names a process for ever; the number alone not."""
    parent: int
    own: float
    """Processor seconds of its own."""
    reaped: float
    """Processor seconds of the children it has waited for, theirs included."""


def life(pid: int) -> Life | None:
    """What /proc/<pid>/stat says, or None when there is no such process (for us to see)."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    # The name may hold spaces and brackets: only the last bracket ends it.
    fields = text[text.rindex(b")") + 2 :].split()
    return Life(
        started=int(fields[_STARTED]),
        parent=int(fields[_PARENT]),
        own=sum(map(int, fields[_OWN])) / _TICKS,
        reaped=sum(map(int, fields[_REAPED])) / _TICKS,
    )


class TreeWatch:
    """
    Weighs the processes at and below some roots, again and again.

    A process seen once stays watched when its parent dies and it is handed to another one. One that
    loses its parent between two looks is found if it went to one of the `adopters`, which are not
    watched themselves: the pid 1 of a sandbox, say. A look
    costs some 0.2 ms per process of 12 MB, nearly all of it the kernel's walk for Pss: space them.

    Where the kernel lists nobody's children (or `scan` says so), each look walks all of /proc.
    """

    def __init__(
        self, roots: Sequence[int], *, adopters: Sequence[int] = (), scan: bool = False
    ) -> None:
        self._seen = _alive(roots)
        self._adopters = _alive(adopters)
        self._scan = scan or not os.path.exists("/proc/thread-self/children")
        self._gone = 0.0
        self._cpu = 0.0
        self._peak = 0

    def reading(self) -> Weight:
        """
        The tree as it is now; a process that dies meanwhile counts as far as it was read.

        `memory` is Pss plus swap from smaps_rollup. Where a process does not let that be read
        (another user's, or one that is not dumpable), it is RssAnon + RssShmem from its status,
        which overstates a child by what it still shares with the fork server.
        """
        alive = _alive(self._pids())
        memory = sum(map(_memory, alive))
        self._cpu = max(self._cpu, self._spent(alive))
        self._peak = max(self._peak, memory)
        self._seen = alive
        return Weight(self._cpu, memory, self._peak, len(alive))

    @staticmethod
    def first(pid: int) -> tuple[float, int | None]:
        """
        Processor seconds and peak resident bytes of one process, for the quick end of a run.

        The seconds include children it has waited for; the peak is its own alone, counts pages
        shared with the fork server, and is None once the process is dead.
        """
        now = life(pid)
        peak = _kibibytes(_read(f"/proc/{pid}/status"), b"\nVmHWM:")
        return (now.own + now.reaped if now else 0.0), peak or None

    def signal(self, number: int) -> None:
        """To every process of the tree, and to those that are born until it has reached them."""
        reached: dict[int, int] = {}
        for _ in range(ROUNDS):
            alive = _alive(self._pids())
            self._seen = alive
            fresh = {pid: now for pid, now in alive.items() if reached.get(pid) != now.started}
            if not fresh:
                return
            for pid, now in fresh.items():
                _signal(pid, now.started, number)
                reached[pid] = now.started

    def _spent(self, alive: dict[int, Life]) -> float:
        # Two lower bounds. A parent that ignores SIGCHLD is never handed its children's times, so
        # the last look at the dead must be kept; what lived and died between two looks is only in
        # what its parent was handed. Adding both would count some processes twice.
        self._gone += sum(
            past.own
            for pid, past in self._seen.items()
            if pid not in alive or alive[pid].started != past.started
        )
        looked_at = sum(now.own for now in alive.values())
        return max(looked_at + self._gone, looked_at + sum(now.reaped for now in alive.values()))

    def _pids(self) -> set[int]:
        # A number seen before may be somebody else's by now.
        lives = _alive(self._seen)
        found = {pid for pid, now in lives.items() if now.started == self._seen[pid].started}
        children = _parents().get if self._scan else _children
        adopters = _alive(self._adopters)
        same = [p for p, now in adopters.items() if now.started == self._adopters[p].started]
        waiting = [*found, *same]
        while waiting:
            for child in children(waiting.pop()) or ():
                if child not in found and len(found) < MOST:
                    found.add(child)
                    waiting.append(child)
        return found


def _signal(pid: int, started: int, number: int) -> None:
    """To this very process, and to none that has its number by now."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            now = life(pid)
            if now is not None and now.started == started:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _alive(pids: Iterable[int]) -> dict[int, Life]:
    return {pid: now for pid in pids if (now := life(pid)) is not None}


def _children(pid: int) -> list[int]:
    # One list per thread: a child belongs to the thread that forked it.
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [
        int(child)
        for thread in threads
        for child in _read(f"/proc/{pid}/task/{thread}/children").split()
    ]


def _parents() -> dict[int, list[int]]:
    """Everybody's children by one walk over /proc, for kernels without the children file."""
    below: dict[int, list[int]] = {}
    everybody = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    for pid, now in _alive(everybody).items():
        below.setdefault(now.parent, []).append(pid)
    return below


def _memory(pid: int) -> int:
    rollup = _read(f"/proc/{pid}/smaps_rollup")
    if rollup:
        return _kibibytes(rollup, b"\nPss:") + _kibibytes(rollup, b"\nSwapPss:")
    status = _read(f"/proc/{pid}/status")
    return _kibibytes(status, b"\nRssAnon:") + _kibibytes(status, b"\nRssShmem:")


def _kibibytes(text: bytes, label: bytes) -> int:
    rest = text.partition(label)[2]
    return int(rest.split(None, 1)[0]) << 10 if rest else 0


def _read(path: str) -> bytes:
    """The whole small file, or nothing: whoever it is about may be dead by now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        # A list of children comes a page at a time.
        return b"".join(iter(lambda: os.read(fd, 65536), b""))
    except OSError:
        return b""
    finally:
        os.close(fd)
