"""
Where containers are started, and seen to their ends: dead, and removed by the engine.

A child goes to whoever waits longest, whoever its container was started for: so a caller never
waits for a whole start when one is under way, and one who gives up wastes none.
"""

import array
import marshal
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import RunVar

from saggar.boundary import control as ctl
from saggar.drivers.docker.container import ContainerProcess
from saggar.drivers.docker.door import Door, door
from saggar.drivers.docker.engine import Engine
from saggar.drivers.docker.owners import FOLDER
from saggar.drivers.docker.promises import Promises
from saggar.drivers.docker.spec import WORK, Blueprint
from saggar.drivers.interpreter import bundle, memory_file
from saggar.errors import PlatformError, SandboxBroken
from saggar.model.policy import Policy

BIRTH = 60.0
"""Seconds from the request to a child that waits; an engine with much to do takes long."""
GLANCE = 0.5
"""Seconds between two looks at a container that was started and keeps silent."""
DYING = 5.0
"""Seconds a container may take to die before the engine is told to remove it."""
DESCRIPTORS = 7
"""channel, stdin, stdout, stderr, work, the first process, pid 1"""
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
    """One that becomes readable when this process is dead."""
    confinement: Mapping[str, Any]
    """What the child takes from itself; see there."""


class Birth:
    """One container in the host's books, from its turn to start until it is removed."""

    def __init__(self) -> None:
        self.container = ""
        self.process: ContainerProcess | None = None
        self.failure: PlatformError | None = None

    def fail(self, exc: Exception) -> None:
        """What went wrong first is what is told."""
        told = exc if isinstance(exc, PlatformError) else SandboxBroken(str(exc))
        self.failure = self.failure or told


class Waiter:
    """Somebody who wants a child: whichever stands first."""

    def __init__(self, *, hurried: bool) -> None:
        self.hurried = hurried
        self.process: ContainerProcess | None = None
        self.failure: PlatformError | None = None
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
        """Those whose callers have gone: as good as new."""
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
            self._spare.append(waiter.process)

    def _hand_out(self, process: ContainerProcess) -> None:
        if not self._waiters:
            self._spare.append(process)
            return
        waiter = self._waiters.pop(0)
        waiter.process = process
        waiter.over.set()

    def _disappoint(self, failure: PlatformError) -> None:
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
        except (OSError, PlatformError) as exc:
            self._disappoint(exc if isinstance(exc, PlatformError) else SandboxBroken(str(exc)))
        else:
            if birth.process is not None:
                await birth.process.end()
                await birth.process.released.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self._bury(birth)

    async def _deliver(self, birth: Birth) -> None:
        """Have it started, and hand its child out; the engine's own answer may come after that."""
        try:
            async with self._starts:
                if not self._waiters:
                    return
                self.born += 1
                with door(self._ground.runtime / FOLDER, self._ground.blueprint.owner) as way_in:
                    await self._start(birth, way_in)
        finally:
            if birth.process is None:
                self._coming -= 1

    async def _start(self, birth: Birth, way_in: Door) -> None:
        async with anyio.create_task_group() as both:
            both.start_soon(self._ask, birth, way_in.folder, both.cancel_scope)
            with anyio.move_on_after(BIRTH):
                try:
                    birth.process = await self._receive(way_in)
                except (OSError, PlatformError) as exc:  # here: a group would wrap it
                    birth.fail(exc)
            if birth.process is not None:
                self._coming -= 1
                self._hand_out(birth.process)
            both.cancel_scope.cancel()  # the engine is heard to its end all the same
        if birth.process is None:
            raise birth.failure or SandboxBroken(f"no child stood in its container in {BIRTH:g} s")

    async def _ask(self, birth: Birth, folder: str, others: anyio.CancelScope) -> None:
        """The engine. If it says no, or what it started is gone again, nobody will come in."""
        engine, spec = self._ground.engine, self._ground.blueprint.container(folder)

        def start() -> None:
            birth.container = engine.create(spec)
            engine.start(birth.container)

        try:
            await on_a_thread(start)
            # Nearly always the child stands by now, and this has been cancelled.
            while await on_a_thread(engine.runs, birth.container):  # noqa: ASYNC110 - asked, not told
                await anyio.sleep(GLANCE)
            birth.fail(SandboxBroken("the container ended before its pid 1 had said a word"))
        except PlatformError as exc:
            birth.fail(exc)
        if birth.process is None:  # else it has run, and is gone already
            others.cancel()

    async def _receive(self, way_in: Door) -> ContainerProcess:
        """The child that stands behind its walls, by what it sent along."""
        ground, blueprint = self._ground, self._ground.blueprint
        greeting = {
            "work": WORK,
            **ground.confinement,
            "preload": blueprint.key.preload,
            "site": blueprint.site,
            "hurried": any(waiter.hurried for waiter in self._waiters),
        }
        control = await way_in.admit(marshal.dumps(greeting, 2), (ground.bundle, ground.host))
        try:
            await anyio.wait_readable(control)
            record, descriptors = _hear(control)
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


def _hear(control: socket.socket) -> tuple[ctl.Record, list[int]]:
    """What pid 1 or its child had to say first. SandboxBroken unless a child stands."""
    data, ancillary, _, _ = control.recvmsg(ctl.MAX_RECORD, 256)
    rights = array.array("i")
    for _, _, packed in ancillary:
        rights.frombytes(packed)
    descriptors = list(rights)
    record = ctl.unpack(data) if len(data) >= ctl.RECORD.size else None
    if record is not None and record.kind == ctl.PARKED and len(descriptors) == DESCRIPTORS:
        return record, descriptors
    for fd in descriptors:
        os.close(fd)
    if record is None:
        raise SandboxBroken("the container ended before its child stood")
    raise SandboxBroken(record.text or "this process has no descriptors left for a child's")


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
            host = os.pidfd_open(os.getpid())
            kept.callback(os.close, host)
        except OSError as exc:
            raise SandboxBroken(f"there is no room for a container: {exc}") from exc
        async with anyio.create_task_group() as tasks:
            nursery = ContainerNursery(ground_of(modules, host), tasks, starts)
            try:
                yield nursery
            finally:
                nursery.close()
                tasks.cancel_scope.cancel()
