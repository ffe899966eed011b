"""
A queue in this process: the same promises as Redis keeps, as long as the process lives.

Its clock is passed in; `tick` does what is due by then. Everything happens on one event loop.
"""

import heapq
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from time import time
from typing import Any, Final
from uuid import uuid4

import anyio

from saggar.errors import Conflict, Overloaded
from saggar.jobs import calls, retry
from saggar.jobs.job import Failure, Job, JobState
from saggar.jobs.queue import (
    KEPT,
    LEASE,
    Again,
    Beat,
    Bury,
    Done,
    Lease,
    Outcome,
    Receipt,
    Terms,
    cancelled,
    kept,
)
from saggar.model.event import Event
from saggar.model.result import Result, Status

DAY: Final = 86400.0


@dataclass(slots=True)
class _Entry:
    job: Job
    terms: Terms
    token: str = ""
    lease_ends: float = 0.0
    unwanted: bool = False
    letter: bytes = b""
    events: list[Event] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    def change(self, job: Job) -> None:
        self.job = job
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class MemoryQueue:
    """Jobs in this process."""

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._jobs: dict[str, _Entry] = {}
        self._past: dict[str, float] = {}
        self._lines: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        self._rings: dict[str, deque[str]] = {}
        self._slots: dict[tuple[str, str], str] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._places = count()
        self._listeners: list[Callable[[str], None]] = []
        self._news = anyio.Event()
        self.dead: deque[bytes] = deque(maxlen=10_000)
        """Dead letters, newest first."""

    async def submit(self, job: Job, terms: Terms) -> Receipt:
        """Take a job in. Overloaded."""
        self._forget()
        if job.key and (other := self._same(job, terms)):
            return other
        self._admit(job, terms)
        now = self._clock()
        state = JobState.DELAYED if terms.delay > 0 else JobState.QUEUED
        started = job.model_copy(update={"created": now, "state": state})
        self._jobs[job.id] = _Entry(started, terms, lease_ends=now + terms.delay)
        if job.key:
            self._slots[job.tenant, job.key] = job.id
        if state is JobState.QUEUED:
            self._enqueue(job)
        return Receipt(job.id, "new")

    def _same(self, job: Job, terms: Terms) -> Receipt | None:
        other = self._jobs.get(self._slots.get((job.tenant, job.key), ""))
        if other is None:
            return None
        match other.job.state:
            case JobState.DONE:
                return Receipt(other.job.id, "cached")
            case JobState.QUEUED | JobState.RUNNING:
                return Receipt(other.job.id, "joined")
            case JobState.DELAYED:
                self._hasten(other, terms.delay)
                return Receipt(other.job.id, "joined")
        return None

    def _hasten(self, entry: _Entry, delay: float) -> None:
        """One that never ran starts as early as any of its submissions wants."""
        if entry.job.attempt:
            return  # it failed, and is tried again in its own time
        entry.lease_ends = min(entry.lease_ends, self._clock() + delay)
        if delay <= 0:
            entry.change(entry.job.to(JobState.QUEUED))
            self._enqueue(entry.job)

    def _admit(self, job: Job, terms: Terms) -> None:
        quota = terms.quota
        unstarted = (JobState.QUEUED, JobState.DELAYED)
        waiting = sum(
            each.job.tenant == job.tenant and each.job.state in unstarted
            for each in self._jobs.values()
        )
        if waiting >= quota.waiting:
            raise Overloaded(f"tenant {job.tenant} has {quota.waiting} jobs waiting", 1.0)
        if quota.rate is None:
            return
        now = self._clock()
        bucket = self._buckets.setdefault(job.tenant, _Bucket(quota.burst, now))
        refilled = bucket.tokens + (now - bucket.at) * quota.rate
        bucket.tokens, bucket.at = min(quota.burst, refilled), now
        if bucket.tokens < 1:
            raise Overloaded(
                f"tenant {job.tenant} may submit {quota.rate:g} jobs a second",
                (1 - bucket.tokens) / quota.rate,
            )
        bucket.tokens -= 1

    def _enqueue(self, job: Job) -> None:
        line = self._lines.setdefault((job.queue, job.tenant), [])
        ring = self._rings.setdefault(job.queue, deque())
        if job.tenant not in ring:
            ring.append(job.tenant)
        heapq.heappush(line, (job.priority, next(self._places), job.id))
        self._tell()

    async def take(self, queue: str, worker: str) -> AsyncIterator[Lease]:
        """Leases as they come, one job of each tenant in turn; for ever."""
        while True:
            if lease := self._next(queue, worker):
                yield lease
            else:
                await self._news.wait()

    def _next(self, queue: str, worker: str) -> Lease | None:
        ring = self._rings.get(queue, deque())
        for _ in range(len(ring)):
            tenant = ring.popleft()
            line = self._lines[queue, tenant]
            if not line:
                continue
            ring.append(tenant)
            if self._full(tenant, line[0][2]):
                continue
            _, _, job_id = heapq.heappop(line)
            entry = self._jobs.get(job_id)
            if entry is not None and entry.job.state is JobState.QUEUED:
                return self._lease(entry, worker)
        return None

    def _full(self, tenant: str, job_id: str) -> bool:
        entry = self._jobs.get(job_id)
        most = entry.terms.quota.running if entry else None
        if most is None:
            return False
        running = (JobState.RUNNING, tenant)
        return most <= sum(
            (each.job.state, each.job.tenant) == running for each in self._jobs.values()
        )

    async def claim(self, job_id: str, worker: str) -> Lease | None:
        """The right to run this one, out of its turn."""
        entry = self._jobs.get(job_id)
        if entry is None or entry.job.state is not JobState.QUEUED:
            return None
        return self._lease(entry, worker)

    def _lease(self, entry: _Entry, worker: str) -> Lease:
        now = self._clock()
        entry.token, entry.lease_ends = uuid4().hex, now + LEASE
        changes = {"attempt": entry.job.attempt + 1, "started": now, "worker": worker}
        entry.change(entry.job.to(JobState.RUNNING, **changes))
        return Lease(entry.job, entry.token)

    async def renew(self, leases: Sequence[Lease]) -> list[Beat]:
        """A sign of life for each lease."""
        return [self._beat(lease) for lease in leases]

    def _beat(self, lease: Lease) -> Beat:
        entry = self._held(lease)
        if entry is None:
            return "lost"
        entry.lease_ends = self._clock() + LEASE
        return "cancel" if entry.unwanted else "ok"

    def _held(self, lease: Lease) -> _Entry | None:
        entry = self._jobs.get(lease.job.id)
        if entry is None or entry.job.state is not JobState.RUNNING or entry.token != lease.token:
            return None
        return entry

    async def tell(self, job_id: str, events: Sequence[Event]) -> None:
        """What a run has just done."""
        if entry := self._jobs.get(job_id):
            entry.events += events
            entry.wake()

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with each job that nobody wants any more, until cancelled."""
        self._listeners.append(heard)
        try:
            await anyio.sleep_forever()
        finally:
            self._listeners.remove(heard)

    async def settle(self, lease: Lease, outcome: Outcome) -> bool:
        """Record how an attempt ended; False if it was no longer ours to say."""
        entry = self._held(lease)
        if entry is None:
            return False
        now = self._clock()
        if entry.unwanted and not isinstance(outcome, Done):
            outcome = Done(cancelled())
        match outcome:
            case Done(result=result):
                state = JobState.CANCELLED if result.status is Status.CANCELLED else JobState.DONE
                self._end(entry, state, result)
            case Again(failure=failure, delay=0):
                entry.change(entry.job.to(JobState.QUEUED, failure=failure))
                self._enqueue(entry.job)
            case Again(failure=failure, delay=delay):
                entry.lease_ends = now + delay
                entry.change(entry.job.to(JobState.DELAYED, failure=failure))
            case Bury(failure=failure, result=result):
                self._end(entry, JobState.DEAD, result, failure)
                worker = lease.job.worker or "?"
                entry.letter = calls.letter(entry.job, outcome, worker=worker, now=now)
                self.dead.appendleft(entry.letter)
        self._tell()
        return True

    def _end(
        self,
        entry: _Entry,
        state: JobState,
        result: Result[Any] | None,
        failure: Failure | None = None,
    ) -> None:
        job = entry.job
        if state is not JobState.DONE or not kept(result):
            self._slots.pop((job.tenant, job.key), None)
        ended = {"finished": self._clock(), "result": result, "failure": failure or job.failure}
        entry.change(job.to(state, **ended))

    async def cancel(self, job_id: str) -> None:
        """Nobody wants it any more. NotFound, Expired."""
        entry = self._entry(job_id)
        if entry.job.state is JobState.RUNNING:
            entry.unwanted = True
            for heard in list(self._listeners):
                heard(job_id)
        elif not entry.job.state.final:
            self._end(entry, JobState.CANCELLED, cancelled())

    async def revive(self, job_id: str) -> None:
        """Start a dead or cancelled job anew. NotFound, Conflict."""
        entry = self._entry(job_id)
        if entry.job.state not in (JobState.DEAD, JobState.CANCELLED):
            raise Conflict(
                f"job {job_id} is {entry.job.state}; only what is dead or cancelled starts anew"
            )
        if entry.letter in self.dead:
            self.dead.remove(entry.letter)
        entry.events.clear()
        entry.unwanted = False
        fresh = {"attempt": 0, "failure": None, "result": None, "finished": None, "worker": None}
        entry.change(entry.job.to(JobState.QUEUED, **fresh))
        self._enqueue(entry.job)

    async def find(self, job_id: str) -> Job:
        """The job as it is now. NotFound, Expired."""
        return self._entry(job_id).job

    def _entry(self, job_id: str) -> _Entry:
        self._forget()
        if job_id in self._jobs:
            return self._jobs[job_id]
        raise (calls.forgotten if job_id in self._past else calls.unknown)(job_id)

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:  # noqa: ASYNC109
        """The job once it is final. TimeoutError, NotFound, Expired."""
        entry = self._entry(job_id)
        with anyio.move_on_after(timeout):
            while not entry.job.state.final:
                await entry.changed.wait()
        if not entry.job.state.final:
            raise TimeoutError(f"job {job_id} is {entry.job.state} after {timeout:g} s")
        return entry.job

    async def events(self, job_id: str) -> AsyncGenerator[Event]:
        """What its run does, while it does it; all of it from the result if it has ended."""
        entry, shown = self._entry(job_id), 0
        while not entry.job.state.final or shown < len(entry.events):
            if shown == len(entry.events):
                await entry.changed.wait()
                continue
            yield entry.events[shown]
            shown += 1
        if entry.job.result is not None and not any(e.kind == "finished" for e in entry.events):
            for event in calls.unfolded(entry.job.result):
                if not shown or event.kind == "finished":
                    yield event

    async def tick(self, random: Callable[[], float]) -> None:
        """What is due: jobs that were delayed, and those whose workers fell silent."""
        now = self._clock()
        for entry in list(self._jobs.values()):
            if entry.lease_ends > now:
                continue
            if entry.job.state is JobState.DELAYED:
                entry.change(entry.job.to(JobState.QUEUED))
                self._enqueue(entry.job)
            elif entry.job.state is JobState.RUNNING:
                said = f"worker {entry.job.worker} fell silent in attempt {entry.job.attempt}"
                failure = Failure(kind="lost", code="worker-lost", message=said)
                lease = Lease(entry.job, entry.token)
                await self.settle(lease, retry.decide(entry.job, failure, random))

    def _forget(self) -> None:
        now = self._clock()
        for job_id, entry in list(self._jobs.items()):
            job = entry.job
            if job.finished is None or job.state is JobState.DEAD or job.finished + KEPT > now:
                continue
            del self._jobs[job_id]
            self._slots.pop((job.tenant, job.key), None)
            self._past[job_id] = job.finished
        for job_id in [each for each, ended in self._past.items() if ended + KEPT + DAY < now]:
            del self._past[job_id]

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()
