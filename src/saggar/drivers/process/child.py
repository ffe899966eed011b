"""
A child without walls, as the engine uses it: started, claimed, measured, ended.

The host speaks to its guardian only, which is its own child. The number of any other process is the
kernel's word.
"""

import errno
import math
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import anyio

from saggar.boundary import control as ctl
from saggar.drivers.base import Exit, Reading
from saggar.drivers.process.folders import remove
from saggar.drivers.treewatch import TreeWatch, life
from saggar.errors import SandboxBroken
from saggar.model.limits import Limits
from saggar.model.policy import Rung

BIRTH = 10.0
"""Seconds an interpreter may take to start; on a loaded machine it takes tenths."""
FAREWELL = 5.0
"""Seconds a guardian may take to end its program and itself before it is killed."""
UNHEARD = Exit(None, signal.SIGKILL)
"""A guardian was killed before it could tell of the end; the first process goes with it."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a program works, and what it finds there."""

    folder: str
    """Removed in the end, with everything below it."""
    work: str
    environment: Mapping[str, str]
    site: tuple[str, ...]


def environment_variables(interpreter: str, work: str, temporary: str) -> dict[str, str]:
    """What every program finds in its environment: nothing of the host's."""
    path = [os.path.dirname(interpreter), "/usr/local/bin", "/usr/bin", "/bin"]
    return {
        "HOME": work,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "PATH": ":".join(dict.fromkeys(path)),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TMPDIR": temporary,
    }


def rlimits(limits: Limits) -> tuple[tuple[int, int, int], ...]:
    """
    Resource, soft and hard limit, for the first process and all that inherit them.

    Twice the memory for one process: what goes over is seen by the look at the tree and ended for
    it, rather than told that there is no more.
    """
    seconds = math.ceil(limits.cpu)
    found = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),  # SIGXCPU says what happened, SIGKILL does not
        resource.RLIMIT_FSIZE: (limits.file_size, limits.file_size),
        resource.RLIMIT_NOFILE: (limits.open_files, limits.open_files),
        resource.RLIMIT_CORE: (0, 0),
    }
    if sys.platform == "linux":  # elsewhere it does not count what is mapped
        found[resource.RLIMIT_DATA] = (2 * limits.memory, 2 * limits.memory)
    return tuple((number, *pair) for number, pair in found.items())


def lists_children() -> bool:
    """Whether the kernel says whose child a process is: a tree can be measured, and ended."""
    return os.path.exists("/proc/thread-self/children")


