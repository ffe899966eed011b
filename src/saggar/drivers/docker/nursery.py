"""
Where containers are started, and seen to their ends: dead, and removed by the engine.

A child goes to whoever waits longest, whoever its container was started for: so a caller never
waits for a whole start when one is under way, and one who gives up wastes none.
"""

import marshal
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import RunVar

from saggar.drivers.docker.arrival import hear, held
from saggar.drivers.docker.container import ContainerProcess
from saggar.drivers.docker.door import Door, door
from saggar.drivers.docker.engine import Engine
from saggar.drivers.docker.owners import FOLDER
from saggar.drivers.docker.promises import Promises
from saggar.drivers.docker.spec import WORK, Blueprint
from saggar.drivers.interpreter import bundle, memory_file
from saggar.errors import PlatformError, SaggarError, SandboxBroken
from saggar.model.policy import Policy

BIRTH = 60.0
"""Seconds from the request to a child that waits; an engine with much to do takes long."""
GLANCE = 0.5
"""Seconds between two looks at a container that was started and keeps silent."""
DYING = 5.0
"""Seconds a container may take to die before the engine is told to remove it."""
SPARE = 2
"""Children without a caller that are kept for the next ones; the others are sent off."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ground:
    """What all containers of one nursery stand on."""

    engine: Engine
    blueprint: Blueprint
    promises: Promises
    runtime: Path
    bundle: int
    """A descriptor of the guest's modules."""
    host: int
    """One that becomes readable when this process is dead: a pipe, as no guest gets a process."""
    confinement: Mapping[str, Any]
    """What the child takes from itself; see there."""


class Birth:
    """One container in the host's books, from its turn to start until it is removed."""

    def __init__(self) -> None:
        self.container = ""
        self.process: ContainerProcess | None = None
        self.failure: SaggarError | None = None

    def fail(self, exc: Exception) -> None:
        """What went wrong first is what is told."""
        self.failure = self.failure or _told(exc)


class Waiter:
    """Somebody who wants a child: whichever stands first."""

    def __init__(self, *, hurried: bool) -> None:
        self.hurried = hurried
        self.process: ContainerProcess | None = None
        self.failure: SaggarError | None = None
        self.over = anyio.Event()


