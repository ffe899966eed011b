"""
A cell: one execution in a session, from the request to the verdict, as a stream of events.

As for a run, the host's clock and the counters outside decide. Only the ladder is another one: what
takes too long is interrupted, and if that does not help its interpreter is ended, not the sandbox.
"""

import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from signal import SIGINT, SIGKILL
from typing import Any

import anyio

from saggar.boundary import frames
from saggar.drivers.base import Reading
from saggar.engine import words
from saggar.engine.interpreter import Interpreter, Said, TooMuch
from saggar.engine.sandbox import Sandbox, Stream
from saggar.engine.verdict import Facts, judge
from saggar.model.codec import decode_value
from saggar.model.event import Cleared, Displayed, Event, Finished, Output, Started
from saggar.model.limits import Limits
from saggar.model.result import Display, ErrorInfo, Usage

LOOK = 0.05
"""Seconds between two looks at what the sandbox uses; most cells are over before the first one."""
DYING = 5.0
PARTING = 0.2
"""Seconds within which an interpreter that has ended is known to have."""
MAX_DISPLAYS = 1024


@dataclass(slots=True)
class Cell:
    """What is known of an execution so far; owned by the one loop that runs it."""

    sandbox: Sandbox
    shell: Interpreter
    limits: Limits
    wall: float
    facts: dict[str, Any] = field(default_factory=lambda: {"ready": True})
    error: ErrorInfo | None = None
    value: tuple[bytes, str] | None = None
    count: int | None = None
    truncated: bool = False
    written: int = 0
    displays: int = 0
    cleared: bool = False
    """Whether nothing was shown since all was cleared."""
    killed: float = 0.0
    interrupted: float = 0.0
    done: bool = False
    garbled: bool = False
    started: float = 0.0
    next_look: float = 0.0
    looked: float = 0.0
    before: Reading = field(default_factory=Reading)

    async def events(self, do: str, text: str, **head: object) -> AsyncGenerator[Event]:
        """Send the request and follow it to its end; the last event is the verdict."""
        self.started = time.monotonic()
        self.next_look, self.looked = self.started + LOOK, self.started
        # What runs between two cells counts to the second one, as what it prints comes with it.
        self.before = self.sandbox.used or self.sandbox.process.first_read()
        self.shell.request(do, text, **head)
        yield Started.model_construct(kind="started", isolation=self.sandbox.isolation)
        while not self.over:
            with anyio.move_on_after(self._patience()):
                await self.shell.heard()
            for event in self._hear():
                yield event
            await self._look()
        for event in self._take_all(self.shell.rest()):
            yield event
        yield self._finish()

    @property
    def over(self) -> bool:
        """It has answered, or its interpreter is gone."""
        return self.done or self.shell.exited is not None or "broken" in self.facts

    @property
    def lost(self) -> bool:
        """Whether its interpreter is of no use any more."""
        return not self.done or not self.shell.alive

    def _patience(self) -> float:
        if self.killed or self.sandbox.paused:
            return LOOK
        deadline = self.started + self.wall
        if self.interrupted:
            deadline = self.interrupted + self.limits.grace
        return max(0.0, min(deadline, self.next_look) - time.monotonic())

    def _hear(self) -> Iterator[Event]:
        return self._take_all(self.shell.hear())

    def _take_all(self, said: Iterator[Said]) -> Iterator[Event]:
        """All of it as events; crumbs of one stream that came together stay together."""
        held: list[Output] = []
        for event in self._events_of(said):
            if held and not (isinstance(event, Output) and event.stream == held[0].stream):
                yield _joined(held)
                held.clear()
            if isinstance(event, Output):
                held.append(event)
            else:
                yield event
        if held:
            yield _joined(held)

    def _events_of(self, said: Iterator[Said]) -> Iterator[Event]:
        for one in said:
            if isinstance(one, Output):
                yield from self._output(one.stream, one.data)
            elif isinstance(one, TooMuch):
                self._overflow()
            elif not self.done:
                yield from self._frame(one)

    def _output(self, stream: Stream, data: bytes) -> Iterator[Event]:
        room = max(0, self.limits.output - self.written)
        self.written += len(data)
        if len(data) > room:
            self._overflow()
        if kept := data[:room]:
            self.cleared = False
            yield Output.model_construct(kind="output", stream=stream, data=kept)

    def _overflow(self) -> None:
        """More than may be said: dropped from here on, and whoever says it is to stop."""
        self.truncated = True
        self.facts["output_spent"] = True

    def _frame(self, frame: frames.Frame) -> Iterator[Event]:
        head = words.json_object(frame.head)
        match frame.kind:
            case frames.TEXT:
                stream: Stream = "stderr" if head.get("stream") == "stderr" else "stdout"
                yield from self._output(stream, frame.blob)
            case frames.DISPLAY:
                # What stands beside it is kept as well.
                yield from self._display(head, frame.blob, len(frame.head) + len(frame.blob))
            case frames.CLEARED:
                # Nothing came since: to clear it again would be an event without an end.
                if not self.cleared:
                    self.cleared = True
                    yield Cleared(wait=head.get("wait") is True)
            case frames.VALUE:
                self.value = frame.blob, words.text(head.get("media_type"), 256)
            case frames.ERROR:
                self.facts["claimed_error"] = True
                texts = {
                    name: words.text(head.get(name, ""), frames.MAX_HEAD)
                    for name in ErrorInfo.model_fields
                }
                self.error = ErrorInfo(**texts)
            case frames.DONE:
                self._done(head)

    def _display(self, head: Mapping[str, Any], blob: bytes, size: int) -> Iterator[Event]:
        self.written += size
        self.displays += 1
        data = words.bundle(blob)
        if self.written > self.limits.output or self.displays > MAX_DISPLAYS:
            self._overflow()
        elif data:
            metadata, name = head.get("metadata"), head.get("id")
            self.cleared = False
            display = Display.model_construct(
                data=data,
                metadata=words.structure(metadata) if metadata else {},
                role="result" if head.get("role") == "result" else "display",
                id=words.text(name, 256) if isinstance(name, str) else None,
                update=head.get("update") is True,
            )
            yield Displayed.model_construct(kind="displayed", display=display)

    def _done(self, head: Mapping[str, Any]) -> None:
        self.done = True
        self.count = words.number(head.get("count"))
        self.facts["answered"], self.facts["claimed_exit"] = True, 0
        self.facts["disk_full"] = head.get("refused") == "disk"
        self.facts["sigxfsz"] = head.get("refused") == "file_size"

    async def _look(self) -> None:
        """The deadlines, and what is used by now."""
        now = time.monotonic()
        if self.over:
            return
        if self.sandbox.paused:
            self._stand_still(now)
        elif self.killed and now > self.killed + 2 * DYING:
            self.facts["broken"] = "the interpreter does not die"
        elif self.killed and now > self.killed + DYING:
            self.sandbox.closing.set()  # what is to end it does not: that may be the guest's doing
        elif self.shell.lost and not self.killed:
            await self._part()
        elif self.interrupted and now >= self.interrupted + self.limits.grace:
            await self.kill()
        elif now >= self.started + self.wall and "wall_spent" not in self.facts:
            self.facts["wall_spent"] = True
            await self.interrupt()
        elif "output_spent" in self.facts:
            await self.interrupt()
        if now >= self.next_look:
            self.next_look = now + LOOK
            await self._weigh(self.sandbox.process.read())
        self.looked = now

    def _stand_still(self, now: float) -> None:
        """A clock that runs while nothing can would end what somebody wants to keep."""
        gone = now - self.looked
        self.started += gone
        self.interrupted += gone if self.interrupted else 0.0
        self.killed += gone if self.killed else 0.0

    async def _weigh(self, used: Reading) -> None:
        if used.cpu is not None and used.cpu - (self.before.cpu or 0.0) >= self.limits.cpu:
            self.facts["cpu_spent"] = True
            await self.interrupt()
        if used.current is not None and used.current > self.limits.memory:
            self.facts["memory_spent"] = True
            await self.kill()

    async def _part(self) -> None:
        """Its channel ended: mostly it has ended itself, and we are about to hear how."""
        if not await self.shell.ended(PARTING):
            self.garbled = True
            await self.kill()

    async def interrupt(self) -> None:
        """SIGINT, once; from then on the grace runs."""
        if not self.interrupted:
            self.interrupted = time.monotonic()
            await self.shell.signal(SIGINT)

    async def kill(self) -> None:
        """End the interpreter with all it has started."""
        if not self.killed:
            self.killed = time.monotonic()
            self.facts["killed_by_us"] = True
            await self.shell.signal(SIGKILL)
            if self.sandbox.keeper.deaf:
                self.sandbox.closing.set()  # nobody inside will end it

    def _finish(self) -> Finished:
        used = self.sandbox.used = self.sandbox.process.first_read()
        self.facts["oom_kills"] = used.oom_kills - self.before.oom_kills
        self.facts["refused_forks"] = used.refused_forks - self.before.refused_forks
        exited = self.shell.exited
        if exited is not None and not self.done:
            self.facts["exit_code"], self.facts["signal"] = exited.code, exited.signal
        value = self._decode()
        reset = self.lost
        if reset:
            self.facts["claimed_error"] = True
            self.error = self.error or ErrorInfo(type="SessionReset", message=self._loss())
        verdict = judge(Facts(**self.facts))
        return Finished.model_construct(
            kind="finished",
            status=verdict.status,
            limit=verdict.limit,
            exit_code=verdict.exit_code if reset else None,
            signal=verdict.signal,
            truncated=self.truncated,
            value=value,
            files=(),
            files_skipped=(),
            error=self.error,
            usage=self._usage(used),
            isolation=self.sandbox.isolation,
            execution_count=self.count,
            session_reset=reset,
        )

    def _loss(self) -> str:
        """What became of the interpreter, in a few words."""
        exited, end = self.shell.exited, "the interpreter was lost"
        if self.facts.get("oom_kills") or "memory_spent" in self.facts:
            end = "the interpreter was ended for its memory"
        elif self.garbled:
            end = "the interpreter closed or broke its channel, and was ended"
        elif self.killed:
            end = "the interpreter did not stop when it was interrupted, and was ended"
        elif exited is not None and exited.signal:
            name = judge(Facts(ready=True, signal=exited.signal)).signal
            end = f"the interpreter was ended by {name}"
        elif exited is not None:
            end = f"the interpreter ended itself with exit code {exited.code}"
        if not self.sandbox.alive:
            return f"{end}; its sandbox ended with it, and the files there are lost as well"
        return f"{end}; what it remembered is lost, the next run has a fresh one"

    def _decode(self) -> Any:
        if self.value is None or self.facts.get("claimed_error"):
            return None
        blob, media_type = self.value
        if media_type == "text/plain":
            return blob.decode(errors="replace")
        try:
            return decode_value(blob, media_type)
        except ValueError as exc:
            self.facts["claimed_error"] = True
            self.error = ErrorInfo(type="InvalidValue", message=words.text(exc))
            return None

    def _usage(self, used: Reading) -> Usage:
        cpu = None if used.cpu is None else max(0.0, used.cpu - (self.before.cpu or 0.0))
        wall = time.monotonic() - self.started
        return Usage.model_construct(wall=wall, cpu=cpu, memory=used.memory, processes=None)


def _joined(pieces: list[Output]) -> Output:
    if len(pieces) == 1:
        return pieces[0]
    data = b"".join(piece.data for piece in pieces)
    return Output.model_construct(kind="output", stream=pieces[0].stream, data=data)
