"""
A live sandbox: several processes may come and go in it, and its files stay until it ends.

It is the same tree behind the same walls as that of a run. Its first process is a keeper, which
starts the others; their streams are pipes and terminals that the host made, so that what they write
is read, and what they read is written, by the host alone.
"""

import os
import secrets
import signal as signals
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import anyio

from saggar.drivers.base import Process, Reading
from saggar.engine.files import Files
from saggar.engine.keeper import Exited, Keeper, Started
from saggar.engine.streams import CHUNK, Pipe, drop, read_some
from saggar.errors import Conflict, InvalidTask, SandboxBroken
from saggar.model.limits import Limits

LOOK = 0.25
"""Seconds between two looks at what a sandbox uses, while something in it could use it."""
WEIGH = 1.0
"""Seconds between two looks at its memory, where no cgroup counts that."""
BIRTH = 10.0
MOST_CELLS = (1 << 16) - 1
"""Rows or columns of a terminal, which has two bytes for each."""
Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a live sandbox uses, measured from outside; None where it cannot be measured."""

    cpu: float | None
    """Seconds, since it was opened."""
    memory: int | None
    """Bytes now."""
    peak: int | None
    """Bytes at most."""
    disk: int | None
    """Bytes in its writable space."""
    inodes: int | None
    processes: int | None
    paused: bool
    expires: float | None
    """When its time to live is over, in seconds since the epoch; None: never."""


class SandboxProcess:
    """
    A program in a live sandbox.

    Read what it writes: a pipe that is full makes it wait. `wait` reads and drops what is left.
    """

    def __init__(
        self,
        keeper: Keeper,
        started: Started,
        stdin: int,
        outputs: Mapping[Stream, int],
        forget: "Callable[[SandboxProcess], None]",
    ) -> None:
        self._keeper, self._started = keeper, started
        self._forget = forget
        self._users, self._closing = 0, False
        self._stdin = stdin
        self._input = memoryview(b"")
        self._outputs = {name: Pipe(fd) for name, fd in outputs.items()}

    @property
    def id(self) -> int:
        """Its number in its sandbox: as the host counts, and not what the inside calls it."""
        return self._started.number

    @property
    def pid(self) -> int:
        """Its number inside, as the inside says."""
        return self._started.pid

    @property
    def exited(self) -> Exited | None:
        """How it ended; None while it lives."""
        return self._started.exit

    def feed(self, data: bytes) -> None:
        """All of its input; what the pipe does not take now goes while its output is read."""
        self._input = memoryview(data)
        self._feed()

    def _feed(self) -> None:
        try:
            while self._input:
                self._input = self._input[os.write(self._stdin, self._input[:CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:
            self._input = memoryview(b"")  # it does not read, and need not
        self.close_stdin()

    async def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """What it writes, as it comes, until it has ended and all was read."""
        with self._in_use():
            while self._outputs:
                ready = await self._readable()
                for name in ready:
                    data = self._outputs[name].read()
                    if data:
                        yield name, data
                    elif data is not None:
                        self._outputs.pop(name).close()
                if self._started.exit is not None:
                    break  # what it left to its children is nobody's to wait for
            for name, pipe in self._outputs.items():
                if data := pipe.rest():
                    yield name, data
            self._close_outputs()

    async def _readable(self) -> list[Stream]:
        fds = {pipe.fd: name for name, pipe in self._outputs.items()}
        feeding = self._stdin if self._input else -1
        ready = await read_some([*fds, self._started.end_told.fileno()], feeding)
        if feeding in ready:
            self._feed()
        return [fds[fd] for fd in ready if fd in fds]

    def _close_outputs(self) -> None:
        while self._outputs:
            self._outputs.popitem()[1].close()

    async def write(self, data: bytes) -> None:
        r"""
        To its stdin, or its terminal; returns when all of it is in the pipe.

        Raises:
            Conflict: Its stdin is closed, by us or by it.
        """
        left = memoryview(data)
        with self._in_use():
            while left:
                if self._stdin < 0 or self._started.exit is not None:
                    self.close_stdin()
                    raise Conflict("its stdin is closed")
                try:
                    left = left[os.write(self._stdin, left[: 1 << 16]) :]
                except BlockingIOError:
                    # For its end as well: its children may hold the pipe open, and not read.
                    await read_some([self._started.end_told.fileno()], self._stdin)
                except OSError:
                    self.close_stdin()

    def close_stdin(self) -> None:
        """The end of its input. A terminal has none: send it Ctrl-D, a byte of 4."""
        if self._stdin >= 0:
            drop(self._stdin)
            self._stdin = -1

    async def signal(self, number: int = signals.SIGTERM) -> None:
        """To it and to its group; nothing happens when it has ended."""
        if self._started.exit is None:
            await self._keeper.signal(self._started, int(number))

    async def resize(self, rows: int, columns: int) -> None:
        """Another size of its terminal."""
        if "stdout" not in self._outputs or "stderr" in self._outputs:
            raise Conflict("it has no terminal, or that is closed")
        if not (0 < rows <= MOST_CELLS and 0 < columns <= MOST_CELLS):
            raise InvalidTask(
                f"wanted rows and columns up to {MOST_CELLS}, found {rows} and {columns}"
            )
        resize(self._outputs["stdout"].fd, rows, columns)

    async def wait(self) -> Exited:
        """Until it has ended; what it still writes is dropped."""
        async for _ in self.output():
            pass
        await self._started.ended.wait()
        self.close()
        assert self._started.exit is not None  # noqa: S101 - set before the event
        return self._started.exit

    def close(self) -> None:
        """Close what leads to it, when nobody uses it any more; it is not ended by that."""
        self._closing = True
        if self._users:
            return
        self.close_stdin()
        self._close_outputs()
        self._started.forget()
        self._forget(self)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """While somebody waits for a descriptor, its number must not become another one's."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._closing:
                self.close()


