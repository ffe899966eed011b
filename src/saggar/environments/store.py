"""
The store of layers: folders of dependencies, built once, addressed by what is in them.

A request (normalised requirements and the interpreter they are for) is resolved once into a
lock; request and lock together give the layer its digest. Processes on one host share a
store: a build holds a lock, happens in a folder of its own and appears under its digest by
one rename, so that a layer is there whole or not at all.

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
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import anyio
from anyio import to_thread

from saggar.environments import locks, python, tree
from saggar.environments.python import Progress, Workshop
from saggar.errors import InvalidTask, NotFound, PrepareFailed
from saggar.model.environment import Environment
from saggar.model.plan import Layer

MONTH: Final = 30 * 86400.0
_MINUTE: Final = 60.0
_INSIDE: Final = "/opt/saggar"


@dataclass(frozen=True, slots=True)
class Stored:
    """A layer in the store."""

    digest: str
    requirements: tuple[str, ...]
    python: str
    """Version, ABI and platform it was built for."""
    size: int
    """Bytes on disk, about."""
    used: float
    """When a run last asked for it, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What someone wants built: the same for everybody who means the same."""

    requirements: tuple[str, ...]
    python: str
    interpreter: str

    @property
    def key(self) -> str:
        return _sha256([*self.requirements, self.python])

    def layer(self, lock: str) -> str:
        return f"sha256:{_sha256([*self.requirements, self.python, lock])}"


_Wish = tuple[tuple[str, ...], str]
"""Requirements as they were written, and the interpreter."""


class _Known(NamedTuple):
    """A layer that was found or built."""

    layer: Layer
    marker: str
    looked: float


class Store:
    """Builds and keeps layers below one folder. Nothing is touched before it is used."""

    def __init__(self, cache_dir: Path) -> None:
        self._root = cache_dir / "environments"
        self._checked: set[str] = set()
        self._known: dict[_Wish, _Known] = {}

    async def prepare(
        self,
        environment: Environment,
        *,
        interpreter: str,
        progress: Progress | None = None,
    ) -> tuple[Layer, ...]:
        """
        The layers of an environment, built now if they are not there yet.

        `progress` hears what takes time, one line at a time; what is there already is silent.

        Raises:
            InvalidTask: A requirement is not a name with versions.
            PrepareFailed: It cannot be built; `log` has the installer's words.
        """
        say = progress or _silence
        layers = []
        if environment.packages:
            layers.append(await self._packages(environment, interpreter, say))
        if environment.host_packages:
            layers += await self._host(interpreter, say)
        return tuple(layers)

    async def lock_of(
        self, environment: Environment, *, interpreter: str, progress: Progress | None = None
    ) -> str:
        """The lock of an environment's packages, resolved now if that never happened."""
        if not environment.packages:
            return ""
        request = await _request(environment, interpreter)
        say = progress or _silence
        with _our_trouble():
            if (lock := self._lock(request)) is not None:
                return lock
            async with (
                self._turn(request, say) as turn,
                self._workshop(request, turn, say) as workshop,
            ):
                return await self._resolve(request, workshop)

    def list(self) -> tuple[Stored, ...]:
        """Every finished layer, the most recently used first."""
        found = [stored for path in self._in("layers") if (stored := _stored(path))]
        return tuple(sorted(found, key=lambda stored: stored.used, reverse=True))

    def remove(self, digest: str) -> None:
        """
        Remove a layer, used or not, and forget its lock: the next build resolves again.

        Raises:
            NotFound: There is no such layer.
        """
        stored = {layer.digest: layer for layer in self.list()}
        if digest not in stored:
            raise NotFound.among("layer", digest, stored)
        layer = stored[digest]
        key = _sha256([*layer.requirements, layer.python])
        (self._root / "locks" / f"{key}.txt").unlink(missing_ok=True)
        self._discard(self._place(digest))

    def gc(
        self,
        *,
        max_age: float = MONTH,
        keep: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> tuple[str, ...]:
        """
        Remove what dead builds left and layers that no run asked for since `max_age` seconds,
        except the `keep` last used ones. Locks stay: a layer built again is the same again.

        Returns the digests and names of what was removed. `max_age` must be longer than any
        run, and than a minute: a layer under a living sandbox is not protected otherwise.
        """
        removed = [path.name for path in self._in("building") if self._sweep(path)]
        removed += [
            path.name for path in self._in("layers") if not _stored(path) and self._discard(path)
        ]
        unused_since = clock() - max_age
        removed += [
            layer.digest
            for layer in self.list()[keep:]
            if self._discard(self._place(layer.digest), unused_since)
        ]
        return tuple(removed)

    async def _packages(
        self, environment: Environment, interpreter: str, progress: Progress
    ) -> Layer:
        wish = (environment.packages, interpreter)
        if layer := self._remembered(wish):
            return layer
        request = await _request(environment, interpreter)
        with _our_trouble():
            digest = self._ready(request)
            if digest is None:
                digest = await self._build(request, progress)
        layer = self._layer(digest)
        self._known[wish] = _Known(layer, str(self._place(digest) / ".complete"), time.monotonic())
        return layer

    def _remembered(self, wish: _Wish) -> Layer | None:
        """The layer of a wish that was looked at a moment ago and is still there."""
        # Every run asks. Once a minute is enough to look closely and to mark it as used.
        known = self._known.get(wish)
        fresh = known is not None and time.monotonic() - known.looked < _MINUTE
        return known.layer if known and fresh and os.path.exists(known.marker) else None

    def _layer(self, digest: str) -> Layer:
        return Layer(
            path=str(self._place(digest) / "site"),
            target=f"{_INSIDE}/layers/{_plain(digest)[:16]}",
            python_path=True,
        )

    async def _host(self, interpreter: str, progress: Progress) -> tuple[Layer, ...]:
        ours, theirs = await python.identify(sys.executable), await python.identify(interpreter)
        if ours != theirs:
            raise InvalidTask(f"the host's packages are for Python {ours}, not for {theirs}")
        folders = python.site_packages()
        for folder in folders:
            if folder not in self._checked:
                self._checked.add(folder)
                _report(folder, await to_thread.run_sync(tree.unreadable, folder), progress)
        return tuple(
            Layer(path=folder, target=f"{_INSIDE}/host/{number}", python_path=True)
            for number, folder in enumerate(folders)
        )

    def _ready(self, request: _Request) -> str | None:
        """The digest of a request's layer if it is there; marks it as used."""
        self._refuse_foreign()
        lock = self._lock(request)
        if lock is None:
            return None
        digest = request.layer(lock)
        with self._held(fcntl.LOCK_SH):
            if not _is_complete(self._place(digest)):
                return None
            _touch(self._place(digest) / "used")
        return digest

    async def _build(self, request: _Request, progress: Progress) -> str:
        async with self._turn(request, progress) as turn:
            # Whoever had the turn before us may have built it.
            if digest := self._ready(request):
                return digest
            async with self._workshop(request, turn, progress) as workshop:
                lock = await self._resolve(request, workshop)
                await python.install(lock, request.interpreter, workshop)
                return await to_thread.run_sync(self._finish, request, lock, workshop.folder)

    async def _resolve(self, request: _Request, workshop: Workshop) -> str:
        lock = self._lock(request)
        if lock is None:
            lock = await python.resolve(request.requirements, request.interpreter, workshop)
            path = workshop.folder / "lock.txt"
            tree.write(path, lock)
            path.rename(self._root / "locks" / f"{request.key}.txt")
        return lock

    def _lock(self, request: _Request) -> str | None:
        try:
            return (self._root / "locks" / f"{request.key}.txt").read_text("utf-8")
        except FileNotFoundError:
            return None

    def _finish(self, request: _Request, lock: str, folder: Path) -> str:
        """Make a finished installation a layer: sealed, on disk, marked, in its place."""
        about = {
            "requirements": request.requirements,
            "python": request.python,
            "size": tree.seal(folder / "site"),
        }
        tree.write(folder / "about.json", json.dumps(about))
        tree.write(folder / "lock.txt", lock)
        tree.write(folder / "used", "")
        folder.chmod(0o755)
        # The marker must not reach the disk before what it vouches for.
        tree.sync(folder)
        tree.write(folder / ".complete", "")
        digest = request.layer(lock)
        self._discard(self._place(digest))
        with self._held(fcntl.LOCK_SH):
            folder.rename(self._place(digest))
        tree.sync(self._root)
        return digest

    def _turn(self, request: _Request, progress: Progress) -> AbstractAsyncContextManager[int]:
        """Hold the right to build a request, among all processes that share the store."""
        self._make_folders()
        return locks.turn(
            self._turn_of(request.key),
            lambda: progress("waiting: the same packages are being built elsewhere"),
        )

    @asynccontextmanager
    async def _workshop(
        self, request: _Request, turn: int, progress: Progress
    ) -> AsyncIterator[Workshop]:
        """A folder to build in; what is left of it afterwards is removed."""
        folder = self._root / "building" / f"{request.key}.{secrets.token_hex(4)}"
        try:
            folder.mkdir(mode=0o700)
            yield Workshop(folder, turn, progress)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(tree.delete, folder)

    def _held(self, operation: int) -> AbstractContextManager[None]:
        """The store's own lock: shared to use a layer, exclusive to take it away."""
        return locks.held(self._root / "lock", operation)

    def _discard(self, layer: Path, unused_since: float = math.inf) -> bool:
        """Take a layer away, first by name and then its files; False if there is none."""
        aside = self._root / "building" / f"{layer.name}.{secrets.token_hex(4)}"
        with self._held(fcntl.LOCK_EX):
            if not layer.exists() or _used(layer) >= unused_since:
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
        return self._root / "turns" / key[:2]

    def _place(self, digest: str) -> Path:
        return self._root / "layers" / _plain(digest)

    def _in(self, name: str) -> tuple[Path, ...]:
        try:
            return tuple(sorted((self._root / name).iterdir()))
        except FileNotFoundError:
            return ()

    def _make_folders(self) -> None:
        for name in ("locks", "layers", "building", "turns"):
            (self._root / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        """What others can write is not taken into a sandbox as if it were ours."""
        for folder in (self._root.parent, self._root):
            try:
                found = folder.stat()
            except FileNotFoundError:
                return
            if found.st_uid not in {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
                raise PrepareFailed(f"others can write to {folder}; layers cannot be kept there")


async def _request(environment: Environment, interpreter: str) -> _Request:
    requirements = python.normalised(environment.packages)
    return _Request(requirements, await python.identify(interpreter), interpreter)


@contextmanager
def _our_trouble() -> Iterator[None]:
    """A full or broken disk is ours, and the next try may work."""
    try:
        yield
    except OSError as exc:
        raise PrepareFailed(f"the layer could not be written: {exc}") from exc


def _silence(_line: str) -> None:
    """The progress of whoever did not ask for it."""


def _sha256(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _plain(digest: str) -> str:
    return digest.removeprefix("sha256:")


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
            requirements=tuple(about["requirements"]),
            python=about["python"],
            size=about["size"],
            used=_used(layer),
        )
    except (OSError, ValueError, KeyError):
        # Taken away while we looked, or damaged by hand.
        return None


def _used(layer: Path) -> float:
    try:
        return (layer / "used").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _touch(path: Path) -> None:
    with suppress(OSError):  # a read-only store needs no gc
        os.utime(path)


def _report(folder: str, names: tuple[str, ...], progress: Progress) -> None:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        listed = ", ".join(name if name.isprintable() else ascii(name) for name in names[:5])
        progress(f"a sandbox cannot read these files in {folder}: {listed}{more}")
