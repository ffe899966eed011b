"""
Jobs in Redis: the state of each, and its result. The truth; Celery's messages only wake workers.

`Store` waits for its answers, for workers and for code without an event loop; `AStore` is the
same for code that has one. What both say and read is in `calls`.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic, sleep, time
from typing import Any, Final, TypeVar
from uuid import uuid4

import anyio.to_thread
from pydantic import TypeAdapter

from saggar.config import Settings, state_dir
from saggar.errors import PlatformError, QueueUnavailable
from saggar.jobs import blobs, calls, keys
from saggar.jobs.broker import Endpoints, endpoints, redacted
from saggar.jobs.calls import Call
from saggar.jobs.job import Job, JobState
from saggar.jobs.queue import KEPT, Beat, Bury, Done, Lease, Outcome, Receipt, Terms, cancelled
from saggar.model.event import Event, Finished

T = TypeVar("T")
CONNECT: Final = 1.2
ANSWER: Final = 2.5
"""Seconds for a connection and for an answer: a broker that does not answer is known in three."""
SLICE: Final = 5.0
"""Seconds of one wait; whoever waits longer asks again."""
RESTART: Final = 30.0
"""Seconds for which whoever waits bears that the broker does not answer."""
PAUSE: Final = 0.5
RESTARTS: Final = 3
"""How often our own server is started for one command: it may be killed again."""
CONNECTIONS: Final = 10_000
"""Of one client: whoever waits has one of his own. The library's own bound is 100."""
EVENTS: Final = TypeAdapter(list[Event])
Clock = Callable[[], float]


