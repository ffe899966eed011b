"""
Layers on disk: each a folder under its digest, there whole or not at all.

Processes on one host share them: a build holds a turn, happens in a folder of its own and appears
by one rename. Whoever shows a layer to a sandbox holds it, and what is held is not taken away.

    locks/REQUEST.txt        the lock of a request
    layers/DIGEST/           site/ (what a sandbox sees), lock.txt, about.json, used, .complete
    building/REQUEST.RANDOM  a build under way, or what a dead one left
    turns/, lock             who builds, who takes away
"""

import fcntl
import hashlib
import json
import math
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from saggar.environments import locks, tree
from saggar.environments.recipe import Progress, Recipe, Workshop
from saggar.errors import PrepareFailed
from saggar.model.plan import Layer

MONTH: Final = 30 * 86400.0
GRACE: Final = 300.0
"""Seconds for which a layer that was asked for stays: until whoever asked has it in his hands."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A layer in the store."""

    digest: str
    kind: str
    """"python", "system" or "models"."""
    requirements: tuple[str, ...]
    python: str
    """What it was built for: version, ABI and platform of a Python, or a distribution."""
    size: int
    """Bytes on disk, about; what it shares with uv's cache counts as well."""
    used: float
    """When a run last asked for it, in seconds since the epoch."""


def key_of(recipe: Recipe) -> str:
    """The same for everybody who wishes for the same."""
    return _sha256([recipe.kind, *recipe.names, recipe.surroundings])


def digest_of(recipe: Recipe, lock: str) -> str:
    """The digest of the layer that a lock makes of a wish."""
    return f"sha256:{_sha256([recipe.kind, *recipe.names, recipe.made_for, lock])}"


