"""
A container as the engine of runs uses it: parked, claimed, measured, ended.

Host and pid 1 speak over the socket that pid 1 came in by. Whoever holds its other end is the
container: when ours closes, pid 1 ends, and with pid 1 everything.
"""

import errno
import math
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress

import anyio

from saggar.boundary import control as ctl
from saggar.drivers.base import Exit, Reading, space_of
from saggar.drivers.docker.arrival import number_of
from saggar.drivers.docker.meter import Meter
from saggar.drivers.docker.spec import WORK
from saggar.drivers.treewatch import TreeWatch
from saggar.model.limits import Limits

TELLING = 1.0
"""Seconds pid 1 may take to tell how the first process ended, before it is ended itself."""
UNHEARD = Exit(None, signal.SIGKILL)
"""Pid 1 was killed before it could tell of the end; the first process went with it."""
STACK = 8 << 20


def rlimits(limits: Limits) -> tuple[tuple[int, int, int], ...]:
    """
    Resource, soft and hard limit that the runner sets on itself, beside the container's cgroup.

    None on processes: outside a user namespace that one counts all that the user id has, in every
    container of this machine.
    """
    seconds = math.ceil(limits.cpu)
    return (
        (resource.RLIMIT_CPU, seconds, seconds + 1),  # SIGXCPU says what happened
        (resource.RLIMIT_STACK, STACK, max(STACK, limits.memory)),
        (resource.RLIMIT_FSIZE, limits.file_size, limits.file_size),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
    )


class ContainerProcess:
    """A container with a child in it that waits for its one task, then runs it."""

    rlimits: tuple[tuple[int, int, int], ...] = ()
    cwd = WORK

    def __init__(  # noqa: PLR0913 - what came out of the container, and what it stands in
        self,
        control: socket.socket,
        descriptors: list[int],
        *,
        isolation: str,
        environment: Mapping[str, str],
        site: tuple[str, ...],
        entrypoint: tuple[tuple[str, ...], str] | None,
    ) -> None:
        self._control = control
        channel, self.stdin, self.stdout, self.stderr, self.work, *processes = descriptors
        self.exited, self._init = processes
        self.channel = socket.socket(fileno=channel)
        self.channel.setblocking(False)
        for fd in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)
        self.isolation, self.environment = isolation, environment
        self.site, self.entrypoint = site, entrypoint
        self.ended, self.released = anyio.Event(), anyio.Event()
        self._meter = Meter(0)  # a parked child has nothing to be read: six files fewer are open
        self._last: Reading | None = None
        self._exit = UNHEARD

    def waits(self) -> bool:
        """Whether it still could be claimed."""
        return not self.released.is_set() and not _readable(self.exited)

    def claim(self, limits: Limits) -> None:
        """Narrow it to `limits`: those that a container is not made with are the runner's."""
        self.rlimits = rlimits(limits)
        self._meter = Meter(pid_of(self._init))
        self._meter.start()

    def close_stdin(self) -> None:
        """The end of the input."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def interrupt(self) -> None:
        """SIGINT to the first process."""
        try:
            signal.pidfd_send_signal(self.exited, signal.SIGINT)
        except ProcessLookupError:
            pass
        except OSError:  # another user's, or of a namespace beside ours: pid 1 may
            with suppress(OSError):
                self._control.send(bytes([signal.SIGINT]))

    def kill(self) -> None:
        """End everything in it. What the first process came to is still to be told if it ended."""
        if self.released.is_set() or self._last is not None:
            return
        self._last = self._meter.reading()  # the engine removes the cgroup with the container
        if not _readable(self.exited):
            self.strike()

    def strike(self) -> None:
        """End pid 1, which everything else ends with."""
        try:
            signal.pidfd_send_signal(self._init, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except OSError:
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)

    def read(self) -> Reading:
        """What it has used so far, everything in it together."""
        return self._last or self._meter.reading()

    def first_read(self) -> Reading:
        """The same."""
        return self.read()

    def disk_full(self) -> bool:
        """Whether the writable space has no free block or inode left."""
        space = os.fstatvfs(self.work)
        return not space.f_bavail or not space.f_favail

    def space(self) -> tuple[int | None, int | None]:
        """Bytes and inodes used of the writable space."""
        return space_of(self.work)

    def pause(self) -> None:
        """Stop every process of it where it is, but pid 1. OSError if its number is not known."""
        self._tree(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._tree(signal.SIGCONT)

    def _tree(self, number: int) -> None:
        first = pid_of(self.exited)
        if not first:
            raise OSError(errno.ESRCH, "the container's processes have no numbers here")
        TreeWatch([first], adopters=[pid_of(self._init)]).signal(number)

    async def end(self) -> None:
        """Until pid 1 tells that everybody else is dead, or is dead itself."""
        await anyio.wait_readable(self._control)
        try:
            told = ctl.unpack(self._control.recv(ctl.MAX_RECORD))
            code = os.waitstatus_to_exitcode(told.status)
            exited, signalled = (code, None) if code >= 0 else (None, -code)
            self._exit = Exit(exited, signalled, told.cpu, told.memory)
        except (OSError, struct.error, ValueError):
            await anyio.wait_readable(self._init)  # its files close before its children die
        self.ended.set()

    async def wait(self) -> Exit:
        """Until every process is dead but pid 1, which is ours."""
        if self._last is not None:  # it was to be killed
            with anyio.move_on_after(TELLING):
                await self.ended.wait()
            if not self.ended.is_set():
                self.strike()
        await self.ended.wait()
        return self._exit

    def release(self) -> None:
        """Kill what is left and close what leads there; burying it is the nursery's."""
        if self.released.is_set():
            return
        self.kill()
        self.strike()
        self.released.set()
        self.channel.close()
        self.close_stdin()
        for fd in (self.stdout, self.stderr, self.work, self.exited):
            os.close(fd)

    async def bury(self, patience: float) -> bool:
        """Until pid 1 is dead; whether it was within so many seconds. The last that is done."""
        self.release()
        with anyio.move_on_after(patience, shield=True) as waiting:
            await anyio.wait_readable(self._init)
        self._control.close()
        self._meter.close()
        os.close(self._init)
        self.ended.set()
        return not waiting.cancelled_caught


def pid_of(pidfd: int) -> int:
    """The number a process has here; 0 where it has none. The kernel's word, not the guest's."""
    return max(0, number_of(pidfd) or 0)


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
