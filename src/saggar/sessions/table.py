"""
The table: who lives, on disk, so that whoever comes after a crash can say what was lost.

A folder for each platform of a process, a file for each sandbox and each session. Walls and
containers die with their process by themselves; the table is what remembers that they were there.
"""

import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from saggar.drivers.treewatch import life


@dataclass(frozen=True, slots=True)
class Row:
    """One live sandbox, or a session or an instance that has one."""

    id: str
    kind: str
    """`sandbox`, `session` or `instance`; the latter two have the id of their first sandbox."""
    driver: str
    owner: str
    created: float
    """Seconds since the epoch."""
    language: str = ""
    """Of a session, as is its engine."""
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has sandboxes."""

    pid: int
    started: int
    folder: Path

    @property
    def alive(self) -> bool:
        """Whether it still runs; its number alone would not tell."""
        now = life(self.pid)
        return now is not None and now.started == self.started


class Table:
    """The rows of one platform of this process, and those of all others."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "live"
        self._own: Path | None = None
        self._pid = 0

    @property
    def own(self) -> Path:
        """The folder of ours, made when it is first asked for; a fork of us has another one."""
        pid = os.getpid()
        if self._own is None or self._pid != pid:
            now = life(pid)
            # A process may have several platforms: one that closes takes only its own folder along.
            name = f"{pid}-{now.started if now else 0}-{secrets.token_hex(4)}"
            path = self._root / name
            path.mkdir(mode=0o700, parents=True)
            self._own, self._pid = path, pid
        return self._own

    def add(self, row: Row) -> None:
        """It lives."""
        place = self.own / f"{row.kind}-{row.id}.json"
        draft = place.with_name(f".{secrets.token_hex(4)}")
        draft.write_text(json.dumps(asdict(row)))
        draft.rename(place)  # whole, or not at all

    def remove(self, name: str, kind: str = "sandbox") -> None:
        """It is gone."""
        if self._own is not None:
            (self._own / f"{kind}-{name}.json").unlink(missing_ok=True)

    def holders(self) -> tuple[Holder, ...]:
        """Every process that has said that it has sandboxes, dead ones included."""
        found = []
        for path in sorted(self._root.glob("*-*-*")):
            pid, started, _ = path.name.split("-", 2)
            if pid.isdecimal() and started.isdecimal():
                found.append(Holder(int(pid), int(started), path))
        return tuple(found)

    @staticmethod
    def rows(holder: Holder) -> tuple[Row, ...]:
        """What one process has."""
        found = []
        for path in sorted(holder.folder.glob("*.json")):
            with suppress(OSError, ValueError, TypeError):  # it ended as we looked
                found.append(Row(**json.loads(path.read_text())))
        return tuple(found)

    def lost(self) -> tuple[Row, ...]:
        """What dead processes had; asked again there is nothing, as their folders are removed."""
        import shutil

        found: list[Row] = []
        for holder in self.holders():
            if not holder.alive:
                found += self.rows(holder)
                shutil.rmtree(holder.folder, ignore_errors=True)
        return tuple(found)

    def close(self) -> None:
        """This process has none any more."""
        import shutil

        if self._own is not None and self._pid == os.getpid():
            shutil.rmtree(self._own, ignore_errors=True)
        self._own = None