class Sandbox:
    """
    A live sandbox. Close it, or use it as a context; it ends with its platform in any case.

    Everything it starts shares its walls, its files and its limits of memory, processes and disk.
    """

    def __init__(
        self, process: Process, limits: Limits, *, driver: str, ttl: float | None, owner: str
    ) -> None:
        self.id = secrets.token_hex(16)  # it begins like no option, and holds no colon
        self.driver, self.owner = driver, owner
        self.limits = limits
        self.isolation = process.isolation
        self.cwd = process.cwd
        self.created = time.time()
        self.expires = None if ttl is None else self.created + ttl
        self.paused = False
        self.process = process
        self.used: Reading | None = None
        """What it had used when its last cell ended."""
        self.keeper = Keeper(process)
        self.files = Files(self)
        self._processes: set[SandboxProcess] = set()
        self.closing = anyio.Event()
        self.ended = anyio.Event()
        """Set when it is gone, and all that it had given back."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def alive(self) -> bool:
        """Whether something can be started in it."""
        return not self.keeper.dead.is_set() and not self.closing.is_set()

    async def stand(self, files: Sequence[tuple[str, bytes, int]], env: Mapping[str, str]) -> None:
        """Make the parked child a keeper. SandboxBroken if it does not come to that."""
        self.process.claim(self.limits)
        self.process.close_stdin()
        await self.keeper.begin(self.keeper.order(self.limits, files, env))
        with anyio.move_on_after(BIRTH):
            await self.keeper.ready.wait()
        if self.keeper.dead.is_set() or not self.keeper.ready.is_set():
            raise SandboxBroken(
                self.keeper.complaint or "the sandbox did not answer when it was opened"
            )

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: bytes | None = b"",
        pty: tuple[int, int] | None = None,
    ) -> SandboxProcess:
        """
        Start a program.

        Args:
            argv: The program and its arguments; there is no shell.
            env: Variables beside those of the sandbox.
            cwd: A folder inside; the work folder if none is named.
            stdin: What it reads, and then the end; None leaves it open for `write`.
            pty: Rows and columns of a terminal to run it in, which is its stdin, stdout and stderr;
                all it writes comes as stdout.

        Raises:
            NotFound: There is no such program or folder.
            InvalidTask: It cannot be executed, or is no argument list.
            SandboxBroken: The sandbox is gone.
        """
        words = _words(argv)
        if not self.alive:
            raise SandboxBroken("the sandbox is gone")
        self.refuse_paused()
        if pty is not None:
            return await self._spawn_in_terminal(words, env, cwd, pty)
        ours, theirs = self._pipes()
        try:
            started = await self.keeper.start(
                theirs, argv=words, cwd=cwd, env=_variables(env), limits=self._clock()
            )
        except BaseException:
            drop(*ours)
            raise
        finally:
            drop(*theirs)
        outputs: dict[Stream, int] = {"stdout": ours[1], "stderr": ours[2]}
        process = self._entered(started, ours[0], outputs)
        if stdin is not None:
            process.feed(stdin)
        return process

    async def _spawn_in_terminal(
        self, argv: tuple[str, ...], env: Mapping[str, str] | None, cwd: str, size: tuple[int, int]
    ) -> SandboxProcess:
        if not all(0 < number <= MOST_CELLS for number in size):
            raise InvalidTask(f"pty: wanted rows and columns up to {MOST_CELLS}, found {size}")
        master, slave = os.openpty()
        own = [master]
        try:
            os.set_blocking(master, False)
            self.give(slave)
            resize(slave, *size)
            outputs: dict[Stream, int] = {"stdout": master}
            second = os.dup(master)
            own.append(second)
            started = await self.keeper.start(
                (slave, slave, slave),
                argv=argv,
                cwd=cwd,
                env={"TERM": "xterm-256color", **_variables(env)},
                terminal=True,
                limits=self._clock(),
            )
        except BaseException:
            drop(*own)
            raise
        finally:
            drop(slave)
        return self._entered(started, second, outputs)

    def _entered(
        self, started: Started, stdin: int, outputs: Mapping[Stream, int]
    ) -> SandboxProcess:
        gone = self._processes.discard
        process = SandboxProcess(self.keeper, started, stdin, outputs, gone)
        self._processes.add(process)
        return process

    def bury(self) -> None:
        """It is gone: close what led to its processes, and say so."""
        for process in list(self._processes):
            process.close()
        self.ended.set()

    def _clock(self) -> dict[str, int]:
        return {"cpu": max(1, int(self.limits.cpu))}

    def _pipes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """The ends of three pipes: ours, and theirs, which belong to whoever lives there."""
        stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
        ours, theirs = (stdin[1], stdout[0], stderr[0]), (stdin[0], stdout[1], stderr[1])
        for fd in ours:
            os.set_blocking(fd, False)
        for fd in theirs:
            self.give(fd)
        return ours, theirs

    def give(self, fd: int) -> None:
        """Make somebody inside its owner, or it could not be reopened by its name in /proc."""
        owner = os.fstat(self.process.work)
        with suppress(
            PermissionError
        ):  # an ordinary user has nothing to give away; it works without
            os.fchown(fd, owner.st_uid, owner.st_gid)

    def refuse_paused(self) -> None:
        """Conflict while it is paused: nothing in it would answer."""
        if self.paused:
            raise Conflict("the sandbox is paused; resume it first")

    async def pause(self) -> None:
        """Stop every process where it is, until `resume`. Its memory stays; its clock goes on."""
        await anyio.to_thread.run_sync(self.process.pause)
        self.paused = True

    async def resume(self) -> None:
        """Let it go on."""
        await anyio.to_thread.run_sync(self.process.resume)
        self.paused = False

    async def metrics(self) -> Metrics:
        """What it uses now."""
        if self.ended.is_set():
            raise SandboxBroken("the sandbox is gone")
        used = await anyio.to_thread.run_sync(self.process.read)
        disk, inodes = self.process.space()
        return Metrics(
            cpu=used.cpu,
            memory=used.current,
            peak=used.memory,
            disk=disk,
            inodes=inodes,
            processes=used.processes,
            paused=self.paused,
            expires=self.expires,
        )

    def extend(self, ttl: float) -> None:
        """Let it live for `ttl` seconds from now."""
        if ttl <= 0:
            raise InvalidTask(f"ttl: must be more than 0 seconds, found {ttl}")
        self.expires = time.time() + ttl

    async def live(self) -> None:
        """Listen and look until it is closed, dead, or its time is over. Its owner's task."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.keeper.listen)
            tasks.start_soon(self._watch)
            tasks.start_soon(self._until_dead)
            await self.closing.wait()
            tasks.cancel_scope.cancel()

    async def _until_dead(self) -> None:
        own = os.dup(self.process.exited)  # its driver may wait for it as well
        try:
            await anyio.wait_readable(own)
        finally:
            os.close(own)
        self.closing.set()

    async def _watch(self) -> None:
        """Where no cgroup holds it, a look does; and its time to live."""
        held = self.process.first_read().current is not None  # then the kernel counts it
        weighed, heavy = time.monotonic(), False
        while True:
            await anyio.sleep(LOOK if self.expires is None else self._patience())
            if self.keeper.dead.is_set() or (self.expires and time.time() >= self.expires):
                self.closing.set()
            if not held and not self.paused and time.monotonic() >= weighed + WEIGH:
                weighed, heavy = time.monotonic(), await self._weigh(again=heavy)

    async def _weigh(self, *, again: bool) -> bool:
        """Whether it takes more memory than it may; what lives in it is ended for that."""
        used = self.process.read().current
        if used is None or used <= self.limits.memory:
            return False
        await self.keeper.end_all()
        if again or self.keeper.deaf:
            self.closing.set()  # it is heavier than what we know of
        return True

    def _patience(self) -> float:
        return min(LOOK, max(0.0, (self.expires or 0) - time.time()))

    async def close(self) -> None:
        """End it, with all that lives in it; returns when it is gone."""
        self.closing.set()
        with anyio.CancelScope(shield=True):
            await self.ended.wait()


def resize(terminal: int, rows: int, columns: int) -> None:
    """Give a terminal this size; who runs in it is told."""
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _words(argv: Sequence[str]) -> tuple[str, ...]:
    words = (argv,) if isinstance(argv, str) else tuple(argv)
    if not words or not words[0]:
        raise InvalidTask("argv: must name a program")
    for word in words:
        if "\0" in str(word) or not isinstance(word, str):
            raise InvalidTask(f"argv: must be text without NUL, found {word!r:.60}")
    return words


def _variables(env: Mapping[str, str] | None) -> dict[str, str]:
    for name, value in (env or {}).items():
        if not name or "=" in name or "\0" in f"{name}{value}":
            raise InvalidTask(f"env: {name!r:.60} is no name of a variable, or its value has NUL")
    return {name: str(value) for name, value in (env or {}).items()}
