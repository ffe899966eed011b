"""
What one process of a worker needs to run jobs: a platform, on a thread of its own.

Made when the first job comes, which is after the pool has forked; never shared with a child.
"""

import logging
import os
import random
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from time import monotonic, sleep
from typing import Any, Final

from anyio.from_thread import start_blocking_portal

from saggar.config import Settings
from saggar.errors import BlobsUnavailable, QueueUnavailable
from saggar.jobs import retry
from saggar.jobs.job import Failure, Job
from saggar.jobs.queue import Done, Lease, Outcome
from saggar.jobs.store import AStore, Store
from saggar.jobs.supervise import Supervisor
from saggar.model.event import Event
from saggar.model.policy import Policy
from saggar.model.result import Result
from saggar.model.task import Task
from saggar.platform import Platform
from saggar.portal import Portal
from saggar.worker import logs

PATIENCE: Final = 60.0
"""Seconds for which a result is held while the broker is away."""
FULL: Final = 5.0
"""The same while there is no room for it."""
PARKED: Final = 3
log = logging.getLogger("saggar.jobs")


class Station:
    """Where the jobs of one process are run."""

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        self.settings = settings
        self.store = Store.of(settings)
        self._stack = ExitStack()
        self._stack.callback(self.store.close)
        portal = self._stack.enter_context(start_blocking_portal(name="saggar"))
        self._portal = self._stack.enter_context(portal.wrap_async_context_manager(Portal()))
        opened = portal.wrap_async_context_manager(_opened(settings))
        self._supervisor = self._stack.enter_context(opened)

    def execute(self, job_id: str, worker: str) -> Job | None:
        """Run a job, if it is still to be run; returns it with what came of it."""
        lease = self.store.claim(job_id, worker)
        if lease is None:
            return None
        came = self._attempt(lease)
        if came is None:
            return None
        recorded, outcome = self._settle(lease, retry.decide(lease.job, came, random.random))
        logs.attempted(lease.job, came, outcome, recorded=recorded)
        return _after(lease.job, outcome) if recorded else None

    def _attempt(self, lease: Lease) -> Result[Any] | Failure | None:
        future = self._portal.start_task_soon(self._supervisor.attempt, lease)
        try:
            found: Result[Any] | Failure | None = future.result()
        except BaseException:  # Celery's own limits, or a worker that has to stop now
            future.cancel()
            raise
        return found

    def _settle(self, lease: Lease, outcome: Outcome) -> tuple[bool, Outcome]:
        """Record it, or what became of it while we tried."""
        began = monotonic()
        while True:
            try:
                return self.store.settle(lease, outcome), outcome
            except BlobsUnavailable as exc:
                # Its result cannot be kept, and the job can: it is tried again as for any failure
                # of ours, and this hand is free meanwhile.
                if monotonic() - began > FULL:
                    failure = Failure(kind="ours", code=exc.code, message=str(exc))
                    outcome = retry.decide(lease.job, failure, random.random)
            except QueueUnavailable:
                # The broker is being restarted: the work is done, and worth some waiting.
                if monotonic() - began > PATIENCE:
                    raise
            sleep(0.5)

    def close(self) -> None:
        """End what runs, the platform and its thread."""
        if self.pid == os.getpid():
            self._stack.close()


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncGenerator[Supervisor]:
    async with AsyncExitStack() as stack:
        platform = await stack.enter_async_context(Platform(settings))
        store = await AStore.of(settings)
        stack.push_async_callback(store.aclose)

        def run(task: Task, policy: Policy) -> AsyncGenerator[Event]:
            return platform.events(task, policy=policy)

        yield await stack.enter_async_context(Supervisor(store, run))


def _after(job: Job, outcome: Outcome) -> Job:
    result = outcome.result if isinstance(outcome, Done) else None
    return job.model_copy(update={"result": result})


_station: Station | None = None
_opening = threading.Lock()


def station(settings: Settings) -> Station:
    """This process's own station."""
    global _station  # noqa: PLW0603 - one for each process
    with _opening:
        if _station is None or _station.pid != os.getpid():
            _station = Station(_alone(settings))
        return _station


def _alone(settings: Settings) -> Settings:
    """A child of a pool runs one job at a time: few sandboxes need to wait for it."""
    from billiard import current_process

    if settings.warm == "auto" and current_process().name.startswith("ForkPoolWorker"):
        return settings.replace(warm=PARKED)
    return settings


def leave() -> None:
    """Close it, if there is one."""
    global _station  # noqa: PLW0603
    if _station is not None:
        _station.close()
        _station = None
