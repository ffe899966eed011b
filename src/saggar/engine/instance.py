"""
An instance: one object held open in a live sandbox, whose methods are called in turn.

As for a cell, the host's clock and the counters outside decide, and what the guest says is carried
along as its words. What it remembered is lost with its process, and never made up for silently.
"""

import array
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from marshal import dumps
from signal import SIGINT, SIGKILL
from typing import Any, Literal

import anyio
import anyio.to_thread

from saggar.boundary import frames
from saggar.drivers.base import Reading
from saggar.engine import sealed, words
from saggar.engine.flow import Flow
from saggar.engine.keeper import Started
from saggar.engine.sandbox import Sandbox
from saggar.engine.streams import Pipe, drop
from saggar.engine.turns import Turns
from saggar.engine.verdict import Facts, judge
from saggar.errors import Conflict
from saggar.model.codec import Large, Payload, decode_value
from saggar.model.event import Event, Finished, Output, Yielded, fold
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.result import ErrorInfo, Result, Usage

BODY = "saggar.guest.instance"
LOOK = 0.05
BIRTH = 10.0
DYING = 5.0
PIECE = 1 << 18
MOST_RIGHTS = 4
SMALL = 1 << 16
LARGEST = 256 << 20
"""Bytes of an answer that cannot go through shared memory."""
STREAMS: tuple[Literal["stdout", "stderr"], ...] = ("stdout", "stderr")
Log = Callable[[Literal["stdout", "stderr"], bytes], None]


