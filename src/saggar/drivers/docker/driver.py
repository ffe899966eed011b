"""The driver itself: what it is called, what it found here, and where its children come from."""

import os
import platform
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import anyio

from saggar.config import Settings, cache_dir, runtime_dir
from saggar.drivers.docker import arrival, owners
from saggar.drivers.docker.arrival import Unconfined
from saggar.drivers.docker.confinement import Landlocked, confinement
from saggar.drivers.docker.engine import Engine, Image, address
from saggar.drivers.docker.interior import Interior, interior, refuse_strangers
from saggar.drivers.docker.nursery import ContainerNursery, Ground, open_nursery
from saggar.drivers.docker.promises import Promises, facts, promises, without_gpu
from saggar.drivers.docker.spec import Blueprint
from saggar.drivers.interpreter import find
from saggar.errors import DriverUnavailable, InvalidTask, PlatformError
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.plan import Capabilities, Layer, WarmKey
from saggar.model.policy import Policy

RECIPES = {
    "docker": """\
An engine on this machine, whose socket this user may open:

    sudo apt install docker.io
    sudo usermod -aG docker "$USER"     # he is as good as root from then on
    make build-runners
""",
    "podman": """\
Without root, where cgroups of version 2 are delegated to the user:

    systemctl --user enable --now podman.socket
    export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman/podman.sock
""",
}


class DockerDriver:
    """One container for each task, kept waiting where somebody is likely to ask for one."""

    name = "docker"
    warm = True
    images = True
    fixed = frozenset({"memory", "processes", "cpu_share", "disk", "inodes"})

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._engine: Engine | None = None
        self._about: Mapping[str, object] = {}
        self._capabilities: Capabilities | None = None
        self._landlocked: Landlocked | None = None
        self._swept = False
        self._starts: anyio.CapacityLimiter | None = None

    async def probe(self) -> Capabilities:
        """What holds here, found by starting a container of the default image; remembered."""
        if self._capabilities is None:
            self._capabilities = await self._try()
        return self._capabilities

    async def _try(self) -> Capabilities:
        key = WarmKey(interpreter="", environment="probe")
        everything = frozenset(LIMIT_NAMES)
        reasons = []
        try:
            async with self.nursery(key, Policy(best_effort=everything), ()) as nursery:
                (await nursery.park(hurried=True)).release()
        except PlatformError as exc:
            reasons.append(str(exc))
        found = self._promises() if self._about else None
        return Capabilities(
            driver=self.name,
            available=not reasons,
            rung=found.rung if found and not reasons else None,
            limits=found.limits if found and not reasons else {},
            reasons=tuple(reasons),
            recipes=RECIPES,
            warm=self.warm,
            facts=self._facts(),
        )

    def _facts(self) -> dict[str, str]:
        landlocked = {"landlock": self._landlocked.fact()} if self._landlocked else {}
        return {**facts(self._about), **landlocked} if self._about else {}

    def close(self) -> None:
        """Close what leads to the engine."""
        if self._engine is not None:
            self._engine.close()

    def sweep(self) -> Mapping[str, int]:
        """Remove the containers and folders of hosts that are dead; how many of each."""
        try:
            return owners.sweep(self._found(), runtime_dir(self._settings))
        except PlatformError:
            return {}  # without an engine there is nothing that could have been left behind

    @asynccontextmanager
    async def nursery(
        self, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> AsyncIterator[ContainerNursery]:
        """
        Where containers of one image are started; they are gone when it closes.

        Raises:
            DriverUnavailable: No engine answers, or the policy asks for more than it keeps.
            PrepareFailed: The image is not here.
        """
        if platform.system() != "Linux":
            raise DriverUnavailable("docker needs an engine that shares this machine's kernel")
        if key.root:
            raise InvalidTask("root: what a container has as its root is its image")
        if key.writable_root and "disk" not in policy.best_effort:
            raise DriverUnavailable(
                "docker cannot enforce disk where the root may be written to;"
                " Policy(best_effort={'disk'}) would do without"
            )
        engine = self._found()
        blueprint = await anyio.to_thread.run_sync(self._survey, engine, key, policy, layers)
        promised = self._promises()
        promised.admit(policy)
        runtime = runtime_dir(self._settings)

        def ground(modules: int, host: int) -> Ground:
            return Ground(engine, blueprint, promised, runtime, modules, host, taken)

        taken = confinement(key)
        landlocked = self._landlocked_of()
        if landlocked.refusal is None:
            await _try_landlock(landlocked, open_nursery(ground, self._turns()))
        if landlocked.refusal:
            taken = {**taken, "landlock": None}
        async with open_nursery(ground, self._turns()) as nursery:
            yield nursery

    def _found(self) -> Engine:
        if self._engine is None:
            self._engine = Engine(address())
        return self._engine

    def _landlocked_of(self) -> Landlocked:
        if self._landlocked is None:
            memory = cache_dir(self._settings) / "engines"
            self._landlocked = Landlocked(memory, self._about, self._settings.runtime)
        return self._landlocked

    def _turns(self) -> anyio.CapacityLimiter:
        """How many containers may be about to start: an engine takes no more than the cores do."""
        if self._starts is None:
            self._starts = anyio.CapacityLimiter(max(2, os.cpu_count() or 1))
        return self._starts

    def _promises(self) -> Promises:
        return promises(self._about, self._settings.runtime)

    def _survey(
        self, engine: Engine, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> Blueprint:
        """What every container of this key is made from. On a thread: the engine is asked."""
        arrival.check(key.mounts)
        if not self._about:
            self._about = engine.about()
        if key.gpu and (reason := without_gpu(self._about)):
            raise DriverUnavailable(f"gpu={key.gpu} cannot be had in a container here: {reason}")
        reference = key.image or self._settings.image
        # Asked for each nursery: a name may stand for another image by now.
        image = engine.image(reference)
        inside = self._interior(engine, image, key)
        if any(layer.system for layer in layers):
            raise InvalidTask(
                "environment.system_packages are for this machine's own system, and a container has"
                " its image's; environment.image can name one that has them installed"
            )
        if any(layer.python_path and not layer.any_python for layer in layers):
            refuse_strangers(inside.version, find(key.interpreter or None).version, reference)
        self._sweep_once(engine)
        cores = self._about.get("NCPU")
        return Blueprint(
            image=image,
            interior=inside,
            key=key,
            limits=_limits(key, policy),
            layers=tuple(layers),
            owner=owners.owner(),
            runtime=self._settings.runtime,
            cores=cores if isinstance(cores, int) else os.cpu_count() or 1,
        )

    def _interior(self, engine: Engine, image: Image, key: WarmKey) -> Interior:
        memory = cache_dir(self._settings) / "images"
        return interior(engine, image, key.interpreter, memory, owners.owner())

    def _sweep_once(self, engine: Engine) -> None:
        if not self._swept:
            self._swept = True
            with suppress(PlatformError):  # whoever wants to know asks for a sweep
                owners.sweep(engine, runtime_dir(self._settings))


async def _try_landlock(
    landlocked: Landlocked, nursery: AbstractAsyncContextManager[ContainerNursery]
) -> None:
    """By a container that is told to have it, and runs nothing."""
    refusal = ""
    async with nursery as opened:
        try:
            (await opened.park(hurried=True)).release()
        except Unconfined as exc:
            refusal = f"refused inside by the engine: {exc}"
    landlocked.learn(refusal)


def _limits(key: WarmKey, policy: Policy) -> Limits:
    return key.limits or policy.limits
