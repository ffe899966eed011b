"""
Submitting: from what a caller says to a job in the queue, and the handle on it.

`submit` is for code without an event loop. A platform has a `Desk` of its own for the rest.
"""

import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from numbers import Real
from time import monotonic
from types import NoneType
from typing import Any, Final, Literal, TypedDict, Unpack

import anyio.to_thread
from anyio.from_thread import start_blocking_portal

from saggar import errors, registry
from saggar.config import Settings, load, state_dir
from saggar.errors import InvalidTask, PlatformError, SaggarError
from saggar.jobs import admission, calls, spare, webhooks
from saggar.jobs.job import ORDINARY, STANDARD, Failure, Job, job_limits, retried, same
from saggar.jobs.queue import Receipt, Terms
from saggar.jobs.store import AStore, Store
from saggar.model.event import Event
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.result import Result
from saggar.model.task import Task

ASSURED: Final = 5.0
"""Seconds for which a worker that was seen is taken to be there."""


class Wishes(TypedDict, total=False):
    """What can be said about a job beside its task."""

    key: str | None
    """What makes another submission the same one."""
    cache: bool
    """Whether the same work, submitted within the hour, is served from this run."""
    priority: int
    """0 to 9 among the jobs of a tenant; 0 is first."""
    queue: str
    tenant: str
    delay: float
    """Seconds before it may start."""
    webhook: str | None
    """Where its end is told."""
    retry_on: Iterable[Literal["timeout", "memory", "oserror"]] | None


def policy_of(
    settings: Settings,
    policy: Policy | None,
    limits: Limits | Mapping[str, Any] | None,
    queue: str = STANDARD,
) -> Policy:
    """The policy of a job: what is not said is as jobs have it, and never above the ceiling."""
    if not isinstance(policy, Policy | None):
        raise InvalidTask(f"policy: wanted a saggar.Policy, found {policy!r:.60}")
    if not isinstance(limits, Limits | Mapping | None):
        raise InvalidTask(f"limits: wanted saggar.Limits or a mapping, found {limits!r:.60}")
    wanted = _usual(queue) if policy is None else policy
    if isinstance(limits, Limits):
        wanted = wanted.replace(limits=limits)
    elif limits is not None:
        wanted = wanted.replace(limits=wanted.limits.replace(**limits))
    return wanted if settings.ceiling is None else wanted.within(settings.ceiling)


@lru_cache(maxsize=64)
def _usual(queue: str) -> Policy:
    return Policy(limits=job_limits(queue))


def prepare(
    settings: Settings, task: Task, policy: Policy, **said: Unpack[Wishes]
) -> tuple[Job, Terms]:
    """
    The job that is meant, and the terms on which it is taken in.

    Raises:
        PolicyDenied: Its policy does not allow what the task asks for.
        InvalidTask: Something about it is not well formed, or its code is too large.
        NotFound: There is no such language, or no such option.
    """
    policy.admit(task)
    registry.language(task.program.language)
    _refuse_unknown(said)
    _refuse_other_kinds(said)
    delay = said.get("delay") or 0.0
    if not 0 <= delay <= 7 * 86400:
        raise InvalidTask(f"delay: wanted seconds, a week at most, found {delay!r:.40}")
    if webhook := said.get("webhook"):
        webhooks.admit(webhook, private=settings.private_webhooks)
    names = said.get("retry_on")
    job = Job.of(
        task,
        policy,
        tenant=said.get("tenant", "default"),
        queue=said.get("queue", STANDARD),
        priority=said.get("priority", ORDINARY),
        webhook=webhook or "",
        retry_on=retried(settings.retry_on) if names is None else tuple(names),
        key=_slot(task, policy, said),
    )
    return job, Terms(delay, admission.quota(settings, job.tenant))


