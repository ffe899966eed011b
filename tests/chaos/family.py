"""Whose processes are whose: everything that this process, or a process of it, ever started."""

import ctypes
import os
import select
import time
from contextlib import ExitStack, suppress
from typing import Self

PATIENCE = 2.0
"""Seconds within which the processes of a host must be gone after its end."""


class Family:
    """
    The living descendants of this process.

    While it lasts this process takes in orphans, so that nobody is lost by his parent's death.
    """

    def __enter__(self) -> Self:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        self._orphans: set[int] = set()
        self._before = self.alive()
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._orphans:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)

    def alive(self) -> set[int]:
        """Descendants that are no zombies."""
        parents = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError), open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents[int(name)] = int(parent)
        mine = {pid for pid in parents if os.getpid() in _ancestors(pid, parents)}
        # Whoever once had another parent is ours to bury; our own children are waited for.
        self._orphans |= {pid for pid in mine if parents[pid] != os.getpid()}
        return mine

    def new(self) -> list[int]:
        """Those that were not there at the beginning, the oldest first."""
        return sorted(self.alive() - self._before)

    def send(self, number: int, place: int) -> None:
        """A signal to the one at this place, the oldest first, or to who is alive near it."""
        while present := self.new():
            # Who was on his way out may be gone by now.
            with suppress(ProcessLookupError):
                os.kill(present[place % len(present)], number)
                return

    def send_all(self, number: int) -> None:
        """A signal to every new one that is still there."""
        for pid in self.new():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def left(self, within: float = PATIENCE) -> list[str]:
        """New ones that do not end in time, by their command lines."""
        end = time.monotonic() + within
        while (found := self.new()) and time.monotonic() < end:
            _wait_for_any(found, end)
        return [f"{pid} {_command(pid)}" for pid in found]


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while pid in parents:
        pid = parents[pid]
        found.add(pid)
    return found


def _command(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
        return file.read().replace("\0", " ")[:120]
    return "?"


def _wait_for_any(pids: list[int], end: float) -> None:
    watched = select.poll()
    with ExitStack() as opened:
        for pid in pids:
            with suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                opened.callback(os.close, fd)
                watched.register(fd, select.POLLIN)
        watched.poll(min(100, max(0, 1000 * (end - time.monotonic()))))
