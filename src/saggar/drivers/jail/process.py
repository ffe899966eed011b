"""A child of a fork server, as the engine uses it: parked, claimed, measured, ended."""

import math
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from saggar.boundary import syscalls
from saggar.drivers.base import Exit, Reading, space_of
from saggar.drivers.jail.cgroups import Cgroup, Meter
from saggar.drivers.jail.rlimits import rlimits
from saggar.drivers.jail.server import Child, ForkServer
from saggar.drivers.treewatch import TreeWatch
from saggar.errors import SandboxBroken
from saggar.model.limits import Limits


@dataclass(frozen=True, slots=True)
class Space:
    """What the children of one fork server have in common."""

    rung: str
    environment: Mapping[str, str]
    site: tuple[str, ...]
    writable: tuple[int, int]
    """Bytes and inodes of the writable space a child is parked with."""
    own_uid: bool
    """Whether the kernel counts a child's processes apart from everybody else's."""
    kept: frozenset[str]
    """The limits that cgroups keep here: "memory", "processes", "cpu_share", "cpu"."""
    gpu: bool = False
    """Whether they see a GPU."""


_TURN = count()
NOTHING = Meter(None, None, None, 0, 0)


class JailProcess:
    """A tree behind a jail's walls: parked until it is claimed, then running its one task."""

    entrypoint: tuple[tuple[str, ...], str] | None = None

    def __init__(
        self, server: ForkServer, child: Child, cgroup: Cgroup | None, space: Space
    ) -> None:
        self._server = server
        self._child = child
        self._handles = child.handles()
        self._cgroup = cgroup
        self._used: Meter | None = None
        """What its cgroup counted, once that is given back: whoever has it next counts anew."""
        if cgroup is not None and child.on_end is not None:
            child.on_end = partial(self._given_back, cgroup, child.on_end)
        self._space = space
        self._released = False
        self.isolation = space.rung
        self.cwd, self.site = child.cwd, space.site
        self.environment = {**space.environment, "HOME": child.cwd}
        if self._handles.init < 0:
            self.environment["TMPDIR"] = os.path.join(os.path.dirname(child.cwd), "tmp")
        self.stdin, self.stdout = self._handles.stdin, self._handles.stdout
        self.stderr, self.work = self._handles.stderr, self._handles.work
        self.exited = self._handles.process
        for fd in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)
        self._pid = pid_of(self._handles.process)
        self._watch: TreeWatch | None = None
        self._cpu, self._peak = 0.0, 0  # what the watch has seen of the whole tree
        self.rlimits: tuple[tuple[int, int, int], ...] = ()
        # Last: whatever fails before it leaves nothing that is ours to close.
        self.channel = socket.socket(fileno=os.dup(self._handles.channel))
        self.channel.setblocking(False)

    def _given_back(self, cgroup: Cgroup, release: Callable[[], None]) -> None:
        """All of it is dead before it was released: its first process was killed for memory."""
        if not self._released:
            with suppress(OSError):
                self._used = cgroup.reading()
        release()

    def claim(self, limits: Limits) -> None:
        """Narrow it to `limits`: the cgroup and the disk now, the rest is the runner's."""
        kept = self._space.kept
        if self._cgroup is not None:
            self._cgroup.limit(
                memory=limits.memory, processes=limits.processes, cpu_share=limits.cpu_share
            )
        if "cpu_share" not in kept:
            self._pin(limits.cpu_share)
        if self._handles.space >= 0 and (limits.disk, limits.inodes) != self._space.writable:
            syscalls.resize(self._handles.space, size=limits.disk, inodes=limits.inodes)
        self.rlimits = rlimits(
            limits,
            memory_enforced="memory" in kept,
            processes_enforced="processes" in kept,
            own_uid=self._space.own_uid,
            gpu=self._space.gpu,
        )

    def _pin(self, share: float) -> None:
        """Without a cgroup a share of whole cores is kept by naming them; the filter seals it."""
        cores = sorted(os.sched_getaffinity(0))
        if share < len(cores):
            start = next(_TURN)
            chosen = {cores[(start + n) % len(cores)] for n in range(math.ceil(share))}
            try:
                os.sched_setaffinity(pid_of(self._handles.process), chosen)
            except ProcessLookupError as exc:
                raise SandboxBroken(str(exc)) from exc

    def close_stdin(self) -> None:
        """The end of the input."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = self._handles.stdin = -1

    def interrupt(self) -> None:
        """SIGINT to the first process."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handles.process, signal.SIGINT)

    def kill(self) -> None:
        """End the whole tree."""
        if not self._released:
            self._handles.kill()

    def read(self) -> Reading:
        """What the tree has used so far; by looking at every process where no cgroup counts."""
        if self._used is not None:
            return replace(self.first_read(), processes=0)
        if "memory" in self._space.kept and self._cgroup is not None:
            return replace(self.first_read(), processes=self._cgroup.processes())
        seen, files = self._tree().reading(), self._files()
        self._peak = max(self._peak, seen.memory + files)
        self._cpu = max(self._cpu, seen.cpu)
        current = seen.memory + files
        return replace(self.first_read(), current=current, processes=seen.processes)

    def _tree(self) -> TreeWatch:
        if self._watch is None:
            self._watch = TreeWatch([self._pid], adopters=self._adopters())
        return self._watch

    def pause(self) -> None:
        """Stop every process of it where it is."""
        self._tree().signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._tree().signal(signal.SIGCONT)

    def _adopters(self) -> list[int]:
        """Orphans go to pid 1 of the sandbox, whose own memory is the fork server's."""
        if self._handles.init < 0:
            return []
        with suppress(ProcessLookupError):  # it is dead, and so are they
            return [pid_of(self._handles.init)]
        return []

    def _files(self) -> int:
        """Bytes in the writable space: memory as well, and mapped by nobody."""
        if self._handles.space < 0:
            return 0
        return space_of(self._handles.work)[0]

    def first_read(self) -> Reading:
        """The same as cheaply as possible: the cgroup's word, or the first process's own share."""
        used = self._used
        if used is None:
            used = self._cgroup.reading() if self._cgroup is not None else NOTHING
        cpu, memory = used.cpu, used.memory
        if cpu is None or memory is None:
            own_cpu, own_memory = TreeWatch.first(self._pid)
            cpu = max(own_cpu, self._cpu) if cpu is None else cpu
            memory = max(own_memory or 0, self._peak) or None if memory is None else memory
        return Reading(cpu, memory, used.current, None, used.oom_kills, used.refused_forks)

    def disk_full(self) -> bool:
        """Whether the writable space has no free block or inode left."""
        if self._handles.space < 0:
            return False
        space = os.fstatvfs(self._handles.work)
        return not space.f_bavail or not space.f_favail

    def space(self) -> tuple[int | None, int | None]:
        """Bytes and inodes used of the writable space; on the landlock rung it is the host's."""
        return space_of(self._handles.work) if self._handles.space >= 0 else (None, None)

    async def wait(self) -> Exit:
        """Until every process is dead."""
        return await self._child.wait()

    def release(self) -> None:
        """Kill what is left and close what we hold; the cgroup returns when the tree is dead."""
        if self._released:
            return
        self.kill()
        self._released = True
        self.channel.close()
        self._handles.close()
        self._server.release(self._child.serial, at_once=self._handles.space < 0)


def pid_of(pidfd: int) -> int:
    """The process behind a pidfd, by the number it has here; the kernel's word, not the guest's."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        numbers = [int(line.split()[1]) for line in file if line.startswith("Pid:")]
    if not numbers or numbers[0] <= 0:
        raise ProcessLookupError("the child died before it was claimed")
    return numbers[0]