def _slot(task: Task, policy: Policy, said: Wishes) -> str:
    if key := said.get("key"):
        if len(key) > 200 or not key.isprintable():
            raise InvalidTask(f"key: wanted up to 200 printable characters, found {key!r:.60}")
        return f"key:{key}"
    if not said.get("cache"):
        return ""
    if task.secrets:
        # Two values of one secret are two results, and what is kept has only its name.
        raise InvalidTask(
            "cache: what was made with secrets is not served again, as they may be others by then;"
            " key= joins submissions that you know to be the same"
        )
    return same(task, policy)


def _refuse_unknown(said: Mapping[str, Any]) -> None:
    for name in said.keys() - Wishes.__annotations__.keys():
        raise errors.NotFound.among("option", name, Wishes.__annotations__)


_KINDS: Final[Mapping[str, tuple[str, tuple[type, ...]]]] = {
    "key": ("text", (str, NoneType)),
    "cache": ("True or False", (bool,)),
    "priority": ("a whole number from 0 to 9", (int,)),
    "queue": ("a name", (str,)),
    "tenant": ("a name", (str,)),
    "delay": ("seconds as a number", (Real,)),
    "webhook": ("a URL as text", (str, NoneType)),
    "retry_on": ("several of timeout, memory, oserror", (list, tuple, set, frozenset, NoneType)),
}


def _refuse_other_kinds(said: Mapping[str, Any]) -> None:
    for name, value in said.items():
        wanted, kinds = _KINDS[name]
        # A truth is a number to Python, and no priority.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InvalidTask(f"{name}: wanted {wanted}, found {value!r:.60}")


