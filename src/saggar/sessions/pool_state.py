"""
What is known of an instance in a pool, and the file that remembers it.

The file is what makes a restart of the manager harmless: who holds what is written before it is
answered, and that an instance is unclean before anybody may touch it. After a crash the pool can
believe too little of an instance, never too much.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import anyio

from saggar.errors import Conflict, PlatformError


class InstanceDown(PlatformError):
    """The instance does not answer, or is not ready."""

    code = "instance-down"


class Instance(Protocol):
    """What a pool asks of an instance: three things, each of which may raise InstanceDown."""

    async def ready(self) -> None:
        """It answers, and could execute something now."""
        ...

    async def restart(self) -> None:
        """Begin to forget everything that was executed."""
        ...

    async def settled(self) -> None:
        """
        Wait for the end of the restart that was begun, and until it is ready; within a time of
        its own. It may be out of reach for a while, as one that restarts by leaving is.
        """
        ...


class Condition(StrEnum):
    """Whether an instance can be given to somebody."""

    READY = "ready"
    RETURNING = "returning"
    """It is being restarted, or asked for the first time."""
    OUT = "out"
    """It failed; it is asked again and again until it answers."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """That somebody has an instance."""

    token: str
    """Who knows it can prove to be the holder."""
    asked: bool
    """It was asked for; otherwise it came with the first use of a free instance."""
    since: float


@dataclass(slots=True, eq=False)
class Member:
    """An instance of a pool, and where it stands. Changed by the pool only."""

    name: str
    type: str
    place: str
    """Where it is: an address, or a word for this machine. Elsewhere is another instance."""
    instance: Instance
    condition: Condition = Condition.RETURNING
    allocation: Allocation | None = None
    dirty: bool = True
    """Somebody may have executed something in it since its last restart."""
    restarted: bool = False
    """Somebody asked it to restart while it was free; that may still go on."""
    why: str = ""
    """Why it is out."""
    used: float = 0
    """When a request to it began or ended last."""
    fresh: bool = False
    """It was given with a first use that has not begun."""
    promise: anyio.Event | None = None
    """It was given to somebody who does not know that yet; set once he does, or is not to."""
    uses: set[anyio.CancelScope] = field(default_factory=set)
    """The requests that are under way, or about to be."""
    left: anyio.Event = field(default_factory=anyio.Event)
    """Set when the last of them has ended."""
    verdict: anyio.Event = field(default_factory=anyio.Event)
    """Set once it is known whether it came back; another one for each return."""
    tended: bool = False
    """A task is bringing it back."""

    @property
    def free(self) -> bool:
        """It can be given to somebody now."""
        return self.condition is Condition.READY and self.allocation is None


@dataclass(frozen=True, slots=True)
class Entry:
    """What the file says of one instance."""

    name: str
    type: str
    place: str
    dirty: bool
    allocation: Allocation | None


class Ledger:
    """
    The file, held by one pool at a time; the kernel lets go of it when that one dies.

    Raises:
        Conflict: Another one holds it.
        PlatformError: It cannot be read or written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        with self._told():
            self._file = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            # Held from the first statement on: two pools over one set of instances would
            # give each of them away twice.
            self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS instances (name TEXT PRIMARY KEY, type TEXT NOT NULL,"
                " place TEXT NOT NULL, dirty INTEGER NOT NULL, token TEXT, asked INTEGER,"
                " since REAL) STRICT"
            )

    def recall(self) -> Mapping[str, Entry]:
        """All entries, by name."""
        with self._told():
            rows = self._file.execute(
                "SELECT name, type, place, dirty, token, asked, since FROM instances"
            ).fetchall()
        return {
            name: Entry(
                name,
                kind,
                place,
                bool(dirty),
                Allocation(token, bool(asked), since) if token else None,
            )
            for name, kind, place, dirty, token, asked, since in rows
        }

    def note(self, member: Member, allocation: Allocation | None, *, dirty: bool) -> None:
        """Write down what is about to be true of it."""
        token, asked, since = None, None, None
        if allocation is not None:
            token, asked, since = allocation.token, allocation.asked, allocation.since
        with self._told():
            self._file.execute(
                "INSERT OR REPLACE INTO instances VALUES (?, ?, ?, ?, ?, ?, ?)",
                (member.name, member.type, member.place, dirty, token, asked, since),
            )

    def forget(self, names: Iterable[str]) -> None:
        """These are no longer in the pool."""
        with self._told():
            self._file.executemany("DELETE FROM instances WHERE name = ?", [(n,) for n in names])

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise Conflict(f"another manager keeps its state in {self._path}") from exc
            raise PlatformError(f"the state cannot be kept in {self._path}: {exc}") from exc
        except sqlite3.DatabaseError as exc:
            raise PlatformError(
                f"{self._path} is not a file of a manager's: {exc}; remove it or name another one"
            ) from exc