class Wire:
    """What leads to its process: the channel, the pipes, the word of its end."""

    def __init__(
        self, started: Started, channel: socket.socket, outputs: tuple[int, int], most: int
    ) -> None:
        self.started = started
        self._channel = channel
        self._pipes = dict(zip(STREAMS, map(Pipe, outputs), strict=True))
        self._decoder = frames.Decoder(most)
        self._rights: deque[int] = deque()
        self._unsent = memoryview(b"")
        self._giving: Sequence[int] = ()
        self._wanted = selectors.EVENT_READ
        self.lost = False
        self._selector = selectors.DefaultSelector()
        pipes = [pipe.fd for pipe in self._pipes.values()]
        for fd in (channel.fileno(), *pipes, started.end_told.fileno()):
            self._selector.register(fd, selectors.EVENT_READ)

    @classmethod
    async def open(cls, sandbox: Sandbox) -> "Wire":
        """A process that takes requests. SandboxBroken if none comes up."""
        ours, theirs = socket.socketpair()
        stdout, stderr = os.pipe(), os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        most = min(sandbox.limits.memory, LARGEST)
        try:
            ours.setblocking(False)
            for fd in (stdout[0], stderr[0]):
                os.set_blocking(fd, False)
            for fd in (stdout[1], stderr[1]):
                sandbox.give(fd)
            started = await sandbox.keeper.start(
                (nothing, stdout[1], stderr[1], theirs.fileno()), body=BODY, largest=most
            )
        except BaseException:
            ours.close()
            drop(stdout[0], stderr[0])
            raise
        finally:
            theirs.close()
            drop(stdout[1], stderr[1], nothing)
        return cls(started, ours, (stdout[0], stderr[0]), most)

    @property
    def alive(self) -> bool:
        """Whether it can be asked something."""
        return self.started.exit is None and not self.lost

    async def heard(self) -> None:
        """Wait until it has said something, or has ended."""
        await anyio.wait_readable(int(self._selector.fileno()))

    def ask(self, head: dict[str, Any], blob: bytes, rights: Sequence[int]) -> None:
        """As much of it as the channel takes now; the rest follows when it is heard."""
        self._unsent = memoryview(frames.pack(frames.TASK, dumps(head, 2), blob))
        self._giving = rights
        self._write()

    def hear(self) -> list[frames.Frame]:
        """The frames that are there now."""
        self._write()
        if self.lost:
            return []
        try:
            data, carried, _, _ = self._channel.recvmsg(
                PIECE, socket.CMSG_SPACE(MOST_RIGHTS * 4), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, packed in carried:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._rights.extend(array.array("i", packed[: len(packed) // 4 * 4]))
            while len(self._rights) > MOST_RIGHTS:
                os.close(self._rights.pop())
            if not data:
                self._lose()
            return list(self._decoder.feed(data))
        except BlockingIOError:
            return []
        except (OSError, frames.FrameError):
            self._lose()
            return []

    def written(self, stream: Literal["stdout", "stderr"]) -> bytes:
        """What a pipe has now."""
        pipe = self._pipes[stream]
        data = pipe.read()
        if data == b"" and pipe.fd in self._selector.get_map():
            self._selector.unregister(pipe.fd)
        return data or b""

    def right(self) -> int | None:
        """The next descriptor that it has sent, to be closed by who takes it."""
        return self._rights.popleft() if self._rights else None

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._unsent = memoryview(b"")
            self._selector.unregister(self._channel)

    def _write(self) -> None:
        if self.lost:
            return
        try:
            while self._unsent:
                if self._giving:
                    sent = socket.send_fds(self._channel, [self._unsent], list(self._giving))
                    self._giving = ()
                else:
                    sent = self._channel.send(self._unsent)
                self._unsent = self._unsent[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = memoryview(b"")  # its end, or its silence, will be judged
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if wanted != self._wanted:
            self._selector.modify(self._channel, wanted)
            self._wanted = wanted

    def close(self) -> None:
        """Close what leads to it; it sees the end of it, and ends."""
        self._selector.close()
        self._channel.close()
        for pipe in self._pipes.values():
            pipe.close()
        while self._rights:
            os.close(self._rights.popleft())
        self.started.forget()


class Instance:
    """An object in a sandbox of its own. One call at a time; whoever comes meanwhile waits."""

    here = True
    """It lives in this process."""

    def __init__(  # noqa: PLR0913 - what makes one
        self,
        opener: Callable[[], Awaitable[Sandbox]],
        *,
        policy: Policy,
        payload: bytes,
        arguments: Payload,
        name: str,
        owner: str = "",
    ) -> None:
        self._opener = opener
        self._payload, self._arguments = payload, arguments
        self.policy, self.name, self.owner = policy, name, owner
        self._turns = Turns()
        self._wire: Wire | None = None
        self._pid = os.getpid()
        self._log: Log | None = None
        self.id = ""
        self.created = self.used = time.time()
        self.calls = 0
        self.closed = False
        self.lost = ""
        """Why what it remembered is gone; empty while it is there."""
        self.kept: Callable[[], object] | None = None
        """Whoever holds it until its time is over, called again when it begins anew."""

    async def open(self, log: Log | None = None) -> Result[Any]:
        """Make the object. What its constructor came to is a result as any; SaggarError is ours."""
        self._log = log
        self.sandbox = await self._opener()
        self.id = self.id or self.sandbox.id
        try:
            return await self._make(log)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._end()
            raise

    async def _make(self, log: Log | None) -> Result[Any]:
        self._wire = await Wire.open(self.sandbox)
        said = (self._arguments.media_type, self._payload, self._arguments.data)
        result = await self._ask(
            {"do": "make"}, dumps(said, 2), self._arguments, log, standing=True
        )
        if not result.ok:
            await self._end()
            self.closed = True
        return result

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._turns.taken

    async def call(
        self,
        do: Literal["call", "get", "stream"],
        name: str,
        arguments: Payload,
        *,
        log: Log | None = None,
        flow: Flow | None = None,
    ) -> Result[Any]:
        """
        A method's answer, or an attribute; what it yields goes into `flow`, to be taken meanwhile.

        Raises:
            Conflict: It is closed, or what it remembered is lost; `lost` says why.
        """
        self._refuse_lost()
        await self._turns.take()
        try:
            self._refuse_lost()
            self.used, self.calls = time.time(), self.calls + (do != "get")
            head = {"do": do, "name": name, "media_type": arguments.media_type}
            return await self._ask(head, arguments.data, arguments, log, flow=flow)
        finally:
            self.used = time.time()
            if self.lost:
                with anyio.CancelScope(shield=True):
                    await self._end()
            self._turns.give()

    def _refuse_lost(self) -> None:
        self._refuse_forked()
        if self.closed and not self.lost:
            raise Conflict(f"the instance of {self.name} is closed")
        if not self.lost and (self._wire is None or not self._wire.alive or not self.sandbox.alive):
            self.lost = "its process ended between two calls"
        if self.lost:
            raise Conflict(f"the instance of {self.name} has lost its state: {self.lost}")

    def _refuse_forked(self) -> None:
        """What leads to it was copied by a fork: two who write to it would spoil it for both."""
        if self._pid != os.getpid():
            raise Conflict(
                f"the instance of {self.name} belongs to process {self._pid}, which this one was"
                " forked from; get it by its id, or make another one here"
            )

    async def restart(self, log: Log | None = None) -> Result[Any]:
        """A fresh object of the same class and arguments, in a fresh sandbox, under the same id."""
        self._refuse_forked()
        await self._turns.take()
        try:
            await self._end()
            self.lost, self.closed = "", False
            self.created = self.used = time.time()
            result = await self.open(log)
            if self.kept is not None and not self.closed:
                self.kept()
            return result
        finally:
            self._turns.give()

    async def _ask(  # noqa: PLR0913 - what is asked, and who hears of it
        self,
        head: dict[str, Any],
        blob: bytes,
        arguments: Payload,
        log: Log | None,
        *,
        standing: bool = False,
        flow: Flow | None = None,
    ) -> Result[Any]:
        assert self._wire is not None  # noqa: S101 - it is open
        shared: tuple[int, ...] = ()
        if isinstance(arguments, Large) and arguments.beside:
            shared = (await anyio.to_thread.run_sync(sealed.share, arguments.beside),)
        limits = self.policy.limits
        one = _Asking(self.sandbox, self._wire, limits, log, flow, standing=standing)
        try:
            self._wire.ask(head, blob, shared)
            try:
                await one.follow()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await one.abandon()
                raise
        finally:
            drop(*shared)
            if one.lost:
                self.lost = one.loss()
        return one.result()

    async def close(self, why: str = "") -> None:
        """
        Its own end first, for as long as the grace lasts; then that of its sandbox.

        `why`: it is nobody's wish, and whoever calls it then hears that its state is lost.
        """
        if self.closed or self._pid != os.getpid():
            return
        self.closed, taken = True, False
        if not self.busy:  # one that is still in a call ends after it, in order
            self.lost = why
        with anyio.CancelScope(shield=True):
            try:
                with anyio.move_on_after(self.policy.limits.grace):
                    await self._turns.take()
                    taken = True
                    wire = self._wire
                    if wire is not None and wire.alive and self.sandbox.alive:
                        await self._ask({"do": "leave"}, b"", Payload.none(), self._log)
                await self._end()
                self.lost = why or self.lost
            finally:
                if taken:
                    self._turns.give()

    def bury(self) -> None:
        """Close what led to its process, whose sandbox is gone. Whoever is in a call does it."""
        if self._wire is not None and not self.busy:
            self._wire.close()
            self._wire = None

    async def _end(self) -> None:
        await self.sandbox.close()
        if self._wire is not None:
            self._wire.close()
            self._wire = None


class _Asking:
    """One request, from its sending to its verdict; owned by the one who asks."""

    def __init__(  # noqa: PLR0913 - what a request is asked of, and who hears of it
        self,
        sandbox: Sandbox,
        wire: Wire,
        limits: Limits,
        log: Log | None,
        flow: Flow | None,
        *,
        standing: bool,
    ) -> None:
        self._sandbox, self._wire, self._limits, self._log = sandbox, wire, limits, log
        self._flow = flow
        self._facts: dict[str, Any] = {"ready": True}
        self._kept: list[Event] = []
        self._written = 0
        self._value: Any = None
        self._decoded: Any = None
        self._error: ErrorInfo | None = None
        self._before = sandbox.used or sandbox.process.first_read()
        self._started = time.monotonic()
        self._next_look = self._started + LOOK
        self._interrupted = self._killed = 0.0
        self._truncated = False
        self._done = False
        self._standing = standing

    @property
    def over(self) -> bool:
        """It has answered, or will not."""
        return self._done or self._wire.started.exit is not None or "broken" in self._facts

    @property
    def lost(self) -> bool:
        """Whether its process is of no use any more."""
        return not self._done or not self._wire.alive

    async def follow(self) -> None:
        """Until its end."""
        while not self.over:
            with anyio.move_on_after(self._patience()):
                await self._heard()
            self._hear()
            await self._look()
        for stream in STREAMS:
            while data := self._wire.written(stream):
                self._output(stream, data)
                if self._truncated:
                    break
        await self._decode()

    async def abandon(self) -> None:
        """Nobody waits any more: interrupt it, and go when it has stopped, or has been ended."""
        if self._flow is not None:
            self._flow.drop()
        await self._interrupt()
        with anyio.move_on_after(self._limits.grace + DYING):
            await self.follow()
        if not self._done:
            await self._kill()

    def _patience(self) -> float:
        if self._killed:
            return LOOK
        deadline = self._started + self._limits.wall
        if self._interrupted:
            deadline = self._interrupted + self._limits.grace
        return max(0.0, min(deadline, self._next_look) - time.monotonic())

    @property
    def _full(self) -> bool:
        """Whether it has yielded more than was taken: it waits inside, and its clock goes on."""
        # Once interrupted it has to be heard: it cannot stop in the middle of what it says.
        return self._flow is not None and self._flow.full and not self._interrupted

    async def _heard(self) -> None:
        if self._flow is not None and self._full:
            await self._flow.room()
        else:
            await self._wire.heard()

    def _hear(self) -> None:
        if self._full:
            return
        for frame in self._wire.hear():
            if not self._done:
                self._take(frame)
        for stream in STREAMS:
            if data := self._wire.written(stream):
                self._output(stream, data)

    def _take(self, frame: frames.Frame) -> None:
        head = words.json_object(frame.head)
        match frame.kind:
            case frames.VALUE if head.get("more") is True and self._flow is not None:
                item = Yielded.of(frame.blob, str(head.get("media_type")), self._memory(head))
                if not self._interrupted:  # its failure is what comes next
                    self._flow.put(item)
            case frames.VALUE:
                self._value = frame.blob, str(head.get("media_type")), self._memory(head)
            case frames.ERROR:
                self._facts["claimed_error"] = True
                texts = {name: words.text(head.get(name, "")) for name in ErrorInfo.model_fields}
                self._error = ErrorInfo(**texts)
            case frames.DONE:
                self._done = True
                self._facts["answered"], self._facts["claimed_exit"] = True, 0

    def _memory(self, head: dict[str, Any]) -> memoryview | None:
        right = self._wire.right() if head.get("rights") == 1 else None
        if right is None:
            return None
        try:
            return sealed.mapped(right, self._limits.memory)
        except ValueError as exc:
            self._invalid(exc)
            return None

    def _invalid(self, exc: ValueError) -> None:
        self._facts["claimed_error"] = True
        self._error = ErrorInfo(type="InvalidValue", message=words.text(exc))

    def _output(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        kept = data[: max(0, self._limits.output - self._written)]
        self._written += len(data)
        if len(kept) < len(data):
            self._truncated = True
            self._facts["output_spent"] = True
        if kept:
            self._kept.append(Output(stream=stream, data=kept))
            if self._log is not None:
                self._log(stream, kept)

    async def _look(self) -> None:
        now = time.monotonic()
        if self.over:
            return
        if self._killed and now > self._killed + DYING:
            self._facts["broken"] = "it does not die"
        elif self._wire.lost and not self._killed:
            with anyio.move_on_after(0.2):
                await self._wire.started.ended.wait()
            if self._wire.started.exit is None:
                await self._kill()
        elif self._interrupted and now >= self._interrupted + self._limits.grace:
            await self._kill()
        elif now >= self._started + self._limits.wall and "wall_spent" not in self._facts:
            self._facts["wall_spent"] = True
            await self._interrupt()
        elif "output_spent" in self._facts:
            await self._interrupt()
        if now >= self._next_look:
            self._next_look = now + LOOK
            await self._weigh(self._sandbox.process.read())

    async def _weigh(self, used: Reading) -> None:
        if used.cpu is not None and used.cpu - (self._before.cpu or 0.0) >= self._limits.cpu:
            self._facts["cpu_spent"] = True
            await self._interrupt()
        if used.current is not None and used.current > self._limits.memory:
            self._facts["memory_spent"] = True
            await self._kill()

    async def _interrupt(self) -> None:
        if not self._interrupted:
            self._interrupted = time.monotonic()
            await self._sandbox.keeper.signal(self._wire.started, SIGINT)

    async def _kill(self) -> None:
        if not self._killed:
            self._killed = time.monotonic()
            self._facts["killed_by_us"] = True
            await self._sandbox.keeper.signal(self._wire.started, SIGKILL)

    def result(self) -> Result[Any]:
        """What came of it."""
        used = self._sandbox.used = self._sandbox.process.first_read()
        self._facts["oom_kills"] = used.oom_kills - self._before.oom_kills
        self._facts["refused_forks"] = used.refused_forks - self._before.refused_forks
        exited = self._wire.started.exit
        if exited is not None and not self._done:
            self._facts["exit_code"], self._facts["signal"] = exited.code, exited.signal
        value = self._decoded
        if self.lost:
            self._facts["claimed_error"] = True
            self._error = self._error or ErrorInfo(type="StateLost", message=self.loss())
        verdict = judge(Facts(**self._facts))
        cpu = None if used.cpu is None else max(0.0, used.cpu - (self._before.cpu or 0.0))
        wall = time.monotonic() - self._started
        finished = Finished.model_construct(
            kind="finished",
            status=verdict.status,
            limit=verdict.limit,
            exit_code=verdict.exit_code if self.lost else None,
            signal=verdict.signal,
            truncated=self._truncated,
            value=value,
            files=(),
            files_skipped=(),
            error=self._error,
            usage=Usage.model_construct(wall=wall, cpu=cpu, memory=used.memory, processes=None),
            isolation=self._sandbox.isolation,
            execution_count=None,
            session_reset=self.lost,
        )
        return fold([*self._kept, finished])

    async def _decode(self) -> None:
        """Its answer; a large one beside the event loop."""
        if self._value is None:
            return
        try:
            if len(self._value[0]) < SMALL:
                self._decoded = decode_value(*self._value)
            else:
                self._decoded = await anyio.to_thread.run_sync(decode_value, *self._value)
        except ValueError as exc:
            self._invalid(exc)

    def loss(self) -> str:
        """What became of its process, in a few words."""
        exited = self._wire.started.exit
        if self._facts.get("oom_kills") or "memory_spent" in self._facts:
            return "it was ended for its memory"
        if self._killed:
            return "it did not stop when it was interrupted, and was ended"
        if exited is not None and exited.signal:
            return f"it was ended by {judge(Facts(ready=True, signal=exited.signal)).signal}"
        if exited is not None:
            return f"it ended itself with exit code {exited.code}"
        return "it closed or broke its channel"
