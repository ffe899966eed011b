"""
Control groups: caps and meters for everything one sandbox starts, kept by the kernel.

On the path of every run, so groups are used again, files stay open and a limit is written only
when it changes. A controller that cannot be used is no error but a finding, with its reason.

Memory is what the kernel charges to the group, and the limit is held against the same number: the
processes' own pages, but also their tmpfs files, kernel memory, the page cache of files they were
the first to read, and up to a quarter of a megabyte per core that is charged ahead.
"""

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

from saggar.drivers.jail.controllers import (
    ClockV1,
    ClockV2,
    File,
    MemoryV1,
    MemoryV2,
    Part,
    Pids,
    ShareV1,
    ShareV2,
)
from saggar.drivers.jail.hierarchies import RECIPES, Finding, Place, find, refusal
from saggar.drivers.treewatch import life

NEEDS = MappingProxyType(
    {"memory": "memory", "processes": "pids", "cpu_share": "cpu", "cpu": "cpuacct"}
)
"""The controller behind each limit."""

POOLED = 64
"""Empty groups kept for use."""

OPEN = 32
"""Groups that keep their files open; more would eat a default limit of 1,024 descriptors."""

_NAME = re.compile(r"saggar-(\d+)-(\d+)-\d+")
_numbers = itertools.count()


class Meter(NamedTuple):
    """What a group has used since it was taken; None where there is no controller to ask."""

    cpu: float | None
    """Seconds."""
    memory: int | None
    """Peak bytes."""
    current: int | None
    """Bytes now."""
    oom_kills: int
    refused_forks: int


