"""
A run: one task in one tree, from the claim to the verdict, as a stream of events.

One loop, one wait. The host's clock, the wire and the counters outside decide; what the guest says
is carried along as its words.
"""

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from resource import RLIMIT_AS, RLIMIT_DATA
from typing import Any

import anyio

from saggar.boundary import frames
from saggar.boundary.order import Order
from saggar.drivers.base import Exit, Process, Reading
from saggar.engine import sealed, words
from saggar.engine.collect import collect
from saggar.engine.streams import drop
from saggar.engine.verdict import Facts, judge
from saggar.engine.wire import Stream, Wire
from saggar.errors import InvalidTask
from saggar.model.codec import Large, decode_value
from saggar.model.event import Displayed, Event, Finished, Output, Started, Yielded
from saggar.model.limits import Limits
from saggar.model.plan import Plan
from saggar.model.result import Display, ErrorInfo, Skipped, Usage
from saggar.model.task import File, Task

LOOK = 0.05
"""Seconds between two looks at what a tree has used; most runs are over before the first one."""
DYING = 5.0
"""Seconds a killed tree may take to be gone before we say that our wall broke."""
MAX_DISPLAYS = 256
LARGEST = 4 << 20
"""Bytes of one value or display, whatever the output limit: they are parsed, and kept, by us."""
OVERHEAD = 8 << 20
"""What may come over the channel beside the output: one value, errors, and what is said twice."""
SMALL = 1 << 16


async def run(process: Process, task: Task, plan: Plan, limits: Limits) -> AsyncGenerator[Event]:
    """
    Run `task` in a parked `process`. Whoever took that releases it when this ends, however it ends:
    until then a tree that has answered, or a caller who has given up, has not been killed.
    """
    one = _Run(process, task, plan, limits)
    shared: tuple[int, ...] = ()
    try:
        if isinstance(task.input, Large) and task.input.beside:
            shared = (await anyio.to_thread.run_sync(sealed.share, task.input.beside),)
        one.begin(shared)
        while not one.over:
            with anyio.move_on_after(one.patience()):
                await anyio.wait_readable(one.wire.fileno())
            for event in one.hear():
                yield event
            one.look()
        if one.wire.exited:
            process.kill()  # before what is left is read: nobody may go on adding to it
        for event in one.drain():
            yield event
        yield await one.finish()
    finally:
        one.wire.close()
        drop(*shared)


