"""
A session: a live sandbox and interpreters held open in it, which remember.

One thing at a time in each of its contexts; whoever comes meanwhile waits his turn. An interpreter
that is lost is replaced at once and never silently: the result of the run that lost it says so, and
the next run finds a fresh one that has the preloaded files again.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from signal import SIGINT, SIGKILL
from types import TracebackType
from typing import Any, Literal, Self, cast

import anyio
from anyio.abc import TaskGroup

from saggar.engine import words
from saggar.engine.cell import Cell
from saggar.engine.interpreter import Interpreter, Starter
from saggar.engine.sandbox import Sandbox
from saggar.engine.turns import Aborted, Turns
from saggar.errors import (
    Conflict,
    InvalidTask,
    NotFound,
    PlatformError,
    SaggarError,
    SandboxBroken,
    UsageError,
)
from saggar.model.event import Event, Finished, Output, afold
from saggar.model.policy import Policy
from saggar.model.result import ErrorInfo, Result, Status
from saggar.model.task import File

DYING = 5.0
MAIN = "main"
MOST_CONTEXTS = 16
ANSWER = 10.0
"""Seconds a question may take; it runs no code but that of the objects it looks at."""
Log = Callable[[str], None]
Opener = Callable[[], Awaitable[Sandbox]]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a session takes code, and what is to be known about that."""

    ready: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What could stand between two places of the code."""

    matches: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether a line more is expected."""

    status: Literal["complete", "incomplete", "invalid", "unknown"]
    indent: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """Something that the user has named."""

    name: str
    type: str
    repr: str
    size: int | None
    """Its length, if it has one."""


@dataclass(frozen=True, slots=True)
class Preload:
    """Files that run in every fresh interpreter before anything else, in this order."""

    folder: str = ""
    """Where they are, inside."""
    files: tuple[tuple[str, str], ...] = ()
    """Path and source."""


