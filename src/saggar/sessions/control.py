"""
How another process of the same user reaches the sandboxes of this one: a private socket.

It lies in a folder that nobody else may enter, and the kernel says who has come: this user, or
root. Whoever is let in sees, ends and enters what lives here. What he has a program do is relayed
by us; a descriptor of his never enters a sandbox. Guests do not come here: their walls show them no
such path, or refuse such sockets; where there is no wall (the process driver) they are this user.
"""

import os
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from signal import SIGHUP, SIGKILL
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.abc import SocketAttribute, SocketStream, TaskGroup

from saggar.engine.files import Files
from saggar.engine.sandbox import Sandbox, SandboxProcess
from saggar.errors import (
    Conflict,
    InvalidTask,
    NotFound,
    Overloaded,
    PlatformError,
    PolicyDenied,
    SaggarError,
    UsageError,
)
from saggar.sessions.line import Line, Message
from saggar.sessions.table import Table

if TYPE_CHECKING:
    from logging import Logger

    from saggar.engine.session import Session
    from saggar.sessions.directory import Directory

NAME = "control"
MOST = 64
"""Callers at once."""
PATIENCE = 10.0
"""Seconds within which a caller says what he wants."""
PARTING = 1.0
"""Seconds that a program has to end by itself when whoever started it is gone."""
DYING = 5.0
AGAIN = 0.5
WEIGHING = 2.0
"""Seconds for all that is measured for one list."""
_CREDENTIALS = struct.Struct("3i")


async def serve(directory: "Directory", table: Table) -> None:
    """Answer whoever comes, until cancelled; but first say what dead processes have lost."""
    try:
        await report(table)
        async with at(table.own) as path:
            listener = await anyio.create_unix_listener(path, mode=0o600)
    except OSError as exc:
        log().warning("no other process can reach the sandboxes of this one: %s", exc)
        return
    async with listener, anyio.create_task_group() as callers:
        control = Control(directory)
        while True:
            with suppress(anyio.BrokenResourceError):  # no descriptor was left for a caller
                await listener.serve(control.meet, callers)
            await anyio.sleep(AGAIN)


async def report(table: Table) -> None:
    """What processes that were killed have left in the table goes from there to the log."""
    lost = await anyio.to_thread.run_sync(table.lost)
    if lost:
        named = ", ".join(f"{row.kind} {row.id[:12]}" for row in lost[:8])
        more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
        # No warning: a program that has no log would find it on its stderr.
        log().info("lost with a process that was killed: %s%s", named, more)


def log() -> "Logger":
    """Ours; not loaded by programs that never come here."""
    import logging

    return logging.getLogger(__name__)