class _Run:
    """What is known of a run so far; mutable, and owned by the one loop above."""

    def __init__(self, process: Process, task: Task, plan: Plan, limits: Limits) -> None:
        self.process, self.task, self.plan, self.limits = process, task, plan, limits
        self.largest = plan.largest or min(limits.output, LARGEST)
        self.wire = Wire(process, max_blob=self.largest, rights="body" in plan.guest)
        self.facts: dict[str, Any] = {}
        self.truncated = False
        self.value: tuple[bytes, str, memoryview | None] | None = None
        self.said = 0
        self.error: ErrorInfo | None = None
        self.displays = 0
        self.written = 0
        self.killed = 0.0
        self.started = self.soft = self.hard = self.next_look = 0.0

    def begin(self, shared: Sequence[int]) -> None:
        """Narrow the tree to its limits and send the task; from here on the clock runs."""
        self.process.claim(self.limits)
        self.started = time.monotonic()
        self.soft = self.started + self.limits.wall
        self.hard = self.soft + self.limits.grace
        self.next_look = self.started + LOOK
        self.wire.send(self._order().encode(), self._stdin(), shared)

    def _order(self) -> Order:
        task, process, guest = self.task, self.process, self.plan.guest
        argv, cwd = self._start()
        asked = task.program.entry is not None and not task.input.is_none
        return Order(
            argv=argv,
            code=guest.get("code", ""),
            filename=guest.get("filename", ""),
            entry=guest.get("entry"),
            input=guest.get("input", task.input.data if asked else None),
            want_value=guest.get("want_value", False),
            args=task.args,
            env={**process.environment, **self.plan.env, **task.env},
            cwd=cwd,
            site=process.site,
            files=tuple(
                (f.path if cwd == process.cwd else f"{process.cwd}/{f.path}", f.content, f.mode)
                for f in (*self.plan.files, *task.files)
            ),
            rlimits=_with_room(process.rlimits, self.plan.reserves),
            largest=self.largest,
            body=guest.get("body"),
            stays=False,
        )

    def _start(self) -> tuple[tuple[str, ...] | None, str]:
        """What to execute, and where: the plan's choice, or what the sandbox starts by itself."""
        if self.plan.argv != ():
            return self.plan.argv, self.process.cwd
        if self.process.entrypoint is None:
            raise InvalidTask("there is no command to run, and nothing that starts by itself here")
        argv, cwd = self.process.entrypoint
        return (*argv, *self.task.args), cwd

    def _stdin(self) -> bytes:
        """A script finds its input there; a function gets it as its argument."""
        if self.plan.stdin is not None:
            return self.plan.stdin
        if self.task.stdin or self.task.program.entry is not None:
            return self.task.stdin
        return self.task.input.data

    @property
    def over(self) -> bool:
        """It has answered, or its first process is dead, or will not die."""
        return "answered" in self.facts or self.wire.exited or "broken" in self.facts

    def patience(self) -> float:
        """Seconds until something is due although nothing is heard."""
        if self.killed:
            return LOOK
        deadline = self.hard if "wall_spent" in self.facts else self.soft
        return max(0.0, min(deadline, self.next_look) - time.monotonic())

    def hear(self) -> Iterator[Event]:
        """What has come over the wire, up to the frame that ends it."""
        # Once around and no further: a guest that never stops talking must not keep the loop here.
        for said in self.wire.read():
            yield from self._take(said)
            if "answered" in self.facts:
                return

    def _take(self, said: frames.Frame | tuple[Stream, bytes]) -> Iterator[Event]:
        return self._frame(said) if isinstance(said, frames.Frame) else self._output(*said)

    def _output(self, stream: Stream, data: bytes) -> Iterator[Event]:
        kept = data[: max(0, self.limits.output - self.written)]
        self.written += len(data)
        if len(kept) < len(data):
            self.truncated = True
            self.kill("output_spent")
        if kept:
            yield Output.model_construct(kind="output", stream=stream, data=kept)

    def _frame(self, frame: frames.Frame) -> Iterator[Event]:
        """One message from inside. Whatever it says, it changes value and text only."""
        if "answered" in self.facts:
            return  # the first end counts
        head = words.json_object(frame.head)
        if frame.kind == frames.VALUE and head.get("more") is True and "body" in self.plan.guest:
            # What nobody takes waits inside.
            yield Yielded.of(frame.blob, str(head.get("media_type")), self._memory(head))
            return
        self.said += frames.HEADER.size + len(frame.head) + len(frame.blob)
        if self.said > self.limits.output + self.plan.largest + OVERHEAD:
            self.kill("output_spent")
            return
        if frame.kind == frames.READY:
            if "ready" not in self.facts:
                yield Started.model_construct(kind="started", isolation=self.process.isolation)
            self.facts["ready"] = True
            return
        match frame.kind:
            case frames.VALUE:
                self.value = frame.blob, str(head.get("media_type")), self._memory(head)
            case frames.DISPLAY:
                yield from self._take_display(frame.blob)
            case frames.ERROR:
                self.facts["claimed_error"] = True
                texts = {name: words.text(head.get(name, "")) for name in ErrorInfo.model_fields}
                self.error = ErrorInfo(**texts)
            case frames.DONE:
                self._take_done(head)

    def _memory(self, head: dict[str, Any]) -> memoryview | None:
        """What came in shared memory beside a value, if it is what it should be."""
        right = self.wire.right() if head.get("rights") == 1 else None
        if right is None:
            return None
        try:
            return sealed.mapped(right, self.limits.memory)
        except ValueError as exc:
            self._invalid(exc)
            return None

    def _invalid(self, exc: ValueError) -> None:
        self.facts["claimed_error"] = True
        self.error = ErrorInfo(type="InvalidValue", message=words.text(exc))

    async def _decode(self) -> Any:
        """The last value that came; a large one beside the event loop."""
        if self.value is None:
            return None
        blob, media_type, memory = self.value
        if media_type == "text/plain":
            return blob.decode(errors="replace")
        try:
            if len(blob) < SMALL:
                return decode_value(blob, media_type, memory)
            return await anyio.to_thread.run_sync(decode_value, blob, media_type, memory)
        except ValueError as exc:
            self._invalid(exc)
            return None

    def _miss_answer(self) -> None:
        """A function that ended well and without an answer has failed: null would have been one."""
        called = self.plan.argv is None and self.task.program.entry is not None
        code = self.facts.get("claimed_exit", self.facts.get("exit_code"))
        if called and self.value is None and self.error is None and code == 0:
            self.facts["claimed_error"] = True
            self.error = ErrorInfo(type="NoAnswer", message="the program ended without an answer")

    def _take_display(self, blob: bytes) -> Iterator[Event]:
        self.written += len(blob)
        self.displays += 1
        bundle = words.bundle(blob)
        if self.written > self.limits.output or self.displays > MAX_DISPLAYS:
            self.truncated = True
            self.kill("output_spent")
        elif bundle:
            yield Displayed(display=Display(data=bundle))

    def _take_done(self, head: dict[str, Any]) -> None:
        code = head.get("exit")
        self.facts["answered"] = True
        self.facts["claimed_exit"] = code & 0xFF if isinstance(code, int) else 1
        self.facts["disk_full"] = head.get("refused") == "disk"
        self.facts["sigxfsz"] = head.get("refused") == "file_size"

    def look(self) -> None:
        """Deadlines, and what the tree has used by now."""
        now = time.monotonic()
        if self.over:
            return
        if self.killed and now > self.killed + DYING:
            self.facts["broken"] = "the tree does not die"
        elif self.wire.garbled and not self.killed:
            self._strike()
        elif now >= self.hard:
            self.kill("wall_spent")
        elif now >= self.soft and "wall_spent" not in self.facts:
            self.facts["wall_spent"] = True
            self.process.interrupt()
        if now >= self.next_look:
            self.next_look = now + LOOK
            self._look_at(self.process.read())

    def _look_at(self, used: Reading) -> None:
        if used.cpu is not None and used.cpu >= self.limits.cpu:
            self.kill("cpu_spent")
        if used.current is not None and used.current > self.limits.memory:
            self.kill("memory_spent")

    def kill(self, why: str) -> None:
        """End the tree for a reason that the verdict will name."""
        self.facts[why] = True
        if not self.killed:
            self._strike()

    def _strike(self) -> None:
        self.killed = time.monotonic()
        self.process.kill()

    def drain(self) -> Iterator[Event]:
        """The rest of what came before the end; a survivor that goes on is cut off."""
        for said in self.wire.drain():
            yield from self._take(said)
            if self.truncated:
                return

    async def finish(self) -> Event:
        """Read the counters, kill what is left, collect, judge."""
        wall = time.monotonic() - self.started
        used = self.process.first_read()
        self.facts["killed_by_us"] = bool(self.killed)
        if self.process.disk_full():
            self.facts["disk_full"] = True
        # Before the caller has the answer: he may be busy for long, and what goes on writing lives.
        self.process.kill()
        exit_: Exit | None = None
        if "answered" not in self.facts or self.task.collect:
            exit_ = await self._end()
        files, skipped = await self._collect()
        value = await self._decode()
        if exit_ is not None and "answered" not in self.facts:
            self.facts["exit_code"], self.facts["signal"] = exit_.code, exit_.signal
        self._miss_answer()
        return self._finished(_usage(wall, used, exit_), used, value, files, skipped)

    async def _end(self) -> Exit | None:
        """Until every process is dead, which after the kill is a matter of the kernel's time."""
        with anyio.move_on_after(DYING, shield=True):
            return await self.process.wait()
        self.facts["broken"] = "the tree does not die"
        return None

    async def _collect(self) -> tuple[Sequence[File], Sequence[Skipped]]:
        if not self.task.collect or "broken" in self.facts:
            return (), ()
        found = await anyio.to_thread.run_sync(
            lambda: collect(self.process.work, self.task.collect, max_bytes=self.limits.disk)
        )
        own = self.plan.guest.get("filename")  # the program itself is no output of it
        return [file for file in found.files if file.path != own], found.skipped

    def _finished(
        self,
        usage: Usage,
        used: Reading,
        value: Any,
        files: Sequence[File],
        skipped: Sequence[Skipped],
    ) -> Event:
        self.facts.update(oom_kills=used.oom_kills, refused_forks=used.refused_forks)
        verdict = judge(Facts(**self.facts))
        return Finished.model_construct(
            kind="finished",
            status=verdict.status,
            limit=verdict.limit,
            exit_code=verdict.exit_code,
            signal=verdict.signal,
            truncated=self.truncated,
            value=value,
            files=tuple(files),
            files_skipped=tuple(skipped),
            error=self.error,
            usage=usage,
            isolation=self.process.isolation,
        )


def _with_room(
    rlimits: tuple[tuple[int, int, int], ...], reserves: int
) -> tuple[tuple[int, int, int], ...]:
    """The same limits, with room for what a runtime maps and never uses."""
    if not reserves:
        return rlimits
    mapped = (RLIMIT_DATA, RLIMIT_AS)
    return tuple(
        (number, soft + reserves, hard + reserves) if number in mapped else (number, soft, hard)
        for number, soft, hard in rlimits
    )


def _usage(wall: float, used: Reading, exit_: Exit | None) -> Usage:
    cpu, memory = used.cpu, used.memory
    if exit_ is not None:
        cpu = exit_.cpu if cpu is None else max(cpu, exit_.cpu or 0.0)
        memory = exit_.memory if memory is None else memory
    return Usage.model_construct(wall=wall, cpu=cpu, memory=memory, processes=used.processes)
