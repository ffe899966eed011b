"""
Warmth: how many children are kept parked for whom, and when their servers are replaced.

A run takes a parked child if there is one and has one forked if there is none. The number kept
follows the misses; what is not asked for goes cold again.
"""

import select
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import anyio
from anyio.abc import TaskGroup, TaskStatus

from saggar.drivers.base import Driver, Nursery, Process
from saggar.errors import SandboxBroken
from saggar.model.plan import Layer, WarmKey
from saggar.model.policy import Policy

FEWEST, MOST = 2, 16
"""How many children stay parked; one costs about two megabytes."""
IDLE = 300.0
"""Seconds after which a server nobody asks is stopped."""
COOLING = 10.0
"""Seconds without a miss after which one child fewer is kept."""
RECYCLED = 5_000
"""Children of one server; they share its address layout and hash seed, so it does not live for ever."""
SERVERS = 8
"""Servers at once; the one asked longest ago makes room."""
TRIES = 3


class Pool:
    """The children of one server: those parked, and the number of those at work."""

    def __init__(self, nursery: Nursery, wanted: int) -> None:
        self.nursery = nursery
        self.wanted = wanted
        self.parked: deque[Process] = deque()
        self.working = 0
        self.refilling = False
        self.asked = self.missed = time.monotonic()
        self.stopped = anyio.Event()

    def stop(self) -> None:
        """No further child is taken from here; the server ends when the last one is done."""
        self.stopped.set()
        while self.parked:
            self.parked.popleft().release()

    def cool(self, fixed: bool) -> None:
        """One child fewer, if nobody missed one lately."""
        if not fixed and time.monotonic() - self.missed > COOLING and self.wanted > FEWEST:
            self.wanted -= 1
        while len(self.parked) > self.wanted:
            self.parked.popleft().release()


class Warm:
    """All servers of one driver, by what their children were made for."""

    def __init__(self, driver: Driver, tasks: TaskGroup, kept: int | None) -> None:
        self._driver = driver
        self._tasks = tasks
        self._kept = kept
        self._pools: dict[WarmKey, Pool] = {}
        self._starting: dict[WarmKey, anyio.Lock] = {}

    async def take(
        self, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> tuple[Pool, Process]:
        """
        A child that nobody has used, and the pool to say `done` to.

        Raises:
            DriverUnavailable: The walls cannot be had here.
            SandboxBroken: They could not be built this time.
        """
        for attempt in range(TRIES):
            pool = await self._pool(key, policy, layers)
            try:
                process = self._parked(pool) or await self._missed(pool)
            except SandboxBroken:
                # Its server may have been killed between two runs: the next one is a fresh one.
                if attempt + 1 == TRIES or pool.nursery.alive:
                    raise
                continue
            pool.working += 1
            pool.asked = time.monotonic()
            return pool, process
        raise AssertionError("the last try returns or raises")

    def done(self, key: WarmKey, policy: Policy, layers: Sequence[Layer], pool: Pool) -> None:
        """A run is over; its place in the pool is filled again, beside the path of the next one."""
        pool.working -= 1
        if not pool.refilling and not pool.stopped.is_set():
            pool.refilling = True
            self._tasks.start_soon(self._refill, key, policy, layers, pool)

    def _parked(self, pool: Pool) -> Process | None:
        while pool.parked:
            process = pool.parked.popleft()
            if not _readable(process.exited):
                return process
            process.release()
        return None

    async def _missed(self, pool: Pool) -> Process:
        pool.missed = time.monotonic()
        if self._kept is None:
            pool.wanted = min(pool.wanted + 1, MOST)
        return await pool.nursery.park()

    async def _pool(self, key: WarmKey, policy: Policy, layers: Sequence[Layer]) -> Pool:
        async with self._starting.setdefault(key, anyio.Lock()):
            pool = self._pools.get(key)
            if pool is None or not pool.nursery.alive:
                if pool is not None:
                    pool.stop()
                    del self._pools[key]
                self._make_room()
                pool = await self._start(key, policy, layers)
        return pool

    async def _start(self, key: WarmKey, policy: Policy, layers: Sequence[Layer]) -> Pool:
        nursery = self._driver.nursery(key, policy, layers)
        pool: Pool = await self._tasks.start(self._keep, nursery)
        self._pools[key] = pool
        return pool

    async def _keep(
        self,
        nursery: AbstractAsyncContextManager[Nursery],
        *,
        task_status: TaskStatus[Pool],
    ) -> None:
        """A server's whole life: from its first child to the end of its last run."""
        async with nursery as server:
            pool = Pool(server, FEWEST if self._kept is None else self._kept)
            task_status.started(pool)
            try:
                while not pool.stopped.is_set():
                    with anyio.move_on_after(COOLING):
                        await pool.stopped.wait()
                    pool.cool(fixed=self._kept is not None)
                    if time.monotonic() - pool.asked > IDLE and not pool.working:
                        self._forget(pool)
                while pool.working and server.alive:
                    await anyio.sleep(COOLING / 100)
            finally:
                pool.stop()

    def _forget(self, pool: Pool) -> None:
        self._pools = {key: other for key, other in self._pools.items() if other is not pool}
        pool.stop()

    def _make_room(self) -> None:
        if len(self._pools) >= SERVERS:
            self._forget(min(self._pools.values(), key=lambda pool: pool.asked))

    async def _refill(
        self, key: WarmKey, policy: Policy, layers: Sequence[Layer], pool: Pool
    ) -> None:
        try:
            if pool.nursery.born >= RECYCLED and self._pools.get(key) is pool:
                await self._start(key, policy, layers)
                pool.stop()
            while len(pool.parked) < pool.wanted and not pool.stopped.is_set():
                pool.parked.append(await pool.nursery.park())
        except SandboxBroken:
            pass  # the next `take` finds out, and says so to somebody who is waiting for it
        finally:
            pool.refilling = False


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