class _Common:
    """What both stores are made of."""

    def __init__(self, where: Endpoints, store: blobs.Blobs, clock: Clock | None = None) -> None:
        self.where, self.blobs = where, store
        self._clock = clock
        self._digests: dict[str, str] = {}
        self.databases = where.databases
        self.away: QueueUnavailable | None = None
        """Why the broker did not answer to the last who waited, if it did not."""
        self._since: float | None = None

    def words(self, call: Call[Any]) -> list[Any]:
        # The server's time holds for all; a test brings its own.
        now = 0 if self._clock is None else int(self._clock() * 1000)
        return [now, *call.words]

    def failed(self, exc: Exception) -> QueueUnavailable:
        url = redacted(self.where.broker)
        return QueueUnavailable(f"the queue at {url} does not answer: {exc}")

    def pack(self, job: Job) -> bytes:
        return blobs.pack(self.blobs, calls.body(job))

    def leased(self, job_id: str, token: str, claimed: calls.Claimed, worker: str) -> Lease:
        job = Job.model_validate_json(blobs.unpack(self.blobs, claimed.packed))
        changes = {
            "attempt": claimed.attempt,
            "created": claimed.created,
            "started": claimed.started,
            "worker": worker,
            "state": JobState.RUNNING,
        }
        return Lease(job.model_copy(update={**changes, "id": job_id}), token)

    def settlement(self, lease: Lease, outcome: Outcome, packed: bytes) -> Call[bool]:
        letter, now = b"", self.now()
        if isinstance(outcome, Bury):
            letter = calls.letter(lease.job, outcome, worker=lease.job.worker or "?", now=now)
        ran = now - lease.job.started if lease.job.started else 0.0
        databases = self.databases
        inside = (*databases, packed) if databases else ("", "", b"")
        return calls.settle(lease, outcome, letter=letter, ran=max(0.0, ran), inside=inside)

    def now(self) -> float:
        return time() if self._clock is None else self._clock()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What goes wrong with Redis is QueueUnavailable."""
        from redis.exceptions import RedisError

        try:
            yield
        except RedisError as exc:
            raise self.failed(exc) from exc

    def bear(self, exc: QueueUnavailable) -> None:
        """Whoever waits outlives a restart of the broker; raises what it is if that takes long."""
        self.away = exc
        self._since = self._since or monotonic()
        if monotonic() - self._since > RESTART:
            raise exc

    def back(self) -> None:
        self.away = self._since = None


def _options(url: str, answer: float) -> dict[str, Any]:
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Broken
    from redis.retry import Retry

    network = {"socket_connect_timeout": CONNECT, "socket_keepalive": True}
    return {
        **({} if url.startswith("unix:") else network),
        "socket_timeout": answer,
        "max_connections": CONNECTIONS,
        # One more try, for a connection that a restarted server no longer knows.
        "retry": Retry(NoBackoff(), 1, supported_errors=(Broken,)),
    }


class Store(_Common):
    """Jobs in Redis, for code without an event loop."""

    def __init__(self, where: Endpoints, store: Any, clock: Clock | None = None) -> None:
        super().__init__(where, store, clock)
        self.jobs = connect(where.broker)
        self.results = connect(where.results)
        self._patient = connect(where.broker, SLICE + 5)

    @classmethod
    def of(cls, settings: Settings, clock: Clock | None = None) -> "Store":
        """The store that settings name; with none named, on a broker of our own."""
        where = endpoints(settings)
        return cls(where, blobs_of(settings, where), clock)

    def ask(self, call: Call[T]) -> T:
        """One script, and its answer. QueueUnavailable."""
        return call.read(self._run(call.script, self.words(call)))

    def _run(self, name: str, words: list[Any]) -> Any:
        from redis.exceptions import ConnectionError as Broken

        with self.guarded():
            for _ in range(RESTARTS):
                try:
                    return self._evaluated(name, words)
                except Broken:
                    if self.where.embedded is None:
                        raise
                    self.where.embedded.start()
            return self._evaluated(name, words)

    def _evaluated(self, name: str, words: list[Any]) -> Any:
        from redis.exceptions import NoScriptError

        if digest := self._digests.get(name):
            try:
                return self.jobs.evalsha(digest, 0, *words)
            except NoScriptError:  # the server was restarted
                pass
        self._digests[name] = self.jobs.script_load(keys.script(name))
        return self.jobs.evalsha(self._digests[name], 0, *words)

    def submit(self, job: Job, terms: Terms) -> Receipt:
        """Take a job in. Overloaded, QueueUnavailable."""
        call = calls.submit(job, self.pack(job), terms, self.databases)
        receipt, token = self.ask(call)
        if receipt.came == "cached" and self.databases is None:
            with self.guarded():
                there = self.results.exists(keys.result(receipt.job_id, token))
            if not there:
                self.ask(calls.unserve(job, receipt.job_id))
                receipt, _ = self.ask(call)
        return receipt

    def claim(self, job_id: str, worker: str) -> Lease | None:
        """The right to run a job. None if it is not to be run any more, or by somebody else."""
        token = uuid4().hex
        claimed = self.ask(calls.claim(job_id, worker, token))
        return None if claimed is None else self.leased(job_id, token, claimed, worker)

    def settle(self, lease: Lease, outcome: Outcome) -> bool:
        """Record how an attempt ended; False if it was no longer ours to say."""
        packed = blobs.pack(self.blobs, _data(outcome), blobs.RESULT)
        if packed and self.databases is None:
            with self.guarded():
                name = keys.result(lease.job.id, lease.token)
                self.results.set(name, packed, ex=int(KEPT), nx=True)
        return self.ask(self.settlement(lease, outcome, packed))

    def find(self, job_id: str) -> Job:
        """The job as it is now. NotFound, Expired."""
        found = self.ask(calls.look(job_id, self.databases))
        if self.databases is None and (token := found.result_name):
            with self.guarded():
                found = replace(found, packed=self.results.get(keys.result(job_id, token)))
        return _found(job_id, found, self.blobs)

    def wait(self, job_id: str, timeout: float | None = None, *, fresh: bool = False) -> Job:
        """
        The job once it is final; a `fresh` one was submitted a moment ago, and is known.

        Raises:
            TimeoutError, NotFound, Expired: It is not final in time, not known, not kept.
        """
        end = None if timeout is None else monotonic() + timeout
        job = Job(id=job_id) if fresh else self.find(job_id)
        while not job.state.final:
            left = SLICE if end is None else min(SLICE, end - monotonic())
            if left <= 0:
                raise TimeoutError(f"job {job_id} is {job.state} after {timeout:g} s")
            try:
                with self.guarded():
                    name = keys.done(job_id)
                    self._patient.blmove(name, name, max(0.01, left), "LEFT", "RIGHT")
                job = self.find(job_id)
                self.back()
            except QueueUnavailable as exc:
                self.bear(exc)
                self._await_restart(left)
        return job

    def _await_restart(self, left: float) -> None:
        if self.where.embedded is None:
            sleep(min(PAUSE, left))
        else:
            self.where.embedded.start()

    def cancel(self, job_id: str) -> None:
        """Nobody wants it any more. NotFound, Expired."""
        self.ask(calls.cancel(job_id, self.where.database))

    def counts(self, queues: Sequence[str]) -> calls.Counts:
        """How it stands."""
        return self.ask(calls.counts(queues))

    def alive(self, queue: str) -> bool:
        """Whether a worker reads this queue."""
        found = self.counts((queue,)).workers.values()
        return any(queue in said["queues"] for said in found)

    def close(self) -> None:
        """Let go of the connections."""
        for client in (self.jobs, self.results, self._patient):
            client.close()


class AStore(_Common):
    """The same for code with an event loop; each loop has its own."""

    def __init__(self, where: Endpoints, store: Any, clock: Clock | None = None) -> None:
        super().__init__(where, store, clock)
        self.jobs = aconnect(where.broker)
        self.results = aconnect(where.results)
        self.patient = aconnect(where.broker, SLICE + 5)

    @classmethod
    async def of(cls, settings: Settings, clock: Clock | None = None) -> "AStore":
        """The store that settings name; with none named, on a broker of our own."""
        where = await anyio.to_thread.run_sync(endpoints, settings)
        return cls(where, blobs_of(settings, where), clock)

    async def ask(self, call: Call[T]) -> T:
        """One script, and its answer. QueueUnavailable."""
        return call.read(await self._run(call.script, self.words(call)))

    async def _run(self, name: str, words: list[Any]) -> Any:
        from redis.exceptions import ConnectionError as Broken

        with self.guarded():
            for _ in range(RESTARTS):
                try:
                    return await self._evaluated(name, words)
                except Broken:
                    if self.where.embedded is None:
                        raise
                    await anyio.to_thread.run_sync(self.where.embedded.start)
            return await self._evaluated(name, words)

    async def _evaluated(self, name: str, words: list[Any]) -> Any:
        from redis.exceptions import NoScriptError

        if digest := self._digests.get(name):
            try:
                return await self.jobs.evalsha(digest, 0, *words)
            except NoScriptError:
                pass
        self._digests[name] = await self.jobs.script_load(keys.script(name))
        return await self.jobs.evalsha(self._digests[name], 0, *words)

    async def submit(self, job: Job, terms: Terms) -> Receipt:
        """Take a job in. Overloaded, QueueUnavailable."""
        packed = calls.body(job)
        if len(packed) >= blobs.LARGE:
            packed = await anyio.to_thread.run_sync(blobs.pack, self.blobs, packed)
        call = calls.submit(job, packed, terms, self.databases)
        receipt, token = await self.ask(call)
        if receipt.came == "cached" and self.databases is None:
            with self.guarded():
                there = await self.results.exists(keys.result(receipt.job_id, token))
            if not there:
                await self.ask(calls.unserve(job, receipt.job_id))
                receipt, _ = await self.ask(call)
        return receipt

    async def find(self, job_id: str) -> Job:
        """The job as it is now. NotFound, Expired."""
        found = await self.ask(calls.look(job_id, self.databases))
        if self.databases is None and (token := found.result_name):
            with self.guarded():
                packed = await self.results.get(keys.result(job_id, token))
            found = replace(found, packed=packed)
        read = partial(_found, job_id, found, self.blobs)
        if found.packed is not None and found.packed.startswith(blobs.MARK):
            return await anyio.to_thread.run_sync(read)
        return read()

    async def wait(self, job_id: str, timeout: float | None = None, *, fresh: bool = False) -> Job:  # noqa: ASYNC109
        """The job once it is final, as `Store.wait` has it."""
        end = None if timeout is None else monotonic() + timeout
        job = Job(id=job_id) if fresh else await self.find(job_id)
        while not job.state.final:
            left = SLICE if end is None else min(SLICE, end - monotonic())
            if left <= 0:
                raise TimeoutError(f"job {job_id} is {job.state} after {timeout:g} s")
            name = keys.done(job_id)
            try:
                with self.guarded():
                    await self.patient.blmove(name, name, max(0.01, left), "LEFT", "RIGHT")
                job = await self.find(job_id)
                self.back()
            except QueueUnavailable as exc:
                self.bear(exc)
                await self._await_restart(left)
        return job

    async def _await_restart(self, left: float) -> None:
        if self.where.embedded is None:
            await anyio.sleep(min(PAUSE, left))
        else:
            await anyio.to_thread.run_sync(self.where.embedded.start)

    async def alive(self, queue: str) -> bool:
        """Whether a worker reads this queue."""
        found = (await self.ask(calls.counts((queue,)))).workers.values()
        return any(queue in said["queues"] for said in found)

    async def cancel(self, job_id: str) -> None:
        """Nobody wants it any more. NotFound, Expired."""
        await self.ask(calls.cancel(job_id, self.where.database))

    async def claim(self, job_id: str, worker: str) -> Lease | None:
        """The right to run a job. None if it is not to be run any more, or by somebody else."""
        token = uuid4().hex
        claimed = await self.ask(calls.claim(job_id, worker, token))
        if claimed is None:
            return None
        return await anyio.to_thread.run_sync(self.leased, job_id, token, claimed, worker)

    async def settle(self, lease: Lease, outcome: Outcome) -> bool:
        """Record how an attempt ended; False if it was no longer ours to say."""
        packed = _data(outcome)
        if len(packed) >= blobs.LARGE:
            packed = await anyio.to_thread.run_sync(blobs.pack, self.blobs, packed, blobs.RESULT)
        if packed and self.databases is None:
            with self.guarded():
                name = keys.result(lease.job.id, lease.token)
                await self.results.set(name, packed, ex=int(KEPT), nx=True)
        return await self.ask(self.settlement(lease, outcome, packed))

    async def renew(self, leases: Sequence[Lease]) -> list[Beat]:
        """A sign of life for each lease."""
        return await self.ask(calls.renew(leases))

    async def tell(self, job_id: str, events: Sequence[Event]) -> None:
        """What a run has just done, for those who look on."""
        name = keys.events(job_id)
        with self.guarded():
            asked = self.jobs.pipeline(transaction=False)
            asked.xadd(name, {"events": EVENTS.dump_json(list(events))}, maxlen=2000)
            asked.expire(name, int(KEPT))
            await asked.execute()

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with each job that nobody wants any more, until cancelled."""
        with self.guarded():
            async with self.patient.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(keys.CANCEL)
                while True:
                    said = await channel.get_message(timeout=SLICE)
                    if said is not None:
                        heard(said["data"].decode())

    async def events(self, job_id: str) -> AsyncGenerator[Event]:
        """What its run does, while it does it; all of it from the result if it has ended."""
        last, shown, over = "0", False, False
        while not over:
            try:
                last, news, over = await self._next(job_id, last)
                self.back()
            except QueueUnavailable as exc:
                self.bear(exc)
                await self._await_restart(SLICE)
                continue
            for event in news:
                shown = True
                yield event
                if isinstance(event, Finished):
                    return
        result = (await self.find(job_id)).result
        if result is not None:
            for event in calls.unfolded(result):
                if not shown or isinstance(event, Finished):
                    yield event

    async def _next(self, job_id: str, last: str) -> tuple[str, list[Event], bool]:
        """What was told after `last`, once there is something; and whether that was all."""
        name = keys.events(job_id)
        with self.guarded():
            if last == "0":
                # From here on its end is written into the stream, whoever else looks on.
                await self.jobs.set(keys.watched(job_id), "", ex=int(KEPT))
            entries = await self.patient.xread({name: last})
            if not entries:
                # It may have ended before anybody looked on, or so long ago that nothing is left.
                if (await self.find(job_id)).state.final and not await self.jobs.exists(name):
                    return last, [], True
                entries = await self.patient.xread({name: last}, block=int(SLICE * 1000))
            return _news(entries, last)

    async def aclose(self) -> None:
        """Let go of the connections."""
        for client in (self.jobs, self.results, self.patient):
            await client.aclose()