class _Assurance:
    """That somebody works off what is submitted, where the broker is our own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client: int | None = None
        self._seen = 0.0

    def due(self) -> bool:
        """Whether it is time to look."""
        return monotonic() - self._seen > ASSURED

    def seen(self, workers: Iterable[Mapping[str, Any]], queue: str) -> None:
        """See to it that there is one, given those that there are."""
        state = state_dir(self.settings)
        if self._client is None:
            self._client = spare.client(state)
        if queue in spare.QUEUES and not any(queue in said["queues"] for said in workers):
            spare.start(self.settings, state)
        self._seen = monotonic()

    def close(self) -> None:
        """Be no client any more."""
        if self._client is not None:
            os.close(self._client)
            self._client = None


class JobHandle:
    """A job that was submitted, for code with an event loop."""

    def __init__(self, desk: "Desk", store: AStore, receipt: Receipt, queue: str) -> None:
        self._desk, self._store, self._queue = desk, store, queue
        self.id = receipt.job_id
        self.came = receipt.came
        """"new", "joined" one that was under way, or "cached" from one that has ended."""

    async def result(self, timeout: float | None = None) -> Result[Any]:  # noqa: ASYNC109
        """
        What came of it.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
            PlatformError: We could not do our part, after all attempts.
            NotFound: It is not known. Expired: it is no longer kept.
        """
        end = _end(timeout)
        while True:
            left = _left(end)
            try:
                return ended(await self._store.wait(self.id, left, fresh=self.came == "new"))
            except TimeoutError as exc:
                if end is not None and monotonic() >= end:
                    raise self._store.away or await self._late(timeout) from exc
                await self._desk.assure(self._queue)

    async def _late(self, timeout: float | None) -> TimeoutError:  # noqa: ASYNC109 - what it was
        if not timeout:  # who only looks is told no reasons
            return _late(self.id, timeout)
        job = await self.job()
        read = not job.state.waits or await self._store.alive(job.queue)
        return _late(self.id, timeout, "" if read else job.queue)

    async def job(self) -> Job:
        """How it stands."""
        return await self._store.find(self.id)

    def events(self) -> AsyncGenerator[Event]:
        """What it does, from the beginning, while it does it. A new attempt begins anew."""
        return self._store.events(self.id)

    async def cancel(self) -> None:
        """Nobody wants it any more: also those who joined it."""
        await self._store.cancel(self.id)


class SyncJob:
    """A job that was submitted."""

    def __init__(self, at: "SyncDesk", receipt: Receipt, queue: str | None) -> None:
        self._desk, self._store, self._queue = at, at.store, queue
        self.id = receipt.job_id
        self.came = receipt.came
        """"new", "joined" one that was under way, or "cached" from one that has ended."""

    def result(self, timeout: float | None = None) -> Result[Any]:
        """What came of it; see `JobHandle.result`."""
        return ended(self.wait(timeout))

    def wait(self, timeout: float | None = None) -> Job:
        """The job once it is final, whatever it came to. TimeoutError, NotFound, Expired."""
        end = _end(timeout)
        while True:
            left = _left(end)
            try:
                return self._store.wait(self.id, left, fresh=self.came == "new")
            except TimeoutError as exc:
                if end is not None and monotonic() >= end:
                    raise self._store.away or self._late(timeout) from exc
                if not self._store.where.shared:
                    self._desk.assure(self._queue or self.job().queue)

    def _late(self, timeout: float | None) -> TimeoutError:
        if not timeout:  # who only looks is told no reasons
            return _late(self.id, timeout)
        job = self.job()
        read = not job.state.waits or self._store.alive(job.queue)
        return _late(self.id, timeout, "" if read else job.queue)

    def job(self) -> Job:
        """How it stands."""
        return self._store.find(self.id)

    def events(self) -> Iterator[Event]:
        """What it does, from the beginning, while it does it. A new attempt begins anew."""
        with start_blocking_portal() as portal:
            store = portal.call(AStore.of, self._desk.settings)
            events = store.events(self.id)
            try:
                with suppress(StopAsyncIteration):
                    while True:
                        yield portal.call(events.__anext__)
            finally:
                portal.call(events.aclose)
                portal.call(store.aclose)

    def cancel(self) -> None:
        """Nobody wants it any more: also those who joined it."""
        self._store.cancel(self.id)


class Desk:
    """Where a platform submits; one for each event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._store: AStore | None = None
        self._assurance = _Assurance(settings)

    async def store(self) -> AStore:
        """The queue, found when it is first needed."""
        if self._store is None:
            self._store = await AStore.of(self.settings)
        return self._store

    async def submit(
        self,
        task: Task,
        policy: Policy | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        **said: Unpack[Wishes],
    ) -> JobHandle:
        """Take a job in; see `saggar.submit`."""
        wanted = policy_of(self.settings, policy, limits, said.get("queue", STANDARD))
        if said.get("webhook"):  # its name is looked up
            job, terms = await anyio.to_thread.run_sync(
                lambda: prepare(self.settings, task, wanted, **said)
            )
        else:
            job, terms = prepare(self.settings, task, wanted, **said)
        store = await self.store()
        receipt = await store.submit(job, terms)
        if receipt.came != "cached":
            await self.assure(job.queue)
        return JobHandle(self, store, receipt, job.queue)

    async def assure(self, queue: str) -> None:
        """Where the broker is our own, see to it that somebody works."""
        store = await self.store()
        if not store.where.shared and self._assurance.due():
            workers = (await store.ask(calls.counts((queue,)))).workers.values()
            await anyio.to_thread.run_sync(self._assurance.seen, workers, queue)

    async def aclose(self) -> None:
        """Let go of the queue."""
        self._assurance.close()
        if self._store is not None:
            await self._store.aclose()


