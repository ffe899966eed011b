"""
The keeper, as the host speaks to it: what is to be started in a live sandbox, and how it ended.

One task listens; whoever has started something waits for an event of its own. What the keeper says
of an end is a guest's word: it changes what a result says of that process, and nothing else.
"""

import itertools
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from marshal import dumps
from signal import SIGKILL
from typing import Any

import anyio

from saggar.boundary import frames
from saggar.boundary.order import Order
from saggar.drivers.base import Process
from saggar.engine import words
from saggar.errors import InvalidTask, NotFound, PlatformError, SandboxBroken
from saggar.model.limits import Limits

PIECE = 1 << 16
PATIENCE = 10.0
"""Seconds a keeper may take to start something; it has nothing else to do."""
PROMPT = 1.0
"""Seconds within which one that lives has sent a signal."""
MANY = 1 << 16
"""Frames are this short, the keeper's; a longer one is not its own."""


@dataclass(frozen=True, slots=True)
class Exited:
    """How a process of a live sandbox ended."""

    code: int | None
    signal: int | None
    cpu: float | None = None
    """Seconds, by the word of the sandbox."""


class Started:
    """Something that was started in a live sandbox."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        """Its number inside."""
        self.begun = anyio.Event()
        self.ended = anyio.Event()
        self.failure: tuple[int, str] | None = None
        self.exit: Exited | None = None
        self.end_told, self._end = socket.socketpair()
        """The first one becomes readable when it has ended."""

    def end(self, exit_: Exited) -> None:
        """It is dead."""
        if self.exit is None:
            self.exit = exit_
            self.begun.set()
            self.ended.set()
            self._end.close()

    async def within(self, patience: float) -> bool:
        """Whether it is dead within so many seconds."""
        with anyio.move_on_after(patience):
            await self.ended.wait()
        return self.exit is not None

    def forget(self) -> None:
        """Close what tells of the end."""
        self.end_told.close()
        self._end.close()


class Keeper:
    """The host's end of the channel to one."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._decoder = frames.Decoder(MANY)
        self._numbers = itertools.count(1)
        self._started: dict[int, Started] = {}
        self._signalled: dict[int, anyio.Event] = {}
        self._sending = anyio.Lock()
        self.ready = anyio.Event()
        self.dead = anyio.Event()
        self.complaint = ""
        self.deaf = False
        """It did not send the last signal in time: somebody has stopped it, most likely."""

    def order(
        self, limits: Limits, files: Sequence[tuple[str, bytes, int]], env: Mapping[str, str]
    ) -> Order:
        """What makes a parked child a keeper."""
        process = self._process
        return Order(
            argv=None,
            code="",
            filename="",
            entry=None,
            input=None,
            want_value=False,
            args=(),
            env={**process.environment, **env},
            cwd=process.cwd,
            site=process.site,
            files=tuple(files),
            rlimits=_without_clock(process.rlimits),
            largest=limits.output,
            body=None,
            stays=True,
        )

    async def begin(self, order: Order) -> None:
        """Send the order. SandboxBroken when it is not taken."""
        await self._send(frames.TASK, order.encode())

    async def listen(self) -> None:
        """Until the sandbox is dead; then everybody who waits hears of it."""
        try:
            while self._hear():
                await anyio.wait_readable(self._process.channel)
        finally:
            self.dead.set()
            self.ready.set()
            for started in list(self._started.values()):
                started.end(Exited(None, SIGKILL))
            self._started.clear()
            for sent in list(self._signalled.values()):
                sent.set()

    def _hear(self) -> bool:
        """What there is now; False when nothing more can come."""
        try:
            data = self._process.channel.recv(PIECE)
            said = list(self._decoder.feed(data))
        except BlockingIOError:
            return True
        except (OSError, frames.FrameError):
            return False  # no longer a keeper: whoever owns the sandbox ends it
        for frame in said:
            self._take(frame)
        # It never says that it is done, except when it could not even begin.
        return bool(data) and all(frame.kind != frames.DONE for frame in said)

    def _take(self, frame: frames.Frame) -> None:
        head = words.json_object(frame.head)
        if frame.kind == frames.READY:
            self.ready.set()
        elif frame.kind == frames.ERROR and not self.complaint:
            self.complaint = words.text(head.get("message", ""), 1000)
        elif frame.kind == frames.TOLD and (number := words.number(head.get("id"))) is not None:
            if sent := self._signalled.get(number):
                sent.set()
            elif started := self._started.get(number):
                self._told(started, head)

    def _told(self, started: Started, head: dict[str, Any]) -> None:
        match head:
            case {"now": "started", "pid": int(pid)}:
                started.pid = pid
                started.begun.set()
            case {"now": "failed", "errno": int(number), "message": str(text)}:
                started.failure = number, words.text(text, 1000)
                self._ended(started, Exited(127, None))
            case {"now": "exited", "status": int(status)}:
                cpu = head.get("cpu")
                self._ended(started, _exited(status, cpu if isinstance(cpu, float) else None))

    def _ended(self, started: Started, exit_: Exited) -> None:
        self._started.pop(started.number, None)
        started.end(exit_)

    async def start(  # noqa: PLR0913 - what a process is started with
        self,
        rights: Sequence[int],
        *,
        argv: Sequence[str] = (),
        body: str | None = None,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
        limits: Mapping[str, int] | None = None,
        **more: object,
    ) -> Started:
        """
        Start a program, or one of our own bodies, with `rights` as its descriptors 0, 1, 2 and on.

        Raises:
            NotFound: There is no such program, or no such folder.
            InvalidTask: It cannot be executed.
            PlatformError: The sandbox has no room for another process.
            SandboxBroken: It is gone.
        """
        started = Started(next(self._numbers))
        head = {
            "do": "start",
            "id": started.number,
            "argv": tuple(argv),
            "body": body,
            "cwd": cwd,
            "env": dict(env or {}),
            "terminal": terminal,
            "limits": dict(limits or {}),
            "rights": len(rights),
            **more,
        }
        self._started[started.number] = started
        try:
            await self._send(frames.TASK, dumps(head, 2), rights)
            with anyio.move_on_after(PATIENCE):
                await started.begun.wait()
        except BaseException:
            await self._unwanted(started)
            raise
        if started.failure is not None:
            started.forget()
            raise _refusal(argv, cwd, *started.failure)
        if self.dead.is_set() or not started.begun.is_set():
            self._hang_up()  # one that does not answer is none any more
            await self._unwanted(started)
            raise SandboxBroken(self.complaint or "the sandbox is gone, or does not answer")
        return started

    async def _unwanted(self, started: Started) -> None:
        """Nobody waits for it any more: what may have begun, or may yet begin, is ended."""
        started.forget()
        with anyio.CancelScope(shield=True):
            await self.signal(started, SIGKILL)

    async def signal(self, started: Started, number: int, *, group: bool = True) -> None:
        """To it and its group; nothing happens if it is dead. When we return, it has been sent."""
        token, sent = next(self._numbers), anyio.Event()
        head = {"do": "signal", "id": started.number, "signal": int(number), "group": group}
        self._signalled[token] = sent
        try:
            with suppress(SandboxBroken):
                await self._send(frames.TASK, dumps({**head, "token": token}, 2))
                with anyio.move_on_after(PROMPT) as waited:
                    await sent.wait()
                self.deaf = waited.cancelled_caught
        finally:
            self._signalled.pop(token, None)

    async def end_all(self) -> None:
        """SIGKILL to everything that was started, and to its groups."""
        for started in list(self._started.values()):
            await self.signal(started, SIGKILL)

    async def _send(self, kind: int, head: bytes, rights: Sequence[int] = ()) -> None:
        left = memoryview(frames.pack(kind, head))
        # Half a request would be read as the beginning of the next one.
        with anyio.move_on_after(PATIENCE, shield=True):
            async with self._sending:
                left = await self._sent(left, rights)
        if left:
            self._hang_up()
            raise SandboxBroken("the sandbox does not listen any more")

    async def _sent(self, left: memoryview, rights: Sequence[int]) -> memoryview:
        while left and not self.dead.is_set():
            try:
                sent = socket.send_fds(self._process.channel, [left], list(rights))
            except BlockingIOError:
                await anyio.wait_writable(self._process.channel)
                continue
            except OSError as exc:
                raise SandboxBroken(f"the sandbox is gone: {exc}") from exc
            rights = ()
            left = left[sent:]
        return left

    def _hang_up(self) -> None:
        """Whoever listens hears of its end."""
        with suppress(OSError):
            self._process.channel.shutdown(socket.SHUT_RDWR)


def _without_clock(rlimits: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
    """What lives long has no limit of processor time in all: each thing done there has one."""
    from resource import RLIMIT_CPU

    return tuple(limit for limit in rlimits if limit[0] != RLIMIT_CPU)


def _exited(status: int, cpu: float | None) -> Exited:
    try:
        code = os.waitstatus_to_exitcode(status)
    except (ValueError, OverflowError):
        return Exited(None, SIGKILL, cpu)  # no status at all: whoever forges one is as good as dead
    return Exited(code, None, cpu) if code >= 0 else Exited(None, -code, cpu)


def _refusal(argv: Sequence[str], cwd: str, number: int, text: str) -> Exception:
    from errno import EACCES, EAGAIN, ENOENT, ENOMEM, ENOTDIR

    what = argv[0] if argv else "it"
    if number in {ENOENT, ENOTDIR}:
        return NotFound(f"{what!r} cannot be started in {cwd or 'the work folder'!r}: {text}")
    if number in {EAGAIN, ENOMEM}:
        return PlatformError(f"the sandbox has no room for another process: {text}")
    if number == EACCES:
        return InvalidTask(f"{what!r} cannot be executed: {text}")
    return InvalidTask(f"{what!r} cannot be started: {text}")