class Cgroups:
    """
    The groups of this process, made below its own and used again.

    Safe for threads. A forked child discovers its own; what it still does with these changes
    nothing but its own open files (`forget` closes them all).
    """

    def __init__(self, places: Mapping[str, Place], supports: Mapping[str, Finding]) -> None:
        self.supports = supports
        """What each limit in NEEDS can count on here."""
        # The one with the pids first: whoever is in any hierarchy's group is then in that one's.
        self._places = dict(sorted(places.items(), key=lambda item: item[0] != "pids"))
        self._bases = tuple(dict.fromkeys(place.base for place in self._places.values()))
        self._pid = os.getpid()
        self._holder = f"saggar-{self._pid}-{_started(self._pid)}"
        self._made: set[Cgroup] = set()
        self._pool: list[Cgroup] = []
        self._leaving: list[str] = []
        self._room = POOLED

    @classmethod
    def discover(cls, own: Path | None = None, *, proc: Path = Path("/proc/self")) -> Self:
        """
        What can be used here, found by making a group and writing its limits.

        `own` names a version 2 group that was delegated to us, instead of the one we are in.
        """
        places: dict[str, Place] = {}
        supports: dict[str, Finding] = {}
        found = find(own, proc=proc)
        for limit, controller in NEEDS.items():
            place = found[controller]
            supports[limit] = _tried(controller, place) if isinstance(place, Place) else place
            if isinstance(place, Place) and supports[limit].enforced:
                places[controller] = place
        return cls(places, supports)

    @property
    def recipes(self) -> Mapping[str, str]:
        """What would make more of it work, by the kind of machine."""
        keys = dict.fromkeys(key for found in self.supports.values() for key in found.recipes)
        return {key: RECIPES[key] for key in keys}

    @property
    def hierarchies(self) -> int:
        """How many folders one group consists of, and so how many entrances it has."""
        return len(self._bases)

    def take(self) -> "Cgroup":
        """
        An empty group of one's own, until it is released.

        Raises:
            OSError: The kernel would not make one.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("these cgroups were made before a fork; the child discovers its own")
        try:
            return self._pool.pop().begin()
        except IndexError:
            return self._make()

    def sweep(self) -> int:
        """Remove what dead holders left, with the processes in it; how many groups."""
        leaked = [
            f"{base}/{name}"
            for base in self._bases
            for name in os.listdir(base)
            if (holder := _NAME.fullmatch(name)) and not _alive(*map(int, holder.groups()))
        ]
        leaked = [folder for folder in leaked if _emptied(folder)]
        left = _remove(leaked, patience=1)
        return len(set(map(os.path.basename, leaked)) - set(map(os.path.basename, left)))

    def close(self) -> None:
        """Remove the pooled groups; those still taken follow when they are released."""
        if os.getpid() != self._pid:
            self.forget()
        self._room = 0
        while self._pool:
            self._retire(self._pool.pop())
        self._leaving = _remove(self._leaving, patience=0.2)

    def forget(self) -> None:
        """Close every file and touch no group: for a forked child, whose they are not."""
        self._room = 0
        self._pool.clear()
        self._leaving.clear()
        while self._made:
            self._made.pop().close()

    def _make(self) -> "Cgroup":
        name = f"{self._holder}-{next(_numbers)}"
        try:
            for base in self._bases:
                os.mkdir(f"{base}/{name}", 0o755)
            group = Cgroup(name, self._places, self._give_back, keep=len(self._made) < OPEN)
        except OSError:
            _remove([f"{base}/{name}" for base in self._bases])
            raise
        self._made.add(group)
        return group

    def _give_back(self, group: "Cgroup") -> None:
        if os.getpid() != self._pid:
            group.close()
        elif group.vacate() and len(self._pool) < self._room:
            self._pool.append(group)
        else:
            self._retire(group)

    def _retire(self, group: "Cgroup") -> None:
        self._made.discard(group)
        group.close()
        # A folder whose last process is not quite dead is busy; the next to retire tries again.
        waiting, self._leaving = self._leaving, []
        self._leaving += _remove([*waiting, *group.folders])


class Cgroup:
    """A folder in each hierarchy; what is in it is limited, metered and killed as one."""

    def __init__(
        self,
        name: str,
        places: Mapping[str, Place],
        give_back: Callable[["Cgroup"], None],
        *,
        keep: bool,
    ) -> None:
        at = {controller: f"{place.base}/{name}" for controller, place in places.items()}
        old = {controller for controller, place in places.items() if place.version == 1}
        self.folders = tuple(dict.fromkeys(at.values()))
        self._give_back = give_back
        self._taken = self._sound = True
        self._procs = [File(f"{path}/cgroup.procs", os.O_RDWR, keep=keep) for path in self.folders]
        self._entrances: tuple[int, ...] = ()
        self._memory: MemoryV1 | MemoryV2 | None = None
        self._pids: Pids | None = None
        self._share: ShareV1 | ShareV2 | None = None
        self._clock: ClockV1 | ClockV2 | None = None
        if "memory" in at:
            self._memory = (MemoryV1 if "memory" in old else MemoryV2)(at["memory"], keep=keep)
        if "pids" in at:
            self._pids = Pids(at["pids"], keep=keep)
        if "cpu" in at:
            self._share = (ShareV1 if "cpu" in old else ShareV2)(at["cpu"])
        if "cpuacct" in at:
            self._clock = (ClockV1 if "cpuacct" in old else ClockV2)(at["cpuacct"], keep=keep)
        parts = (self._memory, self._pids, self._clock)
        self._parts: list[Part] = [part for part in parts if part is not None]

    def begin(self) -> Self:
        """Mark it as somebody's."""
        self._taken = True
        return self

    def admit(self, pid: int) -> None:
        """
        Move a process in; what it starts from now on is in, too.

        May wait 10 to 20 ms in the kernel, for a grace period of RCU, when no process was moved
        for a while: see `entrances`, or call it in a thread.

        Raises:
            ProcessLookupError: It is dead.
        """
        if pid <= 0:
            raise ValueError(f"{pid} is no process; the kernel takes 0 for ourselves")
        for procs in self._procs:
            procs.write(b"%d" % pid)

    def entrances(self) -> tuple[int, ...]:
        """
        Descriptors through which a process of one thread goes in by itself: it writes b"0" to each.

        In version 1 that spares the wait of `admit`. Ours to close; a copy that user code could
        reach must not be left in the process.
        """
        if not self._entrances:
            self._entrances = tuple(map(_entrance, self.folders))
        return self._entrances

    def limit(self, *, memory: int, processes: int, cpu_share: float) -> None:
        """
        Hold it to bytes, processes and threads, and cores' worth of processor time.

        Raises:
            OSError: Already more is used than that, or the kernel refuses.
        """
        self._sound = False
        if self._memory:
            self._memory.limit(memory)
        if self._pids:
            self._pids.limit(processes)
        if self._share:
            self._share.limit(cpu_share)
        self._sound = True

    def reading(self) -> Meter:
        """What was used since it was taken."""
        memory, pids, clock = self._memory, self._pids, self._clock
        return Meter(
            cpu=clock.seconds() if clock else None,
            memory=memory.peak() if memory else None,
            current=memory.current() if memory else None,
            oom_kills=memory.kills() if memory else 0,
            refused_forks=pids.refused() if pids else 0,
        )

    def processes(self) -> int:
        """How many processes and threads are in it."""
        return self._pids.current() if self._pids else len(_members(self._procs[0]))

    def kill(self) -> None:
        """SIGKILL to all of it, what is being forked included; does not wait for the last one."""
        if self._pids:
            # Whatever forks faster than we look is refused from here on.
            self._pids.limit(0)
        for folder, procs in zip(self.folders, self._procs, strict=True):
            _kill(folder, procs)

    def release(self) -> None:
        """Give it back, best when nothing in it is alive: what still is, is killed."""
        if self._taken:
            self._taken = False
            self._give_back(self)

    def vacate(self) -> bool:
        """Make it as new; False when that is not possible, or not yet."""
        if self._procs and self.processes():
            self.kill()
        return self._sound and all(part.settle() for part in self._parts)

    def close(self) -> None:
        """Close every file."""
        for fd in self._entrances:
            os.close(fd)
        self._entrances = ()
        for procs in self._procs:
            procs.close()
        for part in self._parts:
            part.close()