class BareProcess:
    """A program's first process with its guardian, and the host's ends of what leads to them."""

    isolation = Rung.PROCESS.value
    entrypoint: tuple[tuple[str, ...], str] | None = None

    def __init__(
        self,
        guardian: "subprocess.Popen[bytes]",
        control: socket.socket,
        channel: socket.socket,
        work: int,
        surroundings: Surroundings,
    ) -> None:
        self._guardian, self._control = guardian, control
        pipes = (guardian.stdin, guardian.stdout, guardian.stderr)
        self._pipes = [pipe for pipe in pipes if pipe is not None]
        self._folder = surroundings.folder
        self.channel, self.work, self.exited = channel, work, control.fileno()
        self.stdin, self.stdout, self.stderr = (pipe.fileno() for pipe in self._pipes)
        for fd in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)
        self.cwd, self.site = surroundings.work, surroundings.site
        self.environment = surroundings.environment
        self.rlimits: tuple[tuple[int, int, int], ...] = ()
        self.ended, self.released = anyio.Event(), anyio.Event()
        self._exit = UNHEARD
        self._first: int | None = None
        self._watch: TreeWatch | None = None
        self._peak = 0

    async def stand(self) -> None:
        """Until it waits for its task. SandboxBroken if it does not come to that; says why."""
        with anyio.move_on_after(BIRTH):
            await anyio.wait_readable(self.channel)
        if not _peek(self.channel):
            raise SandboxBroken(f"the interpreter did not start: {self._complaint()}")
        self._first = only_child(self._guardian.pid)

    def _complaint(self) -> str:
        with suppress(BlockingIOError):
            said = os.read(self.stderr, 1 << 16).decode(errors="replace").strip()
            return said.rpartition("\n")[2] or "it ended without a word"
        return f"nothing was heard of it for {BIRTH:g} s"

    def claim(self, limits: Limits) -> None:
        """Narrow it to `limits`; the runner sets them on itself."""
        self.rlimits = rlimits(limits)

    def close_stdin(self) -> None:
        """The end of the input."""
        self._pipes[0].close()
        self.stdin = -1

    def interrupt(self) -> None:
        """SIGINT to the first process."""
        self._order(signal.SIGINT)

    def kill(self) -> None:
        """End the whole tree."""
        self._guardian.send_signal(signal.SIGCONT)  # the program may have stopped it
        self._order(signal.SIGKILL)

    def _order(self, number: int) -> None:
        with suppress(OSError):  # a guardian that is gone has left nothing to be done
            self._control.send(bytes([number]))

    def read(self) -> Reading:
        """What the tree has used so far, by looking at every process of it."""
        if not lists_children():
            return Reading()
        if self._watch is None:
            self._watch = TreeWatch([self._guardian.pid])
        seen = self._watch.reading()
        self._peak = seen.peak
        guardian = life(self._guardian.pid)
        cpu = seen.cpu - (guardian.own if guardian else 0.0)
        return Reading(max(0.0, cpu), seen.peak, seen.memory, seen.processes - 1)

    def first_read(self) -> Reading:
        """The first process's own share, and the tree's peak where it has been looked at."""
        now = life(self._first) if self._first else None
        if not self._first or now is None or now.parent != self._guardian.pid:
            return Reading(memory=self._peak or None)
        cpu, peak = TreeWatch.first(self._first)
        return Reading(cpu, max(peak or 0, self._peak) or None)

    def disk_full(self) -> bool:
        """Never known: the host's disk may be full by anybody's doing."""
        return False

    def space(self) -> tuple[int | None, int | None]:
        """Not known: it is the host's disk."""
        return None, None

    def pause(self) -> None:
        """Stop every process of it where it is, but its guardian."""
        self._tree(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._tree(signal.SIGCONT)

    def _tree(self, number: int) -> None:
        if not lists_children() or not self._first:
            raise OSError(errno.ENOSYS, "this kernel does not list a process's children")
        TreeWatch([self._first], adopters=[self._guardian.pid]).signal(number)

    async def end(self) -> None:
        """Until the guardian tells that everything is dead, or is dead itself."""
        await anyio.wait_readable(self._control)
        # Left where it is, so that `exited` stays readable.
        with suppress(struct.error, ValueError):
            told = ctl.unpack(_peek(self._control))
            code = os.waitstatus_to_exitcode(told.status)
            exited, signalled = (code, None) if code >= 0 else (None, -code)
            self._exit = Exit(exited, signalled, told.cpu, told.memory)
        self.ended.set()

    async def wait(self) -> Exit:
        """Until every process is dead."""
        await self.ended.wait()
        return self._exit

    def release(self) -> None:
        """Kill what is left and close what leads there; burying it is the nursery's."""
        if self.released.is_set():
            return
        self.kill()
        self.released.set()
        self.channel.close()
        os.close(self.work)
        for pipe in self._pipes:
            pipe.close()

    def bury(self) -> None:
        """Wait for the guardian, which ends last, and remove the folder. Blocks."""
        try:
            self._guardian.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        self._control.close()
        remove(self._folder)


def only_child(pid: int) -> int | None:
    """The number of a process's first child, where the kernel lists them."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            found = file.read().split()
    except OSError:
        return None
    return int(found[0]) if found else None


def _peek(end: socket.socket) -> bytes:
    """What could be read there now; nothing at its end, and nothing where there is nothing."""
    try:
        return end.recv(ctl.MAX_RECORD, socket.MSG_PEEK)
    except OSError:
        return b""
