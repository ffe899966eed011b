"""
Warmth: how many children are kept parked for whom, and when their servers are replaced.

A run takes a parked child if there is one and has one forked if there is none. The number kept
follows the misses; what is not asked for goes cold again.
"""

import select
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup, TaskStatus

from saggar.drivers.base import Driver, Nursery, Process
from saggar.errors import SaggarError, SandboxBroken
from saggar.model.limits import Limits
from saggar.model.plan import Layer, WarmKey, Warmth
from saggar.model.policy import Policy

FEWEST, MOST = 2, 16
"""How many children stay parked; one costs about two megabytes."""
IDLE = 300.0
"""Seconds after which a server nobody asks is stopped."""
COOLING = 10.0
"""Seconds without a miss after which one child fewer is kept."""
RECYCLED = 5_000
"""Children of one server: they share its address layout and hash seed, so it is replaced."""
SERVERS = 8
"""Servers at once; the one asked longest ago makes room."""
TRIES = 3
Clock = Callable[[], float]
Hold = Callable[[Sequence[Layer]], AbstractContextManager[object]]
"""What keeps layers from being taken away while a server shows them to its children."""


class Pool:
    """The children of one server: those parked, the number of those at work, and the finished."""

    def __init__(
        self, nursery: Nursery, fixed: int | None, clock: Clock, warmth: Warmth | None = None
    ) -> None:
        self.nursery = nursery
        self.clock = clock
        self.fixed = fixed
        self._warmth = warmth
        self.most = MOST if warmth is None else max(warmth.least, min(warmth.most, MOST))
        self.wanted = self._fewest if fixed is None else fixed
        self.parked: deque[Process] = deque()
        self.finished: list[Process] = []
        self.working = 0
        self.asked = self.missed = clock()
        self.retired = False
        self.closed = False
        self.stirred = anyio.Event()

    @property
    def _fewest(self) -> int:
        """How many stay parked while somebody asks now and then."""
        return FEWEST if self._warmth is None else max(self._warmth.least, min(FEWEST, self.most))

    @property
    def least(self) -> int:
        """How many stay parked whoever asks; the operator's word is the last one."""
        least = 0 if self._warmth is None else self._warmth.least
        return least if self.fixed is None else min(least, self.fixed)

    @property
    def idle(self) -> bool:
        """Whether nobody has asked for long enough, and nobody is at work."""
        most = IDLE if self._warmth is None else self._warmth.idle
        return self.clock() - self.asked > most and not self.working

    def take(self) -> Process | None:
        """A parked child that is still alive, if there is one."""
        self.asked = self.clock()
        while self.parked:
            process = self.parked.popleft()
            if not _readable(process.exited):
                return process
            process.release()
        self.missed = self.asked
        if self.fixed is None:
            self.wanted = min(self.wanted + 1, self.most)
        return None

    def retire(self) -> None:
        """No further child is taken from here; the server ends when the last one is done."""
        self.retired = True
        self.stirred.set()

    def finish(self, process: Process) -> None:
        """It has done its work. Whoever keeps the server buries it; after him nobody else would."""
        self.working -= 1
        if self._warmth is not None:
            self.asked = self.clock()  # a long call is no idleness
        if self.closed:
            process.release()
            return
        self.finished.append(process)
        self.stirred.set()

    def bury(self) -> None:
        """End what has finished: after its answer has left, and before anything new is begun."""
        while self.finished:
            self.finished.pop().release()

    def cool(self) -> None:
        """One child fewer, if nobody missed one lately; or only the least when its time is over."""
        if self.fixed is None and self._warmth is not None:
            self.wanted = self.least if self.idle else self.wanted
        elif self.fixed is None and self.clock() - self.missed > COOLING:
            self.missed = self.clock()  # one at a time, however often we look
            self.wanted = max(FEWEST, self.wanted - 1)
        while len(self.parked) > (0 if self.retired else self.wanted):
            self.parked.popleft().release()

    async def refill(self) -> None:
        """Park what is missing, one at a time: whoever finishes meanwhile is buried in between."""
        while len(self.parked) < self.wanted and not self.retired:
            try:
                self.parked.append(await self.nursery.park(hurried=not self.parked))
            except SaggarError:  # ours, or what the key names is not there any more
                return  # the next one who asks finds out, and says so to somebody who waits for it
            self.bury()