class ContainerNursery:
    """Starts a container when it is asked for a child."""

    def __init__(self, ground: Ground, tasks: TaskGroup, starts: anyio.CapacityLimiter) -> None:
        self.alive = True
        self.born = 0
        self._ground = ground
        self._tasks = tasks
        self._starts = starts
        self._waiters: list[Waiter] = []
        self._spare: list[ContainerProcess] = []
        """Those whose callers have gone: as good as new, and no more than a few."""
        self._coming = 0

    def admit(self, policy: Policy) -> None:
        """Let a policy pass all of whose limits hold here. DriverUnavailable if not."""
        self._ground.promises.admit(policy)

    async def park(self, *, hurried: bool = False) -> ContainerProcess:
        """
        One more child, in a container of its own: the first to stand, whoever it was started for.

        Raises:
            SandboxBroken: The engine could not start it, or it did not come to where it waits.
            DriverUnavailable: The engine takes no container like this.
        """
        while self._spare:
            if (spare := self._spare.pop()).waits():
                return spare
            spare.release()
        waiter = self._queue(hurried=hurried)
        if self._coming < len(self._waiters):
            self._coming += 1
            self._tasks.start_soon(self._tend)
        try:
            await waiter.over.wait()
        except BaseException:
            self._leave(waiter)
            raise
        if waiter.process is None:
            raise waiter.failure or SandboxBroken("the driver was closed")
        return waiter.process

    def _queue(self, *, hurried: bool) -> Waiter:
        """Behind all who are in a hurry, and before all who are not if one is."""
        waiter = Waiter(hurried=hurried)
        before = sum(one.hurried for one in self._waiters) if hurried else len(self._waiters)
        self._waiters.insert(before, waiter)
        return waiter

    def _leave(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if waiter.process is not None:
            self._save(waiter.process)

    def _save(self, process: ContainerProcess) -> None:
        """Keep one that nobody waits for. Whoever keeps children parked asks here first."""
        self._spare.append(process)
        while len(self._spare) > SPARE:
            self._spare.pop(0).release()

    def _hand_out(self, process: ContainerProcess) -> None:
        if not self._waiters:
            self._save(process)
            return
        waiter = self._waiters.pop(0)
        waiter.process = process
        waiter.over.set()

    def _disappoint(self, failure: SaggarError) -> None:
        if self._waiters:
            waiter = self._waiters.pop(0)
            waiter.failure = failure
            waiter.over.set()

    def close(self) -> None:
        """Nobody is served any more; who waits is told."""
        self.alive = False
        while self._waiters:
            self._disappoint(SandboxBroken("the driver was closed"))

    async def _tend(self) -> None:
        """
        A container's whole life, to its removal; short when the nursery closes.

        Apart from whoever asked: an engine that has begun must be waited for, and he need not.
        """
        birth = Birth()
        try:
            await self._deliver(birth)
            if birth.process is not None:
                await birth.process.end()
                await birth.process.released.wait()
        except Exception as exc:  # noqa: BLE001 - from here it would end the whole platform
            if birth.process is None:
                self._disappoint(_told(exc))
        finally:
            with anyio.CancelScope(shield=True), suppress(Exception):
                await self._bury(birth)

    async def _deliver(self, birth: Birth) -> None:
        """Have it started, and hand its child out; the engine's own answer may come after that."""
        try:
            async with self._starts:
                if not self._waiters:
                    return
                self.born += 1
                blueprint = self._ground.blueprint
                with (
                    held(blueprint.key.mounts) as sources,
                    door(self._ground.runtime / FOLDER, blueprint.owner) as way_in,
                ):
                    await self._start(birth, way_in, sources)
        finally:
            if birth.process is None:
                self._coming -= 1

    async def _start(self, birth: Birth, way_in: Door, sources: Sequence[int]) -> None:
        async with anyio.create_task_group() as both:
            both.start_soon(self._ask, birth, way_in.folder, both.cancel_scope)
            with anyio.move_on_after(BIRTH):
                try:
                    birth.process = await self._receive(way_in, sources)
                except Exception as exc:  # noqa: BLE001 - here: a group would wrap it
                    birth.fail(exc)
            if birth.process is not None:
                self._coming -= 1
                self._hand_out(birth.process)
            both.cancel_scope.cancel()  # the engine is heard to its end all the same
        if birth.process is None:
            raise birth.failure or SandboxBroken(f"no child stood in its container in {BIRTH:g} s")

    async def _ask(self, birth: Birth, folder: str, others: anyio.CancelScope) -> None:
        """The engine. If it says no, or what it started is gone again, nobody will come in."""
        engine, blueprint = self._ground.engine, self._ground.blueprint

        def start() -> None:
            birth.container = engine.create(blueprint.container(folder))
            engine.start(birth.container)

        try:
            await on_a_thread(start)
            # Nearly always the child stands by now, and this has been cancelled.
            while await on_a_thread(engine.runs, birth.container):  # noqa: ASYNC110 - asked, not told
                await anyio.sleep(GLANCE)
            birth.fail(SandboxBroken("the container ended before its pid 1 had said a word"))
        except Exception as exc:  # noqa: BLE001 - here: a group would wrap it
            birth.fail(exc)
        if birth.process is None:  # else it has run, and is gone already
            others.cancel()

    async def _receive(self, way_in: Door, sources: Sequence[int]) -> ContainerProcess:
        """The child that stands behind its walls, by what it sent along."""
        ground, blueprint = self._ground, self._ground.blueprint
        greeting = {
            "work": WORK,
            **ground.confinement,
            "preload": blueprint.key.preload,
            "site": blueprint.site,
            "mounts": [target for _, target, _ in blueprint.key.mounts],
            "hurried": any(waiter.hurried for waiter in self._waiters),
        }
        control = await way_in.admit(marshal.dumps(greeting, 2), (ground.bundle, ground.host))
        try:
            await anyio.wait_readable(control)
            record, descriptors = hear(control, blueprint.key.mounts, sources)
        except BaseException:
            control.close()
            raise
        image = blueprint.image
        return ContainerProcess(
            control,
            descriptors,
            isolation=ground.promises.rung.value,
            environment=blueprint.environment(),
            site=(*blueprint.site, *filter(None, record.text.split("\n"))),
            entrypoint=(image.argv, blueprint.key.workdir or image.cwd) if image.argv else None,
        )

    async def _bury(self, birth: Birth) -> None:
        """The engine removes what is dead by itself; what does not die it is told to remove."""
        dead = birth.process is not None and await birth.process.bury(DYING)
        if birth.container and not dead:
            with suppress(PlatformError):  # a sweep removes it
                await on_a_thread(self._ground.engine.remove, birth.container)


def _told(exc: Exception) -> SaggarError:
    return exc if isinstance(exc, SaggarError) else SandboxBroken(str(exc) or repr(exc))


_alive: set[int] = set()
"""Ends of pipes that say that this process lives."""


def _forked() -> None:
    """A copy of this process is not this process, and may outlive it."""
    while _alive:
        os.close(_alive.pop())


os.register_at_fork(after_in_child=_forked)
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("saggar-docker")


def _threads() -> anyio.CapacityLimiter:
    """Threads of our own: an engine that does not answer must not take those of others."""
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(anyio.CapacityLimiter(16))
        return _limiter.get()


async def on_a_thread(ask: Callable[..., T], *words: object) -> T:
    """Ask the engine, which blocks; whoever gives up waits for its answer first."""
    return await anyio.to_thread.run_sync(lambda: ask(*words), limiter=_threads())


@asynccontextmanager
async def open_nursery(
    ground_of: Callable[[int, int], Ground], starts: anyio.CapacityLimiter
) -> AsyncIterator[ContainerNursery]:
    """A nursery for the length of a block; all that came of it ends with the block."""
    with ExitStack() as kept:
        try:
            modules = memory_file("saggar-guest", bundle())
            kept.callback(os.close, modules)
            host, ours = os.pipe()
            kept.callback(os.close, host)
            kept.callback(os.close, ours)
            _alive.add(ours)
            kept.callback(_alive.discard, ours)
        except OSError as exc:
            raise SandboxBroken(f"there is no room for a container: {exc}") from exc
        async with anyio.create_task_group() as tasks:
            nursery = ContainerNursery(ground_of(modules, host), tasks, starts)
            try:
                yield nursery
            finally:
                nursery.close()
                tasks.cancel_scope.cancel()