def _news(entries: Any, last: str) -> tuple[str, list[Event], bool]:
    """What a stream said: up to where, which events, and whether that was all."""
    # A list of pairs in the older protocol, a mapping in the newer one.
    found = next(iter(entries.values()))[0] if isinstance(entries, dict) and entries else None
    if found is None:
        found = entries[0][1] if entries else []
    news: list[Event] = []
    for name, fields in found:
        last = name
        if b"end" in fields:
            return last, news, True
        news += EVENTS.validate_json(fields[b"events"])
    return last, news, False


def connect(url: str, answer: float = ANSWER) -> Any:
    """A client of this server. PlatformError if there is no library for that."""
    try:
        import redis
    except ImportError:
        raise PlatformError("jobs need redis: pip install 'saggar[jobs]'") from None
    return redis.Redis.from_url(url, **_options(url, answer))


def aconnect(url: str, answer: float = ANSWER) -> Any:
    """A client of this server, for code with an event loop; PlatformError as from `connect`."""
    try:
        import redis.asyncio
    except ImportError:
        raise PlatformError("jobs need redis: pip install 'saggar[jobs]'") from None
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Broken

    retry = Retry(NoBackoff(), 1, supported_errors=(Broken,))
    return redis.asyncio.Redis.from_url(url, **{**_options(url, answer), "retry": retry})