@asynccontextmanager
async def at(folder: Path) -> AsyncGenerator[str]:
    """The socket in a folder, by a name that fits into an address however deep the folder is."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)


class Control:
    """What answers the callers of one directory."""

    def __init__(self, directory: "Directory") -> None:
        self._directory = directory
        self._callers = 0

    async def meet(self, stream: SocketStream) -> None:
        """One caller: one request, to its end."""
        self._callers += 1
        try:
            async with stream:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await self._hear(Line(stream), stream)
        finally:
            self._callers -= 1

    async def _hear(self, line: Line, stream: SocketStream) -> None:
        try:
            self._admit(stream)
            await self._answer(line, await _first(line))
        except Exception as exc:  # noqa: BLE001 - the edge: a caller's trouble is nobody else's
            cause = _alone(exc)
            code = cause.code if isinstance(cause, SaggarError) else PlatformError.code
            await line.send("refused", code=code, message=str(cause))

    def _admit(self, stream: SocketStream) -> None:
        caller = peer(stream.extra(SocketAttribute.raw_socket))  # noqa: S610 - not Django's
        if caller not in {0, os.geteuid()}:
            raise PolicyDenied("these sandboxes are another user's")
        if self._callers > MOST:
            raise Overloaded(f"{MOST} others are being answered, which is the most", 1.0)

    async def _answer(self, line: Line, request: Message) -> None:
        match request.head:
            case {"say": "list"}:
                async for row in self.rows():
                    await line.send("row", **row)
                await line.send("done")
            case {"say": "kill", "id": str(name)}:
                await self._kill(name)
                await line.send("done")
            case {"say": "exec", "id": str(name), "argv": list(argv)}:
                await relay(line, self.sandbox(name), argv, request.head)
            case {"say": "get", "id": str(name), "path": str(path)}:
                await give(line, self.sandbox(name), path)
            case {"say": "ask", "head": {"id": str(name)} as asked}:
                from saggar.sessions import distant

                await distant.answer(line, self._directory.instance(name), asked)
            case {"say": "put", "id": str(name), "path": str(path), "name": str(own)}:
                files = self.sandbox(name).files
                place = await destination(files, path, own)
                await take(line, self.sandbox(name), place, request.head.get("mode"))
                await line.send("done", path=place)
            case {"say": said}:
                raise InvalidTask(f"no such request, or not all of it is there: {said!r:.60}")

    def sandbox(self, name: str) -> Sandbox:
        """The one of this id, or the one that the session of this id lives in now."""
        with suppress(NotFound):
            return self._directory.session(name).sandbox
        return self._directory.sandbox(name)

    async def _kill(self, name: str) -> None:
        try:
            session = self._directory.session(name)
        except NotFound:
            await self._directory.sandbox(name).close()
        else:
            await session.close()

    async def rows(self) -> AsyncIterator[dict[str, Any]]:
        """What lives here, sessions first, with what each of them uses now."""
        deadline = anyio.current_time() + WEIGHING
        inhabited = set()
        for session in self._directory.sessions():
            if not session.closed:
                inhabited.add(session.sandbox.id)
                yield {**_of_session(session), **await _weighed(session.sandbox, deadline)}
        for sandbox in self._directory.sandboxes():
            if sandbox.id not in inhabited:
                yield {**_of_sandbox(sandbox), **await _weighed(sandbox, deadline)}


def peer(end: socket.socket) -> int:
    """Whose process is at the other end, as the kernel says; -1 where it does not."""
    if not hasattr(socket, "SO_PEERCRED"):
        return -1
    said = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(said)[1]
    return uid


def _alone(exc: Exception) -> Exception:
    """What is in a group of one."""
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


async def _first(line: Line) -> Message:
    with anyio.move_on_after(PATIENCE):
        if request := await line.receive():
            return request
    raise InvalidTask("a caller says what he wants, and soon")


def _of_sandbox(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "id": sandbox.id,
        "kind": "sandbox",
        "sandbox": sandbox.id,
        "language": None,
        "driver": sandbox.driver,
        "isolation": sandbox.isolation,
        "owner": sandbox.owner,
        "created": sandbox.created,
        "used": None,
        "busy": None,
        "queued": None,
        "execution_count": None,
        "expires": sandbox.expires,
    }


def _of_session(session: "Session") -> dict[str, Any]:
    return {
        **_of_sandbox(session.sandbox),
        "id": session.id,
        "kind": "session",
        "language": session.language,
        "owner": session.owner,
        "created": session.created,
        "used": session.used,
        "busy": session.busy,
        "queued": session.queued,
        "execution_count": session.execution_count,
    }


async def _weighed(sandbox: Sandbox, deadline: float) -> dict[str, Any]:
    """Its numbers; None for each when it is gone meanwhile, or the time is up."""
    numbers = dict.fromkeys(("memory", "peak", "cpu", "processes", "disk"))
    with suppress(SaggarError, OSError), anyio.CancelScope(deadline=deadline):
        used = await sandbox.metrics()
        numbers = {name: getattr(used, name) for name in numbers}
    return {**numbers, "paused": sandbox.paused}


async def relay(line: Line, sandbox: Sandbox, argv: list[Any], head: dict[str, Any]) -> None:
    """A program in a sandbox, its streams over the line; it ends with its caller."""
    rows = head.get("pty")
    process = await sandbox.spawn(
        argv,
        env=_env(head.get("env")),
        cwd=str(head.get("cwd") or ""),
        stdin=None,
        pty=None if rows is None else _size(rows),
    )
    try:
        async with anyio.create_task_group() as tasks:
            await line.send("started", id=process.id)
            tasks.start_soon(_obey, line, process, tasks)
            async with aclosing(process.output()) as output:  # type: ignore[type-var]
                async for stream, data in output:
                    await line.send(stream, data)
            exited = await process.wait()
            await line.send("exit", code=exited.code, signal=exited.signal)
            tasks.cancel_scope.cancel()
    finally:
        await _part(process)


async def _obey(line: Line, process: SandboxProcess, tasks: TaskGroup) -> None:
    """What the caller has his program do, until he is gone."""
    feeding = anyio.Lock()
    while message := await line.receive():
        match message.head:
            case {"say": "stdin"}:
                if feeding.statistics().tasks_waiting:
                    raise InvalidTask("stdin: the next piece is sent when the last one was taken")
                tasks.start_soon(_feed, line, process, message.data, feeding)
            case {"say": "eof"}:
                process.close_stdin()
            case {"say": "resize", "rows": int(rows), "columns": int(columns)}:
                with suppress(Conflict):  # it has ended
                    await process.resize(*_size([rows, columns]))
            case {"say": "signal", "number": int(number)} if 0 < number < 65:
                await process.signal(number)
            case {"say": said}:
                raise InvalidTask(f"a program cannot be told {said!r:.60}")
    tasks.cancel_scope.cancel()


async def _feed(line: Line, process: SandboxProcess, data: bytes, feeding: anyio.Lock) -> None:
    """A piece of stdin; how long it takes is the program's affair, so nothing else waits for it."""
    async with feeding:
        closed = False
        try:
            await process.write(data)
        except Conflict:
            closed = True
        await line.send("taken", closed=closed)


