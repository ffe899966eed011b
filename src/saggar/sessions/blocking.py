"""
Sessions and sandboxes for code without an event loop: every call waits for its end.

Each of these stands for the asynchronous one of the same name, whose methods it has; see there.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM
from typing import Any, Protocol, Self, TypeVar

from saggar.engine.files import Entry
from saggar.engine.keeper import Exited
from saggar.engine.sandbox import Metrics, Sandbox, SandboxProcess, Stream
from saggar.engine.session import Completeness, Completion, Readiness, Session, Variable
from saggar.model.event import Event
from saggar.model.result import Result

T = TypeVar("T")


class Calls(Protocol):
    """Waits for what runs on the platform's own thread."""

    def __call__(self, function: Callable[..., Awaitable[T]], /, *args: Any, **named: Any) -> T:
        """Call it there, and return what it returns."""


class BlockingProcess:
    """A program in a live sandbox; see `saggar.engine.sandbox.SandboxProcess`."""

    def __init__(self, call: Calls, process: SandboxProcess) -> None:
        self._call, self._process = call, process

    @property
    def pid(self) -> int:
        """Its number inside, as the inside says."""
        return self._process.pid

    @property
    def exited(self) -> Exited | None:
        """How it ended; None while it lives."""
        return self._process.exited

    def output(self) -> Iterator[tuple[Stream, bytes]]:
        """What it writes, as it comes, until it has ended and all was read."""
        yield from _stepped(self._call, self._process.output())

    def write(self, data: bytes) -> None:
        """To its stdin, or its terminal."""
        self._call(self._process.write, data)

    def close_stdin(self) -> None:
        """The end of its input."""
        self._call(_async(self._process.close_stdin))

    def signal(self, number: int = SIGTERM) -> None:
        """To it and to its group."""
        self._call(self._process.signal, number)

    def resize(self, rows: int, columns: int) -> None:
        """Another size of its terminal."""
        self._call(self._process.resize, rows, columns)

    def wait(self) -> Exited:
        """Until it has ended; what it still writes is dropped."""
        return self._call(self._process.wait)


class BlockingFiles:
    """The files of a live sandbox; see `saggar.engine.files.Files`."""

    def __init__(self, call: Calls, sandbox: Sandbox) -> None:
        self._call, self._files = call, sandbox.files

    def read(self, path: str, *, most: int | None = None) -> bytes:
        """The content of a regular file."""
        return self._call(self._files.read, path, most=most)

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Make a file of `data`."""
        self._call(self._files.write, path, data, mode=mode)

    def list(self, path: str = ".") -> tuple[Entry, ...]:
        """The entries of a folder, by name."""
        return self._call(self._files.list, path)

    def stat(self, path: str) -> Entry:
        """One entry."""
        return self._call(self._files.stat, path)

    def move(self, path: str, target: str) -> None:
        """Give it another name."""
        self._call(self._files.move, path, target)

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link, an empty folder, or a tree."""
        self._call(self._files.remove, path, recursive=recursive)

    def mkdir(self, path: str) -> None:
        """Make a folder and those above it."""
        self._call(self._files.mkdir, path)

    def upload(self, source: str | Path, target: str = ".") -> None:
        """Copy a folder of this machine into the sandbox."""
        self._call(self._files.upload, source, target)

    def download(self, source: str, target: str | Path) -> tuple[str, ...]:
        """Copy a folder of the sandbox to this machine."""
        return self._call(self._files.download, source, target)