class SyncDesk:
    """The same for code without an event loop; one for each process."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.pid = settings, os.getpid()
        self.store = Store.of(settings)
        self._assurance = _Assurance(settings)

    def submit(
        self,
        task: Task,
        policy: Policy | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        **said: Unpack[Wishes],
    ) -> SyncJob:
        """Take a job in; see `saggar.submit`."""
        wanted = policy_of(self.settings, policy, limits, said.get("queue", STANDARD))
        job, terms = prepare(self.settings, task, wanted, **said)
        receipt = self.store.submit(job, terms)
        if receipt.came != "cached":
            self.assure(job.queue)
        return SyncJob(self, receipt, job.queue)

    def assure(self, queue: str) -> None:
        """Where the broker is our own, see to it that somebody works."""
        if not self.store.where.shared and self._assurance.due():
            self._assurance.seen(self.store.counts((queue,)).workers.values(), queue)

    def of(self, job_id: str) -> SyncJob:
        """The handle of a job that was submitted elsewhere."""
        return SyncJob(self, Receipt(job_id, "joined"), None)

    def close(self) -> None:
        """Let go of the queue."""
        self._assurance.close()
        self.store.close()


_desks: dict[str, SyncDesk] = {}


def desk(settings: Settings | None = None) -> SyncDesk:
    """This process's own desk, for these settings; those of the environment if none are given."""
    settings = settings or load()
    name = settings.model_dump_json()
    found = _desks.get(name)
    if found is None or found.pid != os.getpid():
        found = _desks[name] = SyncDesk(settings)
    return found


def submit(
    code: Any,
    *,
    policy: Policy | None = None,
    limits: Limits | Mapping[str, Any] | None = None,
    **said: Any,
) -> SyncJob:
    """
    Submit `code` as a job, which a worker runs in a fresh sandbox; for code without an event loop.

    Args:
        code: Source text, a `Program`, or a whole `Task`.
        policy: What it may touch. If not said: nothing, with more time and memory than a run.
        limits: What it may consume, beside the policy.
        said: Options of `saggar.Task`, and those of jobs: `key`, `cache`, `priority`, `queue`,
            `tenant`, `delay`, `webhook`, `retry_on`.

    Returns:
        The job: `result(timeout)`, `events()`, `cancel()`.

    Raises:
        UsageError: The task is not well formed, or asks for what the policy denies.
        Overloaded: The tenant has enough in the queue; says when to come again.
        QueueUnavailable: The broker does not answer.
    """
    wishes: Any = {name: said.pop(name) for name in Wishes.__annotations__ if name in said}
    return desk().submit(task_of(code, said), policy, limits, **wishes)


def task_of(code: Any, options: Mapping[str, Any]) -> Task:
    """The task that a caller means. InvalidTask."""
    try:
        return Task.of(code, **options)
    except TypeError as exc:
        raise InvalidTask(f"task: {exc}") from None


def unread(queue: str) -> str:
    """That nobody reads a queue, and what to do."""
    beside = "" if queue in spare.QUEUES else f" --queue={queue}"
    return f"no worker reads the queue {queue}; start one: celery -A saggar.worker worker{beside}"


def _late(job_id: str, timeout: float | None, alone: str = "") -> TimeoutError:
    """It has not ended; `alone` is its queue, if nobody reads that."""
    why = unread(alone) if alone else "it goes on"
    return TimeoutError(f"job {job_id} has not ended after {timeout or 0:g} s; {why}")


def _end(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise InvalidTask(f"timeout: wanted seconds as a number, found {timeout!r:.60}")
    return monotonic() + timeout


def _left(end: float | None) -> float:
    """Seconds of one wait: now and then it is looked whether anybody works."""
    return ASSURED if end is None else max(0.0, min(ASSURED, end - monotonic()))


def ended(job: Job) -> Result[Any]:
    """What came of a job that is final; our own failure is raised."""
    if job.result is not None:
        return job.result
    if job.failure is None:
        raise errors.Expired(f"the result of job {job.id} is no longer kept")
    raise failed(job.failure)


def failed(failure: Failure) -> SaggarError:
    """A failure that was stored, as the error it was."""
    known = {
        kind.code: kind
        for kind in (
            errors.InvalidTask, errors.PolicyDenied, errors.NotFound, errors.Expired,
            errors.Conflict, errors.DriverUnavailable, errors.SandboxBroken,
            errors.PrepareFailed, errors.QueueUnavailable, errors.Overloaded,
        )
    }  # fmt: skip
    return known.get(failure.code, PlatformError)(failure.message)