def _tried(controller: str, place: Place) -> Finding:
    """Make a group there and write its limits: only that tells."""
    groups = Cgroups({controller: place}, {})
    try:
        group = groups.take()
        try:
            group.limit(memory=1 << 30, processes=1024, cpu_share=0.5)
            group.reading()
        finally:
            group.release()
    except OSError as exc:
        return refusal(exc, place)
    finally:
        groups.close()
    kept = "cpu.stat" if place.version == 2 and controller == "cpuacct" else controller
    return Finding(enforced=True, how=f"cgroup v{place.version} {kept} in {place.base}")


def _entrance(folder: str) -> int:
    tasks = f"{folder}/tasks"
    path = tasks if os.path.exists(tasks) else f"{folder}/cgroup.procs"
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def _members(procs: File) -> list[int]:
    """Who is in it. A member our pid namespace does not see reads as 0, and kill(0) is us."""
    text = b""
    while more := procs.read(len(text)):
        text += more
    return [int(pid) for pid in text.split() if pid != b"0"]


def _kill(folder: str, procs: File) -> None:
    try:
        File(f"{folder}/cgroup.kill", os.O_WRONLY, keep=False).write(b"1")
        return
    except FileNotFoundError:
        pass  # version 1, or before Linux 5.14
    done: set[int] = set()
    for _ in range(256):
        fresh = set(_members(procs)) - done
        for pid in fresh:
            # A number is not given out again within the moment since we read it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not fresh:
            return
        done |= fresh


def _emptied(folder: str) -> bool:
    """Kill who is in a folder; False when it belongs to another pid namespace, and so lives."""
    procs = File(f"{folder}/cgroup.procs", keep=False)
    try:
        if b"0" in procs.read().split():
            return False
        _kill(folder, procs)
    except FileNotFoundError:
        return False
    return True


def _remove(folders: Iterable[str], patience: float = 0) -> list[str]:
    """Remove folders; those that are still busy, after so many seconds."""
    deadline = time.monotonic() + patience
    while folders := [folder for folder in folders if not _removed(folder)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.002)
    return folders


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _alive(pid: int, started: int) -> bool:
    now = life(pid)
    if now is not None:
        return now.started == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True  # it lives, and /proc does not tell us since when


def _started(pid: int) -> int:
    now = life(pid)
    return now.started if now else 0