def answered(url: str, command: Sequence[str]) -> Any:
    """What a server says to one command, as it says it; an error of its own is returned."""
    from redis.exceptions import RedisError, ResponseError

    client = connect(url)
    try:
        # Without the meaning that the library gives to the answers of some commands.
        client.response_callbacks.clear()
        return client.execute_command(*command)
    except ResponseError as exc:
        return exc
    except RedisError as exc:
        raise QueueUnavailable(f"the queue at {redacted(url)} does not answer: {exc}") from exc
    finally:
        client.close()


def blobs_of(settings: Settings, where: Endpoints) -> blobs.Blobs:
    """Where large things lie, for jobs that are kept there."""
    state = None if where.shared else state_dir(settings)
    return blobs.chosen(settings, connect(where.results), state)


def _data(outcome: Outcome) -> bytes:
    """The result of an attempt as it is stored; nothing if it has none."""
    if isinstance(outcome, Done | Bury) and outcome.result is not None:
        return outcome.result.model_dump_json().encode()
    return b""


def _found(job_id: str, found: calls.Stored, store: blobs.Blobs) -> Job:
    fields, packed = found.fields, found.packed
    if b"state" not in fields:
        raise calls.forgotten(job_id) if found.past else calls.unknown(job_id)
    if found.result_name and packed is None and fields[b"state"] == b"done":
        raise calls.forgotten(job_id)
    body = fields.get(b"body")
    job = calls.assembled(
        job_id,
        fields,
        blobs.unpack(store, body) if body else None,
        blobs.unpack(store, packed) if packed else None,
    )
    if job.state is JobState.CANCELLED and job.result is None:
        return job.model_copy(update={"result": cancelled()})
    return job
