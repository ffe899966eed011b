"""
The host's end of a fork server: asks for children, receives their descriptors, hears of their ends.

One reader owns the control socket; whoever waits for a child waits for an event of its own.
"""

import array
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio

from saggar.boundary import control as ctl
from saggar.boundary.wallplan import WallPlan
from saggar.drivers.base import Exit
from saggar.drivers.interpreter import memory_file
from saggar.drivers.jail.launch import take
from saggar.errors import Overloaded, SandboxBroken

BIRTH = 10.0
"""Seconds a child may take to stand behind its walls; on a loaded machine they take tens of ms."""
ASKED = 8
"""Children asked for and not yet born: who gives up before his turn has asked for nothing."""
LET_GO = 500
"""Serials of released children that go with one request."""
WHOLE = (len(ctl.DESCRIPTORS) - 2, len(ctl.DESCRIPTORS))
FAREWELL = 5.0
"""Seconds the outer init may take to end after it was told to."""


@dataclass(slots=True)
class Descriptors:
    """What a parked child sent along: its pipes, its folder, and the processes themselves."""

    channel: int
    stdin: int
    stdout: int
    stderr: int
    work: int
    process: int
    space: int = -1
    init: int = -1

    def kill(self) -> None:
        """
        End everything in the sandbox: its pid 1 takes the rest along.

        Without a pid namespace the first process is ended, and the server ends what it leaves.
        """
        with suppress(ProcessLookupError):
            target = self.init if self.init >= 0 else self.process
            signal.pidfd_send_signal(target, signal.SIGKILL)

    def close(self) -> None:
        """Close every one of them."""
        for name in self.__slots__:
            if (fd := getattr(self, name)) >= 0:  # stdin may have ended before
                os.close(fd)


class Child:
    """One sandbox in the host's books, from the request to the death of its last process."""

    __slots__ = (
        "abandoned",
        "asked",
        "born",
        "cwd",
        "descriptors",
        "ended",
        "exit",
        "on_end",
        "reason",
        "serial",
    )

    def __init__(self, serial: int, on_end: Callable[[], None] | None) -> None:
        self.serial = serial
        self.on_end = on_end
        self.cwd = ""
        self.born = anyio.Event()
        self.ended = anyio.Event()
        self.descriptors: Descriptors | None = None
        self.exit: Exit | None = None
        self.reason = ""
        self.abandoned = False
        self.asked = False
        """Whether the server owes an answer."""

    def handles(self) -> Descriptors:
        """What it sent when it was born."""
        if self.descriptors is None:
            raise SandboxBroken(self.reason or "the child was not born")
        return self.descriptors

    def abandon(self) -> None:
        """Nobody wants it any more, born or not."""
        self.abandoned = True
        if self.descriptors is not None:
            self.descriptors.kill()
            self.descriptors.close()
            self.descriptors = None

    def fail(self, reason: str) -> None:
        """It will not be born, or nobody will hear of its end."""
        self.reason = reason
        self.born.set()
        self.end(None)

    def end(self, exit_: Exit | None) -> None:
        """Everything in it is dead, as far as anybody can still tell."""
        self.exit = exit_
        self.ended.set()
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            # A cgroup that cannot be had back now, for want of descriptors, is left to a sweep.
            with suppress(OSError):
                on_end()

    async def wait(self) -> Exit:
        """How it ended. SandboxBroken if its server did not live to tell."""
        await self.ended.wait()
        if self.exit is None:
            raise SandboxBroken(self.reason)
        return self.exit


