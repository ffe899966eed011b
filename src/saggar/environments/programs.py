"""
Programs that were compiled: kept by the digest of what they were made of.

A program appears under its digest by one rename, whole or not at all. Processes on one host share
the folder; whoever compiles one has its turn meanwhile.

    DIGEST/program, used, .complete
    building/DIGEST.RANDOM      a build under way, or what a dead one left
    turns/                      who builds
"""

import os
import secrets
import time
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Final

from saggar.environments import locks, tree
from saggar.errors import PrepareFailed

MONTH: Final = 30 * 86400.0
HOUR: Final = 3600.0
"""More than any build takes."""
INSIDE: Final = "/opt/saggar/programs"


class Programs:
    """Keeps what compilers made, below one folder. Nothing is touched before it is used."""

    def __init__(self, cache_dir: Path) -> None:
        self._root = cache_dir / "programs"

    def place(self, digest: str) -> Path:
        """The folder of a program, whether it is there or not."""
        return self._root / digest

    def find(self, digest: str) -> Path | None:
        """The folder of a program that is there; marks it as used."""
        place = self.place(digest)
        if not os.path.exists(place / ".complete"):
            return None
        with suppress(OSError):  # a read-only cache needs no gc
            os.utime(place / "used")
        return place

    def turn(self, digest: str) -> AbstractAsyncContextManager[int]:
        """Hold the right to build it, among all processes that share the folder."""
        turns = self._root / "turns"
        try:
            turns.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise PrepareFailed(f"the program cannot be kept: {exc}") from exc
        return locks.turn(turns / digest[:2], lambda: None)

    def keep(self, digest: str, program: bytes) -> Path:
        """Put a program in its place. PrepareFailed where that cannot be written."""
        building = self._root / "building" / f"{digest}.{secrets.token_hex(4)}"
        try:
            return self._kept(building, digest, program)
        except OSError as exc:
            raise PrepareFailed(f"the program cannot be kept: {exc}") from exc
        finally:
            tree.delete(building)

    def _kept(self, building: Path, digest: str, program: bytes) -> Path:
        place = self.place(digest)
        building.mkdir(parents=True)
        with (building / "program").open("wb") as file:
            file.write(program)
            file.flush()
            os.fsync(file.fileno())
        (building / "program").chmod(0o555)
        (building / "used").touch()
        # The marker must not reach the disk before what it vouches for.
        tree.write(building / ".complete", "")
        building.chmod(0o755)
        if self.find(digest) is None:
            tree.delete(place)  # what has lost its marker is no program
            building.rename(place)
        return place

    def gc(self, *, max_age: float = MONTH) -> int:
        """Remove what no run asked for since `max_age` seconds, and what dead builds left."""
        now = time.time()
        old = [path for path in self._in("") if _used(path) < now - max_age]
        old += [path for path in self._in("building") if path.stat().st_mtime < now - HOUR]
        for path in old:
            tree.delete(path)
        return len(old)

    def _in(self, name: str) -> list[Path]:
        try:
            found = list((self._root / name).iterdir())
        except FileNotFoundError:
            return []
        return [path for path in found if path.name not in {"building", "turns"}]


def _used(place: Path) -> float:
    with suppress(OSError):
        return (place / "used").stat().st_mtime
    return 0.0
