"""Sandboxes in other processes of this user: which there are, and how they are reached."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import SocketStream

from saggar.errors import (
    Conflict,
    InvalidTask,
    NotFound,
    Overloaded,
    PlatformError,
    PolicyDenied,
    SaggarError,
    SandboxBroken,
    UsageError,
)
from saggar.sessions.control import at
from saggar.sessions.line import Line, Message
from saggar.sessions.table import Holder, Row, Table

PATIENCE = 3.0
"""Seconds within which a process shows that it answers."""
AGAIN = 0.02
SHORT = 12
"""Characters of an id that are shown; fewer will do where they are unique."""
_KINDS: tuple[type[SaggarError], ...] = (
    Conflict,
    InvalidTask,
    NotFound,
    Overloaded,
    PolicyDenied,
    SandboxBroken,
    UsageError,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something lives."""

    holder: Holder
    id: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one process has, as it says itself; its rows where it does not answer."""

    holder: Holder
    rows: tuple[dict[str, Any], ...]
    silent: bool = False


def living(table: Table) -> tuple[tuple[Holder, Row], ...]:
    """Every row of a process that lives."""
    return tuple(
        (holder, row) for holder in table.holders() if holder.alive for row in table.rows(holder)
    )


def find(table: Table, word: str) -> Place:
    """
    What the beginning of an id stands for.

    Raises:
        NotFound: Nothing that lives has an id that begins so.
        UsageError: Several have.
    """
    found = {row.id: holder for holder, row in living(table) if word and row.id.startswith(word)}
    if word in found:
        found = {word: found[word]}
    if not found:
        raise NotFound(f"no live sandbox or session has an id that begins with {word!r}")
    if len(found) > 1:
        some = ", ".join(name[:SHORT] for name in sorted(found)[:4])
        raise UsageError(f"{word!r} begins {len(found)} ids ({some}, ...); say more of it")
    name, holder = found.popitem()
    return Place(holder, name)


@asynccontextmanager
async def reached(holder: Holder) -> AsyncGenerator[Line]:
    """
    A line to the process that has it.

    Raises:
        PlatformError: It does not answer.
    """
    async with await _connected(holder) as stream:
        try:
            yield _Asking(stream)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise PlatformError(f"process {holder.pid}, which had it, is gone") from exc


class _Asking(Line):
    """A line whose other end may have ended: what it said last, why or how, is still to be read."""

    async def send(self, say: str, data: bytes = b"", **head: object) -> None:
        """One message; lost if nobody listens any more, which `receive` will tell."""
        with suppress(anyio.BrokenResourceError):
            await super().send(say, data, **head)


async def _connected(holder: Holder) -> SocketStream:
    with anyio.move_on_after(PATIENCE):
        while holder.alive:
            with suppress(FileNotFoundError, ConnectionError):
                async with at(holder.folder) as path:
                    return await anyio.connect_unix(path)
            # Its first sandbox is there, and its door about to be.
            await anyio.sleep(AGAIN)
    reason = "does not answer" if holder.alive else "has just ended"
    raise PlatformError(f"process {holder.pid}, which has it, {reason}")


async def heard(line: Line) -> Message:
    """
    The next message.

    Raises:
        SaggarError: It is a refusal, of the kind that it says.
        PlatformError: There is none: who should say it is gone.
    """
    message = await line.receive()
    if message is None:
        raise PlatformError("the process that has the sandbox is gone")
    return answered(message)


def answered(message: Message) -> Message:
    """A message that is no refusal. SaggarError, of the kind that it says, if it is one."""
    match message:
        case Message(head={"say": "refused", "code": code, "message": str(text)}):
            kind = next((kind for kind in _KINDS if kind.code == code), PlatformError)
            raise kind(text)
    return message


async def kill(place: Place) -> None:
    """End it; returns when it is gone, and perhaps the process with it."""
    async with reached(place.holder) as line:
        await line.send("kill", id=place.id)
        if (message := await line.receive()) is not None:
            answered(message)


async def look(holder: Holder, rows: Sequence[Row]) -> Look:
    """What a process has now."""
    found = []
    engines = {row.id: row.engine for row in rows if row.kind == "session"}
    with suppress(PlatformError, anyio.EndOfStream), anyio.move_on_after(PATIENCE):
        async with reached(holder) as line:
            await line.send("list")
            while (message := await heard(line)).say == "row":
                head = {k: v for k, v in message.head.items() if k not in {"say", "size"}}
                engine = engines.get(head.get("id", "")) if head.get("kind") == "session" else None
                found.append({**head, "engine": engine, "pid": holder.pid})
            return Look(holder, tuple(found))
    return Look(holder, tuple(_unasked(holder, rows)) if holder.alive else (), silent=True)


def _unasked(holder: Holder, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the table says of those whose process says nothing, as when it was stopped."""
    return [
        {
            "id": row.id,
            "kind": row.kind,
            "language": row.language or None,
            "engine": row.engine or None,
            "driver": row.driver,
            "owner": row.owner,
            "created": row.created,
            "pid": holder.pid,
        }
        for row in distinct(rows)
    ]


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Sessions, and the sandboxes that are not theirs."""
    found = {row.id: row for row in sorted(rows, key=lambda row: row.kind == "session")}
    return sorted(found.values(), key=lambda row: row.created)


async def look_at_all(table: Table) -> tuple[Look, ...]:
    """Every process that lives, asked at once."""
    looks: list[Look] = []

    async def ask(holder: Holder, rows: Sequence[Row]) -> None:
        looks.append(await look(holder, rows))

    async with anyio.create_task_group() as tasks:
        for holder in table.holders():
            if holder.alive:
                tasks.start_soon(ask, holder, table.rows(holder))
    return tuple(sorted(looks, key=lambda one: (one.holder.pid, one.holder.folder.name)))