class ForkServer:
    """A running fork server."""

    def __init__(self, init: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self._init = init
        self._ended = os.pidfd_open(init.pid)  # now: later there may be no descriptor left
        self._control = control
        self._serial = 0
        self._children: dict[int, Child] = {}
        self._broken = ""
        self._turns = anyio.Semaphore(ASKED)
        self._let_go: list[int] = []

    @property
    def alive(self) -> bool:
        """
        Whether it still answers.

        Asked of the kernel: its socket ends before its children do, and before the listener hears.
        """
        if self._broken:
            return False
        poll = select.poll()
        poll.register(self._control, 0)
        return not poll.poll(0)

    @property
    def pid(self) -> int:
        """The outer init: the root of everything behind these walls."""
        return self._init.pid

    @property
    def born(self) -> int:
        """How many children were asked for so far."""
        return self._serial

    def build(self, plan: WallPlan, held: Sequence[int] = ()) -> None:
        """
        Say which walls; children can be asked for at once.

        `held` are descriptors that must stay open as long as anything lives behind the walls.
        """
        fd = memory_file("saggar-plan", plan.encode())
        try:
            socket.send_fds(self._control, [b"plan"], [fd, *held])
        except OSError as exc:
            raise SandboxBroken(f"the fork server is gone: {exc}") from exc
        finally:
            os.close(fd)

    async def park(
        self,
        entrances: Sequence[int] = (),
        on_end: Callable[[], None] | None = None,
        *,
        hurried: bool = False,
    ) -> Child:
        """
        One more child, born: its descriptors have arrived.

        `entrances` lead into its cgroups; it goes in by itself, before anything else. `on_end` is
        called when everything in it is dead, or was never alive. `hurried`: its run is waiting.

        Raises:
            SandboxBroken: The server is gone, or the walls could not be built; says why.
        """
        child = await self._request(entrances, on_end, hurried=hurried)
        try:
            with anyio.move_on_after(BIRTH):
                await child.born.wait()
        except BaseException:
            child.abandon()
            raise
        if child.descriptors is None:
            child.abandon()
            raise SandboxBroken(child.reason or f"no child stood behind its walls in {BIRTH:g} s")
        return child

    async def _request(
        self, entrances: Sequence[int], on_end: Callable[[], None] | None, *, hurried: bool
    ) -> Child:
        """Ask for a child when few others are awaited."""
        child = Child(0, on_end)
        try:
            await self._turns.acquire()
        except BaseException:
            child.end(None)
            raise
        self._serial += 1
        child.serial = self._serial
        free, self._let_go = self._let_go[:LET_GO], self._let_go[LET_GO:]
        try:
            record = ctl.pack(ctl.PARK, child.serial, int(hurried), text=_words(free))
            self._ask(record, entrances)
        except BaseException:
            self._let_go += free
            self._turns.release()
            child.end(None)
            raise
        child.asked = True
        self._children[child.serial] = child
        return child

    def _answered(self, child: Child) -> None:
        """The next one may ask."""
        if child.asked:
            child.asked = False
            self._turns.release()

    def _ask(self, record: bytes, entrances: Sequence[int]) -> None:
        if self._broken:
            raise SandboxBroken(self._broken)
        try:
            socket.send_fds(self._control, [record], list(entrances))
        except BlockingIOError:
            raise Overloaded("the fork server has more requests than it can take", 0.1) from None
        except OSError as exc:
            raise SandboxBroken(f"the fork server is gone: {exc}") from exc

    def release(self, serial: int, *, at_once: bool) -> None:
        """
        Nothing of this child's is held here any more: what it had on loan may be used again.

        Said with the next request, or at once where it has a folder on the host's disk.
        """
        self._let_go.append(serial)
        if at_once:
            # A server that is gone leaves its folders to the end of the block.
            with suppress(OSError):
                self._control.send(ctl.pack(ctl.RELEASE, 0, text=_words(self._let_go[:LET_GO])))
                del self._let_go[:LET_GO]

    async def listen(self) -> None:
        """Read records until the server is gone. Runs as long as the server is used."""
        try:
            while True:
                await anyio.wait_readable(self._control)
                # A server that ends before it has read everything resets the socket; what it said
                # before is still there, and comes after the error.
                with suppress(ConnectionResetError):
                    self._receive()
        except (OSError, EOFError, struct.error) as exc:
            self._fall(str(exc) or "the fork server closed its socket")
        finally:
            # Not earlier: the event loop would be left with a number that means another file.
            self._control.close()

    def _receive(self) -> None:
        """Every record that is there now; each brings its descriptors with it."""
        with suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._control.recvmsg(ctl.MAX_RECORD, 256)
                rights = array.array("i")
                for _, _, packed in ancillary:
                    rights.frombytes(packed)
                if not data:
                    raise EOFError("the fork server is gone")
                self._heard(ctl.unpack(data), list(rights))

    def _heard(self, record: ctl.Record, rights: list[int]) -> None:
        child = self._children.get(record.serial)
        if child:
            self._answered(child)
        if record.kind == ctl.PARKED and len(rights) in WHOLE and child:
            child.cwd = record.text
            self._parked(child, Descriptors(*rights))
            return
        for fd in rights:
            os.close(fd)
        if record.kind == ctl.PARKED and child:
            # The kernel drops what does not fit into our table, and delivers the rest.
            child.reason = "this process has no descriptors left to receive a child's"
            child.born.set()
        if record.kind == ctl.FAILED and record.serial == 0:
            self._fall(record.text)
        elif record.kind == ctl.FAILED and child:
            child.reason = record.text
            child.born.set()
        elif record.kind == ctl.GONE and child:
            del self._children[record.serial]
            if child.descriptors is None:  # never born, or given up: nobody else will say so
                self.release(record.serial, at_once=False)
            code = os.waitstatus_to_exitcode(record.status)
            exited, signalled = (code, None) if code >= 0 else (None, -code)
            child.end(Exit(exited, signalled, record.cpu, record.memory))

    def _parked(self, child: Child, descriptors: Descriptors) -> None:
        if child.abandoned:
            descriptors.kill()
            descriptors.close()
            return
        child.descriptors = descriptors
        child.born.set()

    def _fall(self, reason: str) -> None:
        """Everybody who waits learns that there is nothing to wait for."""
        self._broken = self._broken or reason
        children, self._children = self._children, {}
        for child in children.values():
            self._answered(child)
            child.fail(self._broken)

    async def stop(self) -> None:
        """End it and all its children, and wait for the outer init."""
        self._fall("the fork server was stopped")
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            with anyio.move_on_after(FAREWELL, shield=True) as patience:
                await anyio.wait_readable(self._ended)
            if patience.cancelled_caught:
                self._init.kill()  # the server watches it, and ends as well
        finally:
            os.close(self._ended)
        self._init.wait()


def _words(serials: Sequence[int]) -> str:
    return " ".join(map(str, serials))


@asynccontextmanager
async def running() -> AsyncIterator[ForkServer]:
    """
    A fork server for the length of a block; it builds its walls when it is given a plan.

    OSError when this process or this machine has no room for one.
    """
    init = take()
    server = ForkServer(init.process, init.control)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.listen)
        try:
            yield server
        except Exception as exc:  # noqa: BLE001 - raised again, outside: or it comes in a group
            failure = exc
        finally:
            with anyio.CancelScope(shield=True):
                await server.stop()
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
