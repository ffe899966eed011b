"""
One attempt of a job: run it, say that we are alive, stop when nobody wants it any more.

One `Supervisor` serves all attempts of a process. It keeps their leases with one message for all,
listens on one channel for those that are cancelled, and shows what long ones print as they do.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from saggar.errors import QueueUnavailable, SaggarError, UsageError
from saggar.jobs.job import Failure
from saggar.jobs.queue import BEAT, Beat, Lease, cancelled
from saggar.model.event import Event, Output, Yielded, fold
from saggar.model.policy import Policy
from saggar.model.quantity import MiB
from saggar.model.result import Result
from saggar.model.task import Task

LIVE: Final = 0.1
"""Seconds between two looks at what runs print; what ends sooner is shown by its result."""
SHOWN: Final = 1 * MiB
"""Bytes of a run's output that are shown while it runs; its result has more."""
Run = Callable[[Task, Policy], AsyncGenerator[Event]]


class Signals(Protocol):
    """What an attempt has to do with the queue while it runs."""

    async def renew(self, leases: Sequence[Lease]) -> list[Beat]:
        """A sign of life for each."""
        ...

    async def tell(self, job_id: str, events: Sequence[Event]) -> None:
        """What a run has just done."""
        ...

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with each job that nobody wants any more, for ever."""
        ...


@dataclass(slots=True)
class _Attempt:
    lease: Lease
    scope: CancelScope = field(default_factory=CancelScope)
    lost: bool = False
    events: list[Event] = field(default_factory=list)
    told: int = 0
    """How many of the events were shown."""
    shown: int = 0
    """Bytes of them."""

    def fresh(self) -> list[Event]:
        """What was not shown yet, as far as there is room for it."""
        found = self.events[self.told :]
        self.told = len(self.events)
        kept: list[Event] = []
        for event in found:
            size = len(event.data) if isinstance(event, Output) else 0
            # How it ended is read from its result: who was told now would find it running still,
            # and perhaps it is tried again.
            if event.kind != "finished" and (not size or self.shown + size <= SHOWN):
                kept.append(event)
            self.shown += size
        return kept


class Supervisor:
    """Runs jobs, many at once; open as long as its process takes any."""

    def __init__(self, signals: Signals, run: Run) -> None:
        self._signals, self._run = signals, run
        self._held: dict[str, _Attempt] = {}
        self._some = anyio.Event()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        for watch in (self._beat, self._show, self._listen):
            self._tasks.start_soon(watch)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)

    async def attempt(self, lease: Lease) -> Result[Any] | Failure | None:
        """
        Run the job of a lease to its end.

        Returns what it came to: a result, a failure of ours, or None when the lease was lost and
        somebody else has the job. Cancelling it kills the run.
        """
        attempt = self._held[lease.token] = _Attempt(lease)
        self._some.set()
        try:
            with attempt.scope:
                return await self._came(attempt)
        finally:
            self._held.pop(lease.token, None)
        return None if attempt.lost else cancelled()

    async def _came(self, attempt: _Attempt) -> Result[Any] | Failure:
        job = attempt.lease.job
        if job.task is None:
            return Failure(kind="refused", code="expired", message="its code is no longer kept")
        try:
            async with aclosing(self._run(job.task, job.policy)) as events:
                async for event in events:
                    if isinstance(event, Yielded):
                        continue  # a job is asked for one answer, and what comes is kept
                    attempt.events.append(event)
            if attempt.told:
                await self._tell(attempt)
            return fold(attempt.events)
        except UsageError as exc:  # no other attempt would end otherwise
            return Failure(kind="refused", code=exc.code, message=str(exc))
        except SaggarError as exc:
            return Failure(kind="ours", code=exc.code, message=str(exc))
        except Exception as exc:  # noqa: BLE001 - the edge of a worker
            return Failure(kind="ours", code="fault", message=f"{type(exc).__name__}: {exc}")

    async def _beat(self) -> None:
        while True:
            await self._some.wait()
            await anyio.sleep(BEAT)
            held = list(self._held.values())
            if not held:
                self._some = anyio.Event()
                continue
            try:
                said = await self._signals.renew([attempt.lease for attempt in held])
            except QueueUnavailable:
                continue  # a run outlives a restart of the broker; its lease may not
            for attempt, beat in zip(held, said, strict=True):
                if beat != "ok":
                    attempt.lost = beat == "lost"
                    attempt.scope.cancel()

    async def _show(self) -> None:
        while True:
            await self._some.wait()
            await anyio.sleep(LIVE)
            for attempt in list(self._held.values()):
                await self._tell(attempt)

    async def _tell(self, attempt: _Attempt) -> None:
        if fresh := attempt.fresh():
            with suppress(QueueUnavailable):  # whoever looks on has the result at the end
                await self._signals.tell(attempt.lease.job.id, fresh)

    async def _listen(self) -> None:
        while True:
            try:
                await self._signals.listen(self._unwanted)
            except QueueUnavailable:
                await anyio.sleep(BEAT)  # meanwhile the beats say it

    def _unwanted(self, job_id: str) -> None:
        for attempt in self._held.values():
            if attempt.lease.job.id == job_id:
                attempt.scope.cancel()