class Context:
    """One interpreter of a session, and those that replace it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turns = Turns()
        self.shell: Interpreter | None = None
        self.cell: Cell | None = None
        self.read: Interpreter | None = None
        """The interpreter that whoever has the turn is reading; it is closed when he is done."""
        self.standing = anyio.Event()
        """Set when its interpreter stands, or could not be had; a new one with each restart."""
        self.unsaid = False
        """Whether an interpreter was lost, and no result has said so yet."""
        self.reason: str | None = None
        self.failure: SaggarError | None = None
        self.restarting = False
        self.closed = False


class Session:
    """A sandbox with interpreters in it. Close it, or use it as a context."""

    def __init__(  # noqa: PLR0913 - what makes one
        self,
        opener: Opener,
        tasks: TaskGroup,
        start: Starter,
        *,
        policy: Policy,
        language: str,
        timeout: float,
        preload: Preload,
        log: Log | None,
        owner: str,
    ) -> None:
        self._opener, self._tasks, self._start = opener, tasks, start
        self.policy, self.language, self.owner = policy, language, owner
        self.timeout = timeout
        self._preload, self._log = preload, log
        self._contexts = {MAIN: Context(MAIN)}
        self._opening = anyio.Lock()
        self.created = self.used = time.time()
        self.execution_count = 0
        self.closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the sandbox and its first interpreter. SaggarError if it does not stand."""
        self.sandbox = await self._opener()
        self.id = self.sandbox.id
        await self._stand(self._contexts[MAIN])

    @property
    def ready(self) -> Readiness:
        """Whether the main context takes code."""
        context = self._contexts[MAIN]
        if self.closed:
            return Readiness(ready=False, reason="closed")
        if context.restarting:
            return Readiness(ready=False, reason="restarting")
        if context.failure is not None:
            return Readiness(ready=False, reason=str(context.failure))
        if context.shell is None:
            return Readiness(ready=False, reason="starting")
        return Readiness(ready=True, reason=context.reason)

    @property
    def restarting(self) -> bool:
        """Whether its main interpreter is being replaced."""
        return self._contexts[MAIN].restarting

    @property
    def busy(self) -> bool:
        """Whether something runs in any of its contexts."""
        return any(context.turns.taken for context in self._contexts.values())

    @property
    def queued(self) -> int:
        """How many wait for their turn."""
        return sum(len(context.turns) for context in self._contexts.values())

    @property
    def contexts(self) -> tuple[str, ...]:
        """The names of its contexts."""
        return tuple(self._contexts)

    async def run(
        self,
        code: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the cell's own, kept by the ladder
        context: str | None = None,
        env: Mapping[str, str] | None = None,
        kept: bool = True,
    ) -> Result[Any]:
        """
        Run a cell and wait for its end.

        Args:
            code: Source text; magics and `!commands` are understood.
            timeout: Seconds until it is interrupted; the session's own if none is said.
            context: The interpreter, by name.
            env: Variables for the time of this cell.
            kept: Whether it counts, and its value is kept in `_` and `Out`.

        Raises:
            SandboxBroken: No interpreter can be had.
            Conflict: The session is closed.
        """
        events = self.events(code, timeout=timeout, context=context, env=env, kept=kept)
        async with aclosing(events):
            return await afold(events)

    async def events(
        self,
        code: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the cell's own, kept by the ladder
        context: str | None = None,
        env: Mapping[str, str] | None = None,
        kept: bool = True,
    ) -> AsyncGenerator[Event]:
        """
        What happens during a cell, as it happens; `run` is its sum, and raises the same.

        Whoever closes it early interrupts the cell; the session lives.
        """
        one = self._context(context)
        wall, variables = self._wall(timeout), _env(env)
        if not isinstance(code, str):
            raise InvalidTask(f"code: wanted source text, found {code!r:.60}")
        try:
            await self._take(one)
        except Aborted:
            yield _aborted(self.sandbox.isolation)
            return
        cell: Cell | None = None
        finished = False
        try:
            shell = await self._shell(one)
            shell.admit(variables)
            self.used = time.time()
            cell = Cell(self.sandbox, shell, self.policy.limits, wall)
            one.cell = cell
            async with aclosing(cell.events("run", code, env=variables, kept=kept)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        finished = True
                        event = self._told(one, event)  # noqa: PLW2901 - the same, and more
                        self._settle(one, cell)
                        self._give(one)
                    yield event
        finally:
            if not finished:
                if cell is None:
                    self._give(one)
                else:
                    self._abandon(one, cell)

    def _wall(self, timeout: float | None) -> float:
        if timeout is None:
            return self.timeout
        if not 0 < timeout <= self.policy.limits.wall:
            raise InvalidTask(
                f"timeout: must be more than 0 and at most the limit of wall,"
                f" {self.policy.limits.wall:g} seconds, found {timeout}"
            )
        return timeout

    def _told(self, context: Context, event: Finished) -> Finished:
        """The end of a cell, with what was lost before it and nobody has heard of."""
        unsaid, context.unsaid = context.unsaid, False
        return event.model_copy(update={"session_reset": True}) if unsaid else event

    def _settle(self, context: Context, cell: Cell) -> None:
        """What an execution has left: a count, or the need for a fresh interpreter."""
        self.used = time.time()
        if cell.count is not None and context.name == MAIN:
            self.execution_count = cell.count
        if cell.lost and context.shell is cell.shell:  # and not replaced already
            self._replace(context)

    def _give(self, context: Context) -> None:
        """Give the turn back; whoever had it closes what was replaced while he read it."""
        read, context.read, context.cell = context.read, None, None
        if read is not None and read is not context.shell:
            read.close()
        context.turns.give()

    def _drop(self, context: Context, shell: Interpreter) -> None:
        """Close it, unless somebody reads it: then he will."""
        if context.read is not shell:
            shell.close()

    def _abandon(self, context: Context, cell: Cell) -> None:
        """Nobody listens any more: interrupt it, and keep its turn until it has stopped."""

        async def stop() -> None:
            try:
                for _ in cell._hear():  # noqa: SLF001 - it may be over already
                    pass
                if not cell.over:
                    await cell.interrupt()
                with anyio.move_on_after(self.policy.limits.grace):
                    while not cell.over:
                        await cell.shell.heard()
                        for _ in cell._hear():  # noqa: SLF001 - the same thing, without a listener
                            pass
                if not cell.over:
                    await cell.kill()
                    await cell.shell.ended(DYING)
                context.unsaid = context.unsaid or cell.lost
                self._settle(context, cell)
            finally:
                self._give(context)

        self._tasks.start_soon(stop)

    async def _take(self, context: Context) -> None:
        self._refuse_closed(context)
        self.sandbox.refuse_paused()
        await context.turns.take()
        try:
            self._refuse_closed(context)
            self.sandbox.refuse_paused()
        except Conflict:
            context.turns.give()
            raise

    def _refuse_closed(self, context: Context) -> None:
        if self.closed or context.closed:
            raise Conflict("the session is closed")

    async def _shell(self, context: Context) -> Interpreter:
        """Its interpreter, when it stands; one that has ended meanwhile is replaced."""
        shell = context.shell
        if not context.restarting and (shell is None or not shell.alive or not self.sandbox.alive):
            context.unsaid = context.unsaid or shell is not None  # it ended while nothing ran
            self._replace(context)
        await context.standing.wait()
        if context.shell is None:
            raise context.failure or SandboxBroken("no interpreter can be had")
        context.read = context.shell
        return context.shell

    def _replace(self, context: Context) -> None:
        """A fresh interpreter, begun now; whoever needs it waits for it."""
        if context.restarting or self.closed or context.closed:
            return
        context.restarting = True
        context.standing = anyio.Event()
        self._tasks.start_soon(self._replaced, context)

    async def _replaced(self, context: Context) -> None:
        try:
            await self._end(context)
            await self._stand(context)
        except SaggarError as exc:
            context.failure = exc
        except OSError as exc:  # no descriptors, no memory: ours to lack
            context.failure = PlatformError(f"this machine has no room for an interpreter: {exc}")
        finally:
            context.restarting = False
            context.standing.set()

    async def _end(self, context: Context) -> None:
        shell, context.shell = context.shell, None
        if shell is None:
            return
        if shell.exited is None and self.sandbox.alive:
            await shell.signal(SIGKILL)
            if not await shell.ended(DYING):
                await self.sandbox.close()  # it cannot be ended by itself
        self._drop(context, shell)

    async def _stand(self, context: Context) -> None:
        """An interpreter in a living sandbox, with the preloaded files in it."""
        context.failure = None
        async with self._opening:
            self._refuse_closed(context)
            if not self.sandbox.alive:
                self.sandbox = await self._opener()
                if self.closed:  # while it was opened, so that nobody else will close it
                    await self.sandbox.close()
                    raise Conflict("the session is closed")
        shell = await self._start(self.sandbox)
        try:
            context.reason = await self._load(shell)
            if not shell.alive:
                raise SandboxBroken(context.reason or "the interpreter ended while it was set up")
            self._refuse_closed(context)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await shell.signal(SIGKILL)
            shell.close()
            raise
        context.shell = shell
        context.standing.set()

    async def _load(self, shell: Interpreter) -> str | None:
        """Run the preloaded files; what failed, if anything."""
        failed: list[str] = []
        for path, source in self._preload.files:
            if not shell.alive:
                break
            cell = Cell(self.sandbox, shell, self.policy.limits, self.policy.limits.wall)
            head = {"path": path, "folder": self._preload.folder}
            events = cell.events("load", source, **head)
            said = [event.data async for event in events if isinstance(event, Output)]
            self._say(b"".join(said).decode(errors="replace"))
            if cell.error is not None:
                failed.append(f"{path.rpartition('/')[2]}: {cell.error.type}: {cell.error.message}")
                self._say(f"{failed[-1]}\n{cell.error.traceback}")
        return f"preload failed: {'; '.join(failed)}" if failed else None

    def _say(self, text: str) -> None:
        if not text or self._log is None:
            return
        try:
            self._log(text)
        except Exception as exc:
            raise UsageError(f"log: {exc}") from exc

    async def interrupt(self, *, context: str | None = None) -> bool:
        """Interrupt what runs; whether something did."""
        one = self._context(context)
        if one.shell is None or one.cell is None:
            return False
        await one.shell.signal(SIGINT)
        return True

    async def restart(self, *, context: str | None = None) -> None:
        """
        A fresh interpreter with the preloaded files, in the same sandbox: its files stay.

        What runs ends as cancelled, and so does what waits. SandboxBroken if none can be had.
        """
        one = self._context(context)
        one.turns.abort()
        if one.cell is not None:
            one.cell.facts["cancelled"] = True
        self._replace(one)
        await one.standing.wait()
        if one.shell is None:
            raise one.failure or SandboxBroken("no interpreter can be had")

    async def abort_queued(self, *, context: str | None = None) -> int:
        """End what waits for its turn as cancelled; how many did."""
        return self._context(context).turns.abort()

    async def complete(
        self, code: str, cursor: int | None = None, *, context: str | None = None
    ) -> Completion:
        """What could stand at the cursor, which counts characters."""
        place = len(code) if cursor is None else cursor
        said = await self._ask(context, "complete", code, cursor=place)
        match said:
            case {"matches": list(found), "start": int(start), "end": int(end)}:
                if 0 <= start <= end <= len(code):
                    return Completion(tuple(map(words.text, found)), start, end)
        return Completion((), place, place)

    async def inspect(
        self, code: str, cursor: int | None = None, *, detail: int = 0, context: str | None = None
    ) -> Mapping[str, str]:
        """What is known of the name at the cursor, by media type; empty if nothing is."""
        place = len(code) if cursor is None else cursor
        data = (await self._ask(context, "inspect", code, cursor=place, detail=detail)).get("data")
        if not isinstance(data, dict):
            return {}
        return {words.text(kind): words.text(said) for kind, said in data.items()}

    async def is_complete(self, code: str, *, context: str | None = None) -> Completeness:
        """Whether `code` could be run as it is."""
        said = await self._ask(context, "is_complete", code)
        status = said.get("status")
        if status not in ("complete", "incomplete", "invalid"):
            return Completeness("unknown")
        return Completeness(cast("Any", status), words.text(said.get("indent") or ""))

    async def variables(self, *, context: str | None = None) -> tuple[Variable, ...]:
        """What the user has named, modules left out."""
        found = (await self._ask(context, "variables")).get("variables")
        said = found if isinstance(found, list) else []
        return tuple(named for one in said if (named := _variable(one)) is not None)

    async def _ask(
        self, name: str | None, do: str, text: str = "", **head: object
    ) -> dict[str, Any]:
        context = self._context(name)
        try:
            await self._take(context)
        except Aborted:
            raise Conflict("it was sent away before its turn came") from None
        try:
            shell = await self._shell(context)
            said: dict[str, Any] = {}
            try:
                with anyio.CancelScope(shield=True):  # or the next one who asks would get this
                    said = await shell.ask(do, text, patience=ANSWER, **head)
            except SandboxBroken:
                self._replace(context)
                raise
            return said
        finally:
            self._give(context)

    async def new_context(self, name: str) -> None:
        """One more interpreter in the same sandbox. Conflict if there is one of that name."""
        if name in self._contexts:
            raise Conflict(f"there is a context {name!r} already")
        if len(self._contexts) >= MOST_CONTEXTS:
            raise Conflict(f"a session has at most {MOST_CONTEXTS} contexts")
        context = self._contexts[name] = Context(name)
        try:
            self._replace(context)
            await context.standing.wait()
            if context.shell is None:
                raise context.failure or SandboxBroken("no interpreter can be had")
        except BaseException:
            context.closed = True
            self._contexts.pop(name, None)
            raise

    async def close_context(self, name: str) -> None:
        """End one. Conflict for the main one: close the session."""
        if name == MAIN:
            raise Conflict("the main context ends with its session")
        context = self._context(name)
        context.closed = True
        context.turns.abort()
        if context.cell is not None:
            context.cell.facts["cancelled"] = True
        del self._contexts[name]
        await self._end(context)

    def _context(self, name: str | None) -> Context:
        name = name or MAIN
        if name not in self._contexts:
            raise NotFound.among("context", name, self._contexts)
        return self._contexts[name]

    async def close(self) -> None:
        """End everything in it; returns when it is gone."""
        self.closed = True
        for context in self._contexts.values():
            context.turns.abort()
            if context.cell is not None:
                context.cell.facts["cancelled"] = True
        await self.sandbox.close()
        self.bury()

    def bury(self) -> None:
        """Close what led to its interpreters, whose sandbox is gone."""
        self.closed = True
        for context in self._contexts.values():
            shell, context.shell = context.shell, None
            if shell is not None:
                self._drop(context, shell)


def _env(env: Mapping[str, str] | None) -> dict[str, str]:
    for name, value in (env or {}).items():
        if not name or "=" in name or "\0" in f"{name}{value}":
            raise InvalidTask(f"env: {name!r:.60} is no name of a variable, or its value has NUL")
    return {name: str(value) for name, value in (env or {}).items()}


def _variable(said: object) -> Variable | None:
    """What the guest says of one; nothing if it is not said as it should be."""
    match said:
        case [str(name), str(kind), str(shown), size]:
            named, typed = words.text(name), words.text(kind)
            return Variable(named, typed, words.text(shown), words.number(size))
    return None


def _aborted(isolation: str) -> Finished:
    message = "it was sent away before its turn came"
    error = ErrorInfo(type="ExecutionAborted", message=message)
    return Finished(status=Status.CANCELLED, isolation=isolation, error=error)


def preloaded(files: Sequence[File], folder: str) -> Preload:
    """Those of the files that are Python, by name."""
    found = sorted((f for f in files if f.path.endswith(".py")), key=lambda f: f.path)
    return Preload(folder, tuple((f.path, f.content.decode("utf-8", "replace")) for f in found))
