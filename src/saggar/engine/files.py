"""
The files of a live sandbox: every action is a process inside, with the rights of whoever lives
there.

So nothing that a guest has planted, links or devices, leads anywhere that it could not go itself;
what is read is its word about its own files. Paths are those of the inside; relative ones start in
the work folder.
"""

import errno
import io
import json
import os
import socket
import stat
import tarfile
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self

import anyio
import anyio.to_thread

from saggar.engine import words
from saggar.engine.streams import CHUNK, Pipe, drop, read_some
from saggar.errors import InvalidTask, NotFound, SandboxBroken, UsageError

if TYPE_CHECKING:
    from saggar.engine.sandbox import Sandbox

Kind = Literal["file", "folder", "link", "other"]
MOST_SAID = 32 << 20
"""Bytes of one answer: a listing of a hundred thousand names fits."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a folder."""

    path: str
    kind: Kind
    size: int
    mode: int
    modified: float
    """Seconds since the epoch."""


class Files:
    """What can be done with the files of one sandbox."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    async def read(self, path: str, *, most: int | None = None) -> bytes:
        """
        The content of a regular file.

        Raises:
            NotFound: There is none.
            InvalidTask: It is no regular file, not readable there, or longer than `most` bytes
                (the sandbox's limit of disk if none is given).
        """
        most = self._sandbox.limits.disk if most is None else most
        content = io.BytesIO()
        async with _Action(self._sandbox, "read", path=_path(path)) as action:
            async for chunk in action.content():
                if content.tell() + len(chunk) > most:
                    raise InvalidTask(f"{path!r} has more than {most} bytes")
                content.write(chunk)
            await action.answer()
        return content.getvalue()

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Make a file of `data`, with the folders above it; an older one is replaced."""
        content = data.encode() if isinstance(data, str) else data
        async with _Action(self._sandbox, "write", path=_path(path), mode=mode) as action:
            await action.send(content)
            await action.answer()

    async def list(self, path: str = ".") -> tuple[Entry, ...]:
        """The entries of a folder, by name."""
        found = await self._ask("list", path=_path(path))
        if not isinstance(found, list):
            raise SandboxBroken(f"the sandbox said what is no listing: {found!r:.60}")
        return tuple(map(_entry, found))

    async def stat(self, path: str) -> Entry:
        """One entry; of a link, the link."""
        return _entry(await self._ask("stat", path=_path(path)))

    async def move(self, path: str, target: str) -> None:
        """Give it another name; a file that stands there is replaced."""
        await self._ask("move", path=_path(path), target=_path(target))

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link, an empty folder, or with `recursive` a tree."""
        await self._ask("remove", path=_path(path), recursive=recursive)

    async def mkdir(self, path: str) -> None:
        """Make a folder and those above it; one that is there already is fine."""
        await self._ask("make", path=_path(path))

    async def upload(self, source: str | Path, target: str = ".") -> None:
        """Copy a folder of this machine into the sandbox: files and folders, no links."""
        folder = Path(source)
        if not await anyio.Path(folder).is_dir():
            raise NotFound(f"no folder {str(source)!r} on this machine")
        await self.unpack(_stream(packed(folder)), target)

    async def unpack(self, pieces: AsyncIterable[bytes], target: str = ".") -> None:
        """Files and folders of a tar, which comes in pieces, into a folder."""
        async with _Action(self._sandbox, "unpack", path=_path(target)) as action:
            async for piece in pieces:
                await action.send(piece, last=False)
            action.close_stdin()
            await action.answer()

    async def download(self, source: str, target: str | Path) -> tuple[str, ...]:
        """
        Copy a folder of the sandbox to this machine: regular files and folders only, capped by the
        sandbox's limits of disk and inodes. Nothing is written outside `target`, and nothing in it
        that is there already is followed.

        Returns the paths of the files, relative to `target`.
        """
        with tempfile.TemporaryFile() as content:
            async with aclosing(self.pack(source)) as pieces:
                async for piece in pieces:
                    content.write(piece)
            most = self._sandbox.limits.inodes
            return await anyio.to_thread.run_sync(unpack, content, Path(target), most)

    async def pack(self, source: str) -> AsyncGenerator[bytes]:
        """
        A tar of a folder, in pieces, as the inside made it: whoever unpacks it trusts nothing in
        it, as `unpack` does. Capped by the sandbox's limit of disk.
        """
        length = 0
        async with (
            _Action(self._sandbox, "pack", path=_path(source)) as action,
            aclosing(action.content()) as pieces,
        ):
            async for piece in pieces:
                length += len(piece)
                if length > 2 * self._sandbox.limits.disk + (1 << 20):
                    raise InvalidTask(f"{source!r} has more than the sandbox's limit of disk")
                yield piece
            await action.answer()

    async def _ask(self, name: str, **head: object) -> Any:
        async with _Action(self._sandbox, name, **head) as action:
            async for _ in action.content():
                pass
            return await action.answer()


class _Action:
    """One thing done by a process inside, for the length of a block."""

    def __init__(self, sandbox: "Sandbox", name: str, **head: object) -> None:
        self._sandbox = sandbox
        self._head: dict[str, Any] = {"action": name, **head}
        self._path = str(head["path"])
        self._said = bytearray()
        self._stdin, self._stdout = -1, -1

    async def __aenter__(self) -> Self:
        if not self._sandbox.alive:
            raise SandboxBroken("the sandbox is gone")
        self._sandbox.refuse_paused()
        self._channel, theirs = socket.socketpair()
        stdin, stdout = os.pipe(), os.pipe()
        self._stdin, self._stdout = stdin[1], stdout[0]
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            for fd in (self._stdin, self._stdout):
                os.set_blocking(fd, False)
            self._channel.setblocking(False)
            rights = (stdin[0], stdout[1], null, theirs.fileno())
            self._started = await self._sandbox.keeper.start(
                rights, body="saggar.guest.filing", **self._head
            )
        except BaseException:
            self._close()
            raise
        finally:
            drop(stdin[0], stdout[1], null)
            theirs.close()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._started.exit is None:
            with anyio.CancelScope(shield=True):
                await self._sandbox.keeper.signal(self._started, 9)
        self._started.forget()
        self._close()

    async def send(self, data: bytes, *, last: bool = True) -> None:
        """To its stdin; a process that has ended already says why in its answer."""
        left = memoryview(data)
        with suppress(BrokenPipeError):
            while left:
                try:
                    left = left[os.write(self._stdin, left[:CHUNK]) :]
                except BlockingIOError:
                    async with self._moving():
                        # It may have ended, and left the pipe to somebody who does not read.
                        ready = await read_some([self._started.end_told.fileno()], self._stdin)
                    if self._stdin not in ready:
                        break
        if last:
            self.close_stdin()

    def close_stdin(self) -> None:
        """The end of the content."""
        if self._stdin >= 0:
            drop(self._stdin)
            self._stdin = -1

    async def content(self) -> Any:
        """What it writes, until it has ended."""
        self.close_stdin()
        pipe = Pipe(self._stdout)
        while True:
            async with self._moving():
                ready = await read_some([self._stdout, self._channel.fileno()])
            if self._channel.fileno() in ready and not self._hear():
                if rest := pipe.rest():
                    yield rest
                return
            if self._stdout in ready:
                if data := pipe.read():
                    yield data
                elif data is not None:
                    return

    async def answer(self) -> Any:
        """What came of it, or the error that it met."""
        while True:
            async with self._moving():
                await anyio.wait_readable(self._channel)
            if not self._hear():
                break
        try:
            said = json.loads(self._said)
        except (ValueError, RecursionError):
            raise SandboxBroken("the sandbox did not say what became of it") from None
        match said:
            case {"done": done}:
                return done
            case {"errno": int(number), "message": str(text)}:
                raise self._refusal(number, text)
        raise SandboxBroken("the sandbox did not say what became of it")

    @asynccontextmanager
    async def _moving(self) -> AsyncIterator[None]:
        """A wait that is too long when nothing has moved for as long as a program may run."""
        patience = self._sandbox.limits.wall
        with anyio.move_on_after(patience) as waited:
            yield
        if waited.cancelled_caught:
            raise SandboxBroken(
                f"nothing has moved for {patience:g} s: {self._head['action']} {self._path!r}"
            )

    def _hear(self) -> bool:
        """More of the answer; False at its end."""
        try:
            data = self._channel.recv(CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if len(self._said) + len(data) > MOST_SAID:
            raise SandboxBroken("the sandbox says more than fits into an answer")
        self._said += data
        return bool(data)

    def _refusal(self, number: int, text: str) -> UsageError:
        message = f"{self._head['action']} {self._path!r}: {text[:500]}"
        return NotFound(message) if number == errno.ENOENT else InvalidTask(message)

    def _close(self) -> None:
        self.close_stdin()
        if self._stdout >= 0:
            drop(self._stdout)
            self._stdout = -1
        self._channel.close()


def _path(path: str) -> str:
    if not path or "\0" in str(path) or not isinstance(path, str):
        raise InvalidTask(f"path: must be text without NUL, found {path!r:.60}")
    return path


def _entry(said: Any) -> Entry:
    match said:
        case [str(path), str(kind), int(size), int(mode), int() | float() as modified]:
            if kind not in {"file", "folder", "link"}:
                kind = "other"
            if words.number(size) is not None and abs(modified) <= words.MOST_COUNTED:
                return Entry(path, kind, size, mode & 0o7777, float(modified))  # type: ignore[arg-type]
    raise SandboxBroken(f"the sandbox said what is no entry: {said!r:.60}")


async def _stream(pieces: Iterable[bytes]) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece


def packed(folder: Path) -> Iterator[bytes]:
    """A tar of its regular files and folders, in pieces; links would lead somewhere else there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            found = path.lstat()
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                continue
            info = tar.gettarinfo(path, str(path.relative_to(folder)))
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            if info.isreg():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def unpack(
    content: IO[bytes],
    target: Path,
    most: int,
    wanted: Callable[[list[str]], bool] = lambda parts: True,  # noqa: ARG005 - all of them
) -> tuple[str, ...]:
    """
    Regular files and folders of a tar that an enemy may have written, below `target`.

    Every part of a path is opened by itself and never through a link; files are made anew. What is
    not `wanted`, by the parts of its path, is left out.
    """
    target.mkdir(parents=True, exist_ok=True)
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    made: dict[str, None] = {}
    try:
        for count, (parts, mode, held) in enumerate(_members(content)):
            if count > most:
                raise InvalidTask(f"more than {most} entries to download")
            if parts and not wanted(parts):
                continue
            if held is None:
                os.close(_folder(root, parts))
            elif parts:
                _place(root, parts, held(), mode)
                made["/".join(parts)] = None
    finally:
        os.close(root)
    return tuple(made)


def _members(content: IO[bytes]) -> Iterator[tuple[list[str], int, Callable[[], bytes] | None]]:
    """Files and folders of an archive: the parts of the path, the mode, and what a file holds."""
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    with _no_archive(), tarfile.open(fileobj=content, mode="r:") as tar:  # a packed one has no end
        for member in tar:
            parts = [part for part in member.name.split("/") if part not in {"", "."}]
            # A sparse one could claim any size in a few bytes.
            odd = member.issparse() or not 0 <= member.size <= size
            if odd or ".." in parts or "\0" in member.name:
                continue
            if member.isreg():
                yield parts, member.mode & 0o755, lambda one=member: _content(tar, one)  # type: ignore[misc]
            elif member.isdir():
                yield parts, 0o755, None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _no_archive():
        source = tar.extractfile(member)
        return source.read() if source is not None else b""


@contextmanager
def _no_archive() -> Iterator[None]:
    """The parser was not written for enemies: numbers that are none may raise anything."""
    try:
        yield
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as exc:
        raise SandboxBroken(f"the sandbox sent what is no archive: {exc}") from None


def _folder(root: int, parts: list[str]) -> int:
    """A folder below `root`, made where it is missing; never through a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.dup(root)
    for part in parts:
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
            below = os.open(part, flags, dir_fd=here)
        except (OSError, UnicodeEncodeError) as exc:
            raise _in_the_way(part, exc) from exc
        finally:
            os.close(here)
        here = below
    return here


def _in_the_way(part: str, exc: Exception) -> InvalidTask:
    why = exc.strerror if isinstance(exc, OSError) else "it has no name on this machine"
    return InvalidTask(f"download: {part!r:.100} cannot be made: {why}")


def _place(root: int, parts: list[str], content: bytes, mode: int) -> None:
    folder = _folder(root, parts[:-1])
    try:
        with suppress(FileNotFoundError):
            os.unlink(parts[-1], dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(parts[-1], flags, 0o600 | mode, dir_fd=folder)
        with open(fd, "wb") as file:
            file.write(content)
    except (OSError, UnicodeEncodeError) as exc:
        raise _in_the_way(parts[-1], exc) from exc
    finally:
        os.close(folder)