class BlockingSandbox:
    """A live sandbox; see `saggar.engine.sandbox.Sandbox`."""

    def __init__(self, call: Calls, sandbox: Sandbox) -> None:
        self._call, self._sandbox = call, sandbox
        self.id, self.isolation = sandbox.id, sandbox.isolation
        self.files = BlockingFiles(call, sandbox)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether something can be started in it."""
        return self._sandbox.alive

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: bytes | None = b"",
        pty: tuple[int, int] | None = None,
    ) -> BlockingProcess:
        """Start a program."""
        made = self._call(self._sandbox.spawn, argv, env=env, cwd=cwd, stdin=stdin, pty=pty)
        return BlockingProcess(self._call, made)

    def pause(self) -> None:
        """Stop every process where it is."""
        self._call(self._sandbox.pause)

    def resume(self) -> None:
        """Let it go on."""
        self._call(self._sandbox.resume)

    def metrics(self) -> Metrics:
        """What it uses now."""
        return self._call(self._sandbox.metrics)

    def extend(self, ttl: float) -> None:
        """Let it live for `ttl` seconds from now."""
        self._call(_async(self._sandbox.extend), ttl)

    def close(self) -> None:
        """End it, with all that lives in it."""
        self._call(self._sandbox.close)


class BlockingSession:
    """A session; see `saggar.engine.session.Session`."""

    def __init__(self, call: Calls, session: Session) -> None:
        self._call, self._session = call, session
        self.id = session.id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def ready(self) -> Readiness:
        """Whether it takes code."""
        return self._session.ready

    @property
    def execution_count(self) -> int:
        """How many cells have run in its interpreter."""
        return self._session.execution_count

    @property
    def contexts(self) -> tuple[str, ...]:
        """The names of its contexts."""
        return self._session.contexts

    @property
    def sandbox(self) -> BlockingSandbox:
        """What it lives in now."""
        return BlockingSandbox(self._call, self._session.sandbox)

    def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        context: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result[Any]:
        """Run a cell and wait for its end."""
        return self._call(self._session.run, code, timeout=timeout, context=context, env=env)

    def events(
        self,
        code: str,
        *,
        timeout: float | None = None,
        context: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Iterator[Event]:
        """What happens during a cell, as it happens."""
        events = self._session.events(code, timeout=timeout, context=context, env=env)
        yield from _stepped(self._call, events)

    def interrupt(self, *, context: str | None = None) -> bool:
        """Interrupt what runs, from another thread; whether something did."""
        return self._call(self._session.interrupt, context=context)

    def restart(self, *, context: str | None = None) -> None:
        """A fresh interpreter with the preloaded files."""
        self._call(self._session.restart, context=context)

    def abort_queued(self, *, context: str | None = None) -> int:
        """End what waits for its turn as cancelled."""
        return self._call(self._session.abort_queued, context=context)

    def complete(
        self, code: str, cursor: int | None = None, *, context: str | None = None
    ) -> Completion:
        """What could stand at the cursor."""
        return self._call(self._session.complete, code, cursor, context=context)

    def inspect(
        self, code: str, cursor: int | None = None, *, detail: int = 0, context: str | None = None
    ) -> Mapping[str, str]:
        """What is known of the name at the cursor."""
        return self._call(self._session.inspect, code, cursor, detail=detail, context=context)

    def is_complete(self, code: str, *, context: str | None = None) -> Completeness:
        """Whether `code` could be run as it is."""
        return self._call(self._session.is_complete, code, context=context)

    def variables(self, *, context: str | None = None) -> tuple[Variable, ...]:
        """What the user has named."""
        return self._call(self._session.variables, context=context)

    def new_context(self, name: str) -> None:
        """One more interpreter in the same sandbox."""
        self._call(self._session.new_context, name)

    def close_context(self, name: str) -> None:
        """End one."""
        self._call(self._session.close_context, name)

    def close(self) -> None:
        """End everything in it."""
        self._call(self._session.close)


def _async(function: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    async def called(*args: Any) -> T:
        return function(*args)

    return called


def _stepped(call: Calls, items: Any) -> Iterator[Any]:
    """An asynchronous iterator's items, one call for each; left early, it is closed."""
    try:
        while True:
            try:
                yield call(_async_next(items))
            except StopAsyncIteration:
                return
    finally:
        call(items.aclose)


def _async_next(items: Any) -> Callable[[], Awaitable[Any]]:
    async def following() -> Any:
        return await anext(items)

    return following