class Warm:
    """All servers of one driver, by what their children were made for."""

    def __init__(
        self,
        driver: Driver,
        tasks: TaskGroup,
        kept: int | None,
        clock: Clock = time.monotonic,
        hold: Hold = nullcontext,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._tasks = tasks
        self._kept = kept
        self._hold = hold
        self._pools: dict[WarmKey, Pool] = {}
        self._starting: dict[WarmKey, anyio.Lock] = {}

    @asynccontextmanager
    async def child(
        self, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> AsyncIterator[Process]:
        """
        A child that nobody has used, for the length of a block; nobody will use it again.

        Raises:
            DriverUnavailable: The walls cannot be had here.
            SandboxBroken: They could not be built this time.
        """
        if self._driver.fixed:
            key = replace(key, limits=_only(policy.limits, self._driver.fixed))
        pool, process = await self._take(key, policy, layers)
        pool.working += 1
        try:
            yield process
        finally:
            pool.finish(process)

    async def _take(
        self, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> tuple[Pool, Process]:
        for _ in range(TRIES):
            pool = self._pools.get(key)
            if pool is None or not pool.nursery.alive or pool.nursery.born >= RECYCLED:
                pool = await self._fresh(key, policy, layers)
            # It was opened for somebody else's policy, who may have been content with less.
            pool.nursery.admit(policy)
            try:
                return pool, pool.take() or await pool.nursery.park(hurried=True)
            except SandboxBroken as exc:
                # Its server may have been killed since: the next one is a fresh one.
                broken = exc
                self._forget(pool)
        raise broken

    async def _fresh(self, key: WarmKey, policy: Policy, layers: Sequence[Layer]) -> Pool:
        """A new server for `key`, unless somebody who waited for the same thing has started it."""
        before = self._pools.get(key)
        async with self._starting.setdefault(key, anyio.Lock()):
            pool = self._pools.get(key)
            if pool is None or pool is before:
                self._make_room()
                pool = await self._tasks.start(self._keep, key, policy, layers)
                self._pools[key] = pool
                if before is not None:
                    before.retire()
        return pool

    async def _keep(
        self,
        key: WarmKey,
        policy: Policy,
        layers: Sequence[Layer],
        *,
        task_status: TaskStatus[Pool],
    ) -> None:
        """A server's whole life: from its first child to the end of its last run."""
        with self._hold(layers):
            await self._serve(key, policy, layers, task_status)

    async def _serve(
        self,
        key: WarmKey,
        policy: Policy,
        layers: Sequence[Layer],
        task_status: TaskStatus[Pool],
    ) -> None:
        async with self._driver.nursery(key, policy, layers) as nursery:
            pool = Pool(nursery, self._kept, self._clock, key.warmth)
            task_status.started(pool)
            try:
                while nursery.alive and (pool.working or not pool.retired):
                    with anyio.move_on_after(COOLING):
                        await pool.stirred.wait()
                    pool.stirred = anyio.Event()
                    pool.bury()
                    await pool.refill()
                    pool.cool()
                    if pool.idle and not pool.least:
                        self._forget(pool)
            finally:
                pool.retired = pool.closed = True
                pool.bury()
                pool.cool()

    def _forget(self, pool: Pool) -> None:
        self._pools = {key: other for key, other in self._pools.items() if other is not pool}
        pool.retire()

    def _make_room(self) -> None:
        movable = [pool for pool in self._pools.values() if not pool.least]
        if len(movable) >= SERVERS:
            self._forget(min(movable, key=lambda pool: pool.asked))


def _only(limits: Limits, names: frozenset[str]) -> Limits:
    """The limits of these names; all others as they are by default, whatever was asked for."""
    return Limits().replace(**{name: getattr(limits, name) for name in names})


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