async def _part(process: SandboxProcess) -> None:
    """As when a terminal is closed: a hang-up, and then the end."""
    with anyio.CancelScope(shield=True):
        for number, seconds in ((SIGHUP, PARTING), (SIGKILL, DYING)):
            if process.exited is None:
                await process.signal(number)
                with anyio.move_on_after(seconds):
                    await process.wait()
        process.close()


async def give(line: Line, sandbox: Sandbox, path: str) -> None:
    """A file, or a folder as a tar."""
    files = sandbox.files
    if await _is_folder(files, path):
        await line.send("folder", most=sandbox.limits.inodes)
        async with aclosing(files.pack(f"{path}/.")) as pieces:
            async for piece in pieces:
                await line.send("data", piece)
    else:
        content = await files.read(path)
        mode = (await files.stat(path)).mode
        await line.send("file", mode=mode)
        await line.send("data", content)
    await line.send("done")


async def take(line: Line, sandbox: Sandbox, place: str, mode: object) -> None:
    """A file of that mode, or where there is none a tar of a folder."""
    if not isinstance(mode, int):
        await sandbox.files.unpack(_pieces(line), place)
        return
    content = bytearray()
    async for piece in _pieces(line):
        content += piece
        if len(content) > sandbox.limits.disk:
            raise InvalidTask(
                f"it has more than the sandbox's limit of disk, {sandbox.limits.disk:,} bytes"
            )
    await sandbox.files.write(place, bytes(content), mode=mode & 0o777)


async def _pieces(line: Line) -> AsyncIterator[bytes]:
    while message := await line.receive():
        if message.say == "done":
            return
        yield message.data
    raise InvalidTask("what was to be copied ended in the middle")


async def destination(files: Files, path: str, name: str) -> str:
    """Where `cp` puts something of this name: into a folder that is there, else at the path."""
    if "/" in name:
        raise InvalidTask(f"a name has no slash, found {name!r:.60}")
    if name and (path.endswith("/") or await _is_folder(files, path)):
        return f"{path.rstrip('/')}/{name}"
    return path


async def _is_folder(files: Files, path: str) -> bool:
    try:
        await files.stat(f"{path}/.")
    except UsageError:
        return False
    return True


def _env(said: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in said.items()} if isinstance(said, dict) else {}


def _size(said: object) -> tuple[int, int]:
    match said:
        case [int(rows), int(columns)] if 0 < rows < 1 << 16 and 0 < columns < 1 << 16:
            return rows, columns
    raise InvalidTask(f"pty: wanted rows and columns, found {said!r:.60}")
