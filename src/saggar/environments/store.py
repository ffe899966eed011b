"""
The store: from what an environment asks for to the layers a sandbox sees, built once.

A wish (normalised names and what they are for) is resolved once into a lock; both together give
the layer its digest. What an environment needs of each kind is prepared at the same time.
"""

import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
from anyio import to_thread

from saggar.config import Settings, cache_dir
from saggar.environments import layers as places
from saggar.environments import python, requirements, tree
from saggar.environments.commands import TIMEOUT
from saggar.environments.layers import MONTH, Layers, Stored
from saggar.environments.python import PythonPackages
from saggar.environments.recipe import Progress, Recipe, Stale, Workshop
from saggar.environments.workspace import workspace
from saggar.errors import Conflict, InvalidTask, NotFound, PrepareFailed, SaggarError
from saggar.model.environment import Environment
from saggar.model.plan import Layer

if TYPE_CHECKING:
    from saggar.environments.models import Models

_MINUTE: Final = 60.0
_HOST: Final = "/opt/saggar/host"

_Job = Callable[[], Awaitable[Sequence[Layer]]]


class _Known(NamedTuple):
    """A layer that was found or built, or that nothing was needed."""

    layer: Layer | None
    marker: str
    looked: float


class Store:
    """Builds and keeps layers below one folder. Nothing is touched before it is used."""

    def __init__(
        self,
        folder: Path,
        *,
        most: float = math.inf,
        timeout: float = TIMEOUT,
        private: tuple[str, ...] = ("*",),
        owns_system: bool = False,
    ) -> None:
        self._root = folder / "environments"
        self._layers = Layers(self._root)
        self._most = most
        self._timeout = timeout
        self._private = private
        self._owns_system = owns_system
        self._checked: set[str] = set()
        self._known: dict[tuple[object, ...], _Known] = {}

    @classmethod
    def of(cls, settings: Settings) -> "Store":
        """The store of this endpoint, or of this machine, as its operator has it."""
        return cls(
            workspace(cache_dir(settings)),
            most=settings.environments_size,
            timeout=settings.prepare_timeout,
            private=("*",) if settings.ceiling is None else settings.models,
            owns_system=settings.owns_system,
        )

    async def prepare(
        self,
        environment: Environment,
        *,
        interpreter: str,
        progress: Progress | None = None,
        token: str | None = None,
        offline: bool = True,
    ) -> tuple[Layer, ...]:
        """
        The layers of an environment, built now if they are not there yet.

        Args:
            environment: What is asked for.
            interpreter: The Python that packages are for.
            progress: Hears what takes time, one line at a time; what is there already is silent.
            token: What opens private models; HF_TOKEN if None, for those that the operator
                lets it open. What one token has opened is kept apart from everything else.
            offline: Whether what runs there has no network, so that models are not looked for.

        Raises:
            InvalidTask: A requirement is not a name with versions.
            PrepareFailed: It cannot be built; `log` has the installer's words.
        """
        say = progress or _silence
        jobs: list[_Job] = []
        if environment.packages:
            jobs.append(lambda: self._packages(environment, interpreter, say))
        if environment.host_packages:
            jobs.append(lambda: self._host(interpreter, say))
        if environment.system_packages:
            if environment.root:
                raise InvalidTask("system_packages are for this machine's own system, not for root")
            jobs.append(lambda: self._system(environment, say))
        if environment.models:
            opener = self._token(environment.models) if token is None else token
            jobs.append(lambda: self._models(environment, opener, offline, say))
        return tuple(layer for found in await _together(jobs) for layer in found)

    async def lock_of(
        self, environment: Environment, *, interpreter: str, progress: Progress | None = None
    ) -> str:
        """The lock of an environment's packages, resolved now if that never happened."""
        if not environment.packages:
            return ""
        recipe = await _recipe(environment, interpreter)
        say = progress or _silence
        with _our_trouble():
            if (lock := self._layers.lock(recipe)) is not None:
                return lock
            key = places.key_of(recipe)
            async with (
                self._layers.turn(key, say) as turn,
                self._layers.workshop(key, turn, say, self._timeout) as workshop,
            ):
                return await self._resolve(recipe, workshop)

    def hold(self, layers: Iterable[Layer]) -> AbstractContextManager[None]:
        """
        Keep these layers for the length of a block: a sandbox sees them.

        Raises:
            PrepareFailed: One of them has gone already.
        """
        return self._layers.hold(layers)

    def list(self) -> tuple[Stored, ...]:
        """Every finished layer, the most recently used first."""
        return self._layers.list()

    def find(self, digest: str) -> Stored:
        """
        The layer of a digest, or of the only one that begins so.

        Raises:
            NotFound: There is none, or more than one.
        """
        stored = {layer.digest: layer for layer in self.list()}
        wanted = f"sha256:{digest.removeprefix('sha256:')}"
        found = [one for one in stored if one.startswith(wanted)] if len(wanted) >= 11 else []
        if len(found) != 1:
            raise NotFound.among("layer", digest, stored)
        return stored[found[0]]

    def lock(self, stored: Stored) -> str:
        """The lock that a layer was built from."""
        return self._layers.about(stored.digest)[1]

    def folder(self, stored: Stored) -> Path:
        """Where its files are."""
        return self._layers.site(stored.digest)

    def remove(self, digest: str) -> None:
        """
        Remove a layer and forget its lock: the next build resolves again.

        Raises:
            NotFound: There is no such layer.
            Conflict: A living sandbox sees it.
        """
        stored = self.find(digest)
        key, _ = self._layers.about(stored.digest)
        if not self._layers.discard(stored.digest):
            raise Conflict(f"a living sandbox sees {stored.digest}; it can be removed afterwards")
        self._layers.forget_lock(key)

    def gc(
        self,
        *,
        max_age: float = MONTH,
        keep: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> tuple[str, ...]:
        """
        Remove what dead builds left and layers that no run asked for since `max_age` seconds,
        except the `keep` last used ones; then the longest unused, until the rest fits. Locks
        stay: a layer built again is the same again. What a living sandbox sees stays as well.

        Returns the digests and names of what was removed.
        """
        from saggar.environments import models

        removed = [*self._layers.sweep(), *models.sweep(self._root, clock() - max_age)]
        unused_since = clock() - max_age
        removed += [
            layer.digest
            for layer in self.list()[keep:]
            if self._layers.discard(layer.digest, unused_since)
        ]
        return (*removed, *self.evict())

    def evict(self, most: float | None = None) -> tuple[str, ...]:
        """Remove the longest unused layers until the rest fits; which these were."""
        most = self._most if most is None else most
        return () if most == math.inf else self._layers.evict(int(most))

    async def _packages(
        self, environment: Environment, interpreter: str, say: Progress
    ) -> Sequence[Layer]:
        wish = ("python", environment.packages, interpreter, environment.host_packages)
        if known := self._remembered(wish):
            return _shown(known)
        recipe = await _recipe(environment, interpreter)
        if environment.host_packages:
            recipe = await self._beside_host(recipe, say)
        layer = await self._layer(recipe, say) if recipe.names else None
        return self._remember(wish, layer)

    async def _beside_host(self, recipe: PythonPackages, say: Progress) -> PythonPackages:
        """Only what the host's packages do not have, and nothing that they do."""
        key = places.key_of(recipe)
        with _our_trouble():
            async with (
                self._layers.turn(key, say) as turn,
                self._layers.workshop(key, turn, say, self._timeout) as workshop,
            ):
                lacking = await python.missing(recipe.names, workshop)
        return replace(recipe, names=lacking, pinned=True)

    async def _system(self, environment: Environment, say: Progress) -> Sequence[Layer]:
        from saggar.environments import system

        wish = ("system", environment.system_packages, *system.state())
        if known := self._remembered(wish):
            return _shown(known)
        names = system.normalised(environment.system_packages)
        if await system.all_there(names):
            return self._remember(wish, None)
        if self._owns_system:
            await self._installed_here(names, say)
            return ()
        recipe = system.SystemPackages(names, system.distribution(), self._root / "apt")
        return self._remember(wish, await self._layer(recipe, say))

    async def _installed_here(self, names: Sequence[str], say: Progress) -> None:
        from saggar.environments import system

        # One key for all: dpkg has one lock, and whoever waits should hear of it.
        key = "dpkg"
        async with (
            self._layers.turn(key, say) as turn,
            self._layers.workshop(key, turn, say, self._timeout) as workshop,
        ):
            if not await system.all_there(names):
                await system.install_here(names, workshop)

    async def _models(
        self,
        environment: Environment,
        token: str,
        offline: bool,  # noqa: FBT001 (handed on as it came)
        say: Progress,
    ) -> Sequence[Layer]:
        from saggar.environments import models

        endpoint = models.endpoint(os.environ)
        wish = ("models", environment.models, endpoint, token)
        if not (known := self._remembered(wish)):
            names = models.normalised(environment.models)
            recipe = models.Models(names, endpoint, token, self._root / "hub")
            if self._ready(recipe) is None:
                # Before its turn: it may take a build of its own.
                recipe = replace(recipe, library=await self._hub(say), older=self._older(recipe))
            self._remember(wish, await self._layer(recipe, say))
            known = self._known[wish]
        return [models.offline(layer) if offline else layer for layer in _shown(known)]

    def _token(self, wanted: Sequence[str]) -> str:
        """The operator's, if each of these models may be fetched with it."""
        names = [model.partition("@")[0] for model in wanted]
        allowed = all(any(fnmatchcase(name, one) for one in self._private) for name in names)
        return os.environ.get("HF_TOKEN", "") if allowed else ""

    def _older(self, recipe: "Models") -> tuple[Path, ...]:
        """Layers with models that the same token has opened."""
        return tuple(
            self._layers.site(layer.digest)
            for layer in self.list()
            if (layer.kind, layer.python) == (recipe.kind, recipe.made_for)
        )

    async def _hub(self, say: Progress) -> str:
        """Where the library that downloads is: empty if it is installed beside us."""
        from saggar.environments import models

        if models.is_installed():
            return ""
        environment = Environment(packages=models.LIBRARY)
        (layer,) = await self._packages(environment, sys.executable, say)
        return layer.path

    def _remembered(self, wish: tuple[object, ...]) -> _Known | None:
        """What was looked at a moment ago and is still there."""
        # Every run asks. Once a minute is enough to look closely and to mark it as used.
        known = self._known.get(wish)
        fresh = known is not None and time.monotonic() - known.looked < _MINUTE
        is_there = known is not None and (not known.marker or os.path.exists(known.marker))
        return known if fresh and is_there else None

    def _remember(self, wish: tuple[object, ...], layer: Layer | None) -> Sequence[Layer]:
        marker = os.path.join(os.path.dirname(layer.path), ".complete") if layer else ""
        known = self._known[wish] = _Known(layer, marker, time.monotonic())
        return _shown(known)

    async def _layer(self, recipe: Recipe, say: Progress) -> Layer | None:
        with _our_trouble():
            digest = self._ready(recipe)
            if digest is None:
                digest = await self._build(recipe, say)
        return recipe.layer(self._layers.site(digest), _plain(digest)) if digest else None

    def _ready(self, recipe: Recipe) -> str | None:
        """The digest of a layer that is there, marked as used; empty where none is needed."""
        self._layers.refuse_foreign()
        lock = self._layers.lock(recipe)
        if not lock:
            return lock
        digest = places.digest_of(recipe, lock)
        return digest if self._layers.touch(digest) else None

    async def _build(self, recipe: Recipe, say: Progress) -> str:
        key = places.key_of(recipe)
        async with self._layers.turn(key, say) as turn:
            # Whoever had the turn before us may have built it.
            if (digest := self._ready(recipe)) is not None:
                return digest
            async with self._layers.workshop(key, turn, say, self._timeout) as workshop:
                lock = await self._installed(recipe, workshop)
                if not lock:
                    return ""
                digest = await to_thread.run_sync(
                    self._layers.finish, recipe, lock, workshop.folder
                )
        await to_thread.run_sync(self.evict)
        return digest

    async def _installed(self, recipe: Recipe, workshop: Workshop) -> str:
        """The lock, and what it names in the workshop."""
        lock = await self._resolve(recipe, workshop)
        try:
            if lock:
                await recipe.install(lock, workshop)
        except Stale:
            self._layers.forget_lock(places.key_of(recipe))
            await to_thread.run_sync(tree.delete, workshop.folder / "site")
            lock = await self._resolve(recipe, workshop)
            await recipe.install(lock, workshop)
        return lock

    async def _resolve(self, recipe: Recipe, workshop: Workshop) -> str:
        lock = self._layers.lock(recipe)
        if lock is None:
            lock = await recipe.resolve(workshop)
            self._layers.write_lock(recipe, lock, workshop)
        return lock

    async def _host(self, interpreter: str, progress: Progress) -> Sequence[Layer]:
        ours, theirs = await python.identify(sys.executable), await python.identify(interpreter)
        if ours != theirs:
            raise InvalidTask(f"the host's packages are for Python {ours}, not for {theirs}")
        folders = await python.host_packages()
        for folder in folders:
            if folder not in self._checked:
                self._checked.add(folder)
                _report(folder, await to_thread.run_sync(tree.unreadable, folder), progress)
        return tuple(
            Layer(path=folder, target=f"{_HOST}/{number}", python_path=True)
            for number, folder in enumerate(folders)
        )


async def _recipe(environment: Environment, interpreter: str) -> PythonPackages:
    names = requirements.normalised(environment.packages)
    return PythonPackages(names, await python.identify(interpreter), interpreter)


async def _together(jobs: Sequence[_Job]) -> list[Sequence[Layer]]:
    """What each of them finds, in their order; the first that fails ends the others."""
    if len(jobs) <= 1:
        return [await job() for job in jobs]
    found: dict[int, Sequence[Layer]] = {}

    async def do(place: int, job: _Job) -> None:
        found[place] = await job()

    try:
        async with anyio.create_task_group() as tasks:
            for place, job in enumerate(jobs):
                tasks.start_soon(do, place, job)
    except* (SaggarError, OSError) as group:
        failed = group.exceptions[0]
    else:
        return [found[place] for place in range(len(jobs))]
    raise failed


def _shown(known: _Known) -> Sequence[Layer]:
    return (known.layer,) if known.layer else ()


@contextmanager
def _our_trouble() -> Iterator[None]:
    """A full or broken disk is ours, and the next try may work."""
    try:
        yield
    except OSError as exc:
        raise PrepareFailed(f"the layer could not be written: {exc}") from exc


def _silence(_line: str) -> None:
    """The progress of whoever did not ask for it."""


def _plain(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _report(folder: str, names: tuple[str, ...], progress: Progress) -> None:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        listed = ", ".join(name if name.isprintable() else ascii(name) for name in names[:5])
        progress(f"a sandbox cannot read these files in {folder}: {listed}{more}")