class Layers:
    """The folders of one store. Nothing is touched before it is used."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def site(self, digest: str) -> Path:
        """What a sandbox sees of a layer."""
        return self._place(digest) / "site"

    def marker(self, digest: str) -> str:
        """The file that is there for as long as the layer is."""
        return str(self._place(digest) / ".complete")

    def lock(self, recipe: Recipe) -> str | None:
        """What was written down for a wish; None if nobody resolved it yet."""
        try:
            return self._lock(key_of(recipe)).read_text("utf-8")
        except FileNotFoundError:
            return None

    def write_lock(self, recipe: Recipe, lock: str, workshop: Workshop) -> None:
        """Write down what a wish was resolved to."""
        path = workshop.folder / "resolved.txt"
        tree.write(path, lock)
        path.rename(self._lock(key_of(recipe)))

    def forget_lock(self, key: str) -> None:
        """The next build of it resolves again."""
        self._lock(key).unlink(missing_ok=True)

    def touch(self, digest: str) -> bool:
        """Mark a layer as used; says whether it is there."""
        with self._held(fcntl.LOCK_SH):
            if not _is_complete(self._place(digest)):
                return False
            with suppress(OSError):  # a read-only store needs no gc
                os.utime(self._place(digest) / "used")
        return True

    @contextmanager
    def hold(self, layers: Iterable[Layer]) -> Iterator[None]:
        """
        Keep layers from being taken away, by this process or another, for the length of a block.

        Those that are not of this store need no keeping.

        Raises:
            PrepareFailed: One of them has gone already.
        """
        with ExitStack() as held:
            for layer in layers:
                place = Path(layer.path).parent
                if place.parent == self.root / "layers":
                    held.enter_context(_shared(place / "used"))
            yield

    def finish(self, recipe: Recipe, lock: str, folder: Path) -> str:
        """Make a finished installation a layer: sealed, on disk, marked, in its place."""
        about = {
            "kind": recipe.kind,
            "requirements": recipe.names,
            "python": recipe.made_for,
            "key": key_of(recipe),
            "size": tree.seal(folder / "site"),
        }
        tree.write(folder / "about.json", json.dumps(about))
        tree.write(folder / "lock.txt", lock)
        tree.write(folder / "used", "")
        folder.chmod(0o755)
        # The marker must not reach the disk before what it vouches for.
        tree.sync(folder)
        tree.write(folder / ".complete", "")
        digest = digest_of(recipe, lock)
        self.discard(digest)
        with self._held(fcntl.LOCK_SH):
            folder.rename(self._place(digest))
        tree.sync(self.root)
        return digest

    def turn(self, key: str, progress: Progress) -> AbstractAsyncContextManager[int]:
        """Hold the right to build a request, among all processes that share the store."""
        self.make_folders()
        return locks.turn(
            self._turn_of(key),
            lambda: progress("waiting: the same packages are being built elsewhere"),
        )

    @asynccontextmanager
    async def workshop(
        self, key: str, turn: int, progress: Progress, seconds: float
    ) -> AsyncIterator[Workshop]:
        """A folder to build in; what is left of it afterwards is removed."""
        folder = self.root / "building" / f"{key}.{secrets.token_hex(4)}"
        try:
            folder.mkdir(mode=0o700)
            yield Workshop(folder, turn, progress, seconds)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(tree.delete, folder)

    def list(self) -> tuple[Stored, ...]:
        """Every finished layer, the most recently used first."""
        found = [stored for path in self._in("layers") if (stored := _stored(path))]
        return tuple(sorted(found, key=lambda stored: stored.used, reverse=True))

    def about(self, digest: str) -> tuple[str, str]:
        """Key and lock of a layer."""
        place = self._place(digest)
        return json.loads(tree.read(place / "about.json"))["key"], tree.read(place / "lock.txt")

    def discard(self, digest: str, unused_since: float = math.inf) -> bool:
        """Take a layer away, first by name and then its files; False if none can be taken."""
        return self._discard(self._place(digest), unused_since)

    def evict(self, most: int, clock: Callable[[], float] = time.time) -> tuple[str, ...]:
        """
        Take away the layers asked for longest ago until what is left has at most `most` bytes.

        One under a living sandbox stays, and so does one that was asked for a moment ago.
        """
        layers = self.list()
        size, removed = sum(layer.size for layer in layers), []
        for layer in reversed(layers):
            if size <= most:
                break
            if self.discard(layer.digest, clock() - GRACE):
                size -= layer.size
                removed.append(layer.digest)
        return tuple(removed)

    def sweep(self) -> tuple[str, ...]:
        """Remove what dead builds left, and what was never finished; the names of all that."""
        removed = [path.name for path in self._in("building") if self._sweep(path)]
        removed += [
            path.name for path in self._in("layers") if not _stored(path) and self._discard(path)
        ]
        return tuple(removed)

    def make_folders(self) -> None:
        """Before the first build."""
        for name in ("locks", "layers", "building", "turns"):
            (self.root / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        self.refuse_foreign()

    def refuse_foreign(self) -> None:
        """What others can write is not taken into a sandbox as if it were ours."""
        for folder in (self.root.parent, self.root):
            try:
                found = folder.stat()
            except FileNotFoundError:
                return
            if found.st_uid not in {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
                raise PrepareFailed(f"others can write to {folder}; layers cannot be kept there")

    def _held(self, operation: int) -> AbstractContextManager[None]:
        """The store's own lock: shared to use a layer, exclusive to take it away."""
        return locks.held(self.root / "lock", operation)

    def _discard(self, layer: Path, unused_since: float = math.inf) -> bool:
        aside = self.root / "building" / f"{layer.name}.{secrets.token_hex(4)}"
        with self._held(fcntl.LOCK_EX):
            if not layer.exists() or _used(layer) >= unused_since:
                return False
            with locks.tried(layer / "used") as free:
                if not free:
                    return False
                layer.rename(aside)
        tree.delete(aside)
        return True

    def _sweep(self, leftover: Path) -> bool:
        """Remove what a dead build left; a living one holds its turn."""
        with locks.tried(self._turn_of(leftover.name)) as free:
            if free:
                tree.delete(leftover)
            return free

    def _turn_of(self, key: str) -> Path:
        # One lock file for all requests that begin alike: lock files cannot be removed without
        # a race, so their number has to be bounded.
        return self.root / "turns" / key[:2]

    def _lock(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.txt"

    def _place(self, digest: str) -> Path:
        return self.root / "layers" / digest.removeprefix("sha256:")

    def _in(self, name: str) -> tuple[Path, ...]:
        try:
            return tuple(sorted((self.root / name).iterdir()))
        except FileNotFoundError:
            return ()


@contextmanager
def _shared(path: Path) -> Iterator[None]:
    """Hold a file that is there together with others; it is let go when we die."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        # As in an image that somebody else has built: it is not ours to take away either.
        yield
        return
    except OSError as exc:
        raise PrepareFailed(f"a layer has gone meanwhile, the next try builds it: {path}") from exc
    try:
        # Whoever takes a layer away has it for a moment only, and then it is elsewhere.
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not path.exists():
            raise PrepareFailed(f"a layer has gone meanwhile, the next try builds it: {path}")
        yield
    finally:
        # Not left to close(): a process forked meanwhile may have the descriptor too.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _sha256(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _is_complete(layer: Path) -> bool:
    return (layer / ".complete").exists()


def _stored(layer: Path) -> Stored | None:
    """What is known about a layer; None if it is not a finished one."""
    if not _is_complete(layer):
        return None
    try:
        about = json.loads((layer / "about.json").read_text("utf-8"))
        return Stored(
            digest=f"sha256:{layer.name}",
            kind=about["kind"],
            requirements=tuple(about["requirements"]),
            python=about["python"],
            size=about["size"],
            used=_used(layer),
        )
    except (OSError, ValueError, KeyError):
        # Taken away while we looked, damaged by hand, or made by an older version.
        return None


def _used(layer: Path) -> float:
    try:
        return (layer / "used").stat().st_mtime
    except FileNotFoundError:
        return 0.0
