"""Every queue shows every behaviour that is asked of one: the one in memory, and Redis."""

import json
import shutil
import socket
import subprocess
import tempfile
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

from saggar.config import Settings
from saggar.jobs import calls, deadletters, keys, listing, recover
from saggar.jobs.broker import Embedded, binary
from saggar.jobs.job import STANDARD, JobState
from saggar.jobs.memory import MemoryQueue
from saggar.jobs.queue import Bury, Lease, Terms
from saggar.jobs.store import AStore, Store
from saggar.testing.queues import (
    CHECKS,
    FAILED,
    Check,
    Rig,
    job,
    keyed,
    name,
    submitted,
    well,
)


class InMemory:
    """The queue of this process."""

    def __init__(self) -> None:
        self.now = 1e9
        self.queue = MemoryQueue(lambda: self.now)

    async def take(self, queue: str = STANDARD, worker: str = "worker") -> Lease | None:
        return self.queue._next(queue, worker)

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        await self.queue.tick(lambda: 0.5)

    async def letters(self) -> list[dict[str, Any]]:
        return [json.loads(letter) for letter in self.queue.dead]

    async def revive(self, job_id: str) -> None:
        await self.queue.revive(job_id)

    async def aclose(self) -> None:
        """Nothing to let go of."""


class InRedis:
    """Redis, with a worker that takes its messages as Celery does."""

    def __init__(self, settings: Settings) -> None:
        self.now = 1e9
        self.store = Store.of(settings, lambda: self.now)
        self.store.jobs.flushall()
        self.store.results.flushall()
        self.settings = settings

    async def open(self) -> "InRedis":
        self.queue = await AStore.of(self.settings, lambda: self.now)
        return self

    async def take(self, queue: str = STANDARD, worker: str = "worker") -> Lease | None:
        while message := self.store.jobs.rpop(queue):
            _, words, _ = json.loads(b64decode(json.loads(message)["body"]))
            if lease := await self.queue.claim(words["job"], worker):
                return lease
        return None

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for client in (self.store.jobs, self.store.results):
            for key in client.keys("*"):
                left = client.pttl(key)
                if left >= 0:
                    client.pexpire(key, max(0, left - int(seconds * 1000)))
        recover.tick(self.store, "clock", [], 1, lambda: 0.5)

    async def letters(self) -> list[dict[str, Any]]:
        return deadletters.ls(self.store)

    async def revive(self, job_id: str) -> None:
        await self.queue.ask(calls.revive(await self.queue.find(job_id)))

    async def aclose(self) -> None:
        await self.queue.aclose()
        self.store.close()


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    state = Path(tempfile.mkdtemp(prefix="saggar-queues-"))
    broker = Embedded(state).start()
    yield Settings(
        broker_url=broker.url(0), result_backend=broker.url(1), blobs=str(state / "blobs")
    )
    broker.close()
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out


@pytest.fixture(scope="module")
def far(settings: Settings) -> Iterator[Settings]:
    """A broker over TCP with a password, results and blobs on another server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--port", str(port), "--requirepass", "hush", "--save", "", "--appendonly", "no"]
    with subprocess.Popen([binary(), *words], stdout=subprocess.DEVNULL) as server:
        url = f"redis://:hush@127.0.0.1:{port}/0"
        end = time.monotonic() + 10
        while not _answers(url):
            assert time.monotonic() < end
        yield settings.replace(broker_url=url, blobs="redis")
        server.terminate()


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture(params=["memory", "redis", "far"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    where = {"redis": "settings", "far": "far"}.get(request.param)
    found: Any = (
        InMemory() if where is None else await InRedis(request.getfixturevalue(where)).open()
    )
    yield found
    await found.aclose()


@pytest.mark.parametrize("check", CHECKS, ids=name)
async def test_it_conforms(rig: Rig, check: Check):
    await check(rig)


@pytest.mark.parametrize("check", CHECKS, ids=name)
def test_every_behaviour_says_what_it_is(check: Check):
    assert check.__doc__


async def test_jobs_are_listed_newest_first_and_for_one_tenant(settings: Settings):
    rig = await InRedis(settings).open()
    mine = [await submitted(rig, job(tenant="mine")) for _ in range(3)]
    other = await submitted(rig, job(tenant="other"))
    await rig.queue.cancel(mine[0].id)
    found = listing.ls(rig.store, tenant="mine")
    cancelled = listing.ls(rig.store, state=JobState.CANCELLED)
    everything = listing.ls(rig.store)
    await rig.pass_time(4000)
    later = listing.ls(rig.store)
    listed = rig.store.jobs.zcard(keys.JOBS)
    await rig.aclose()

    assert {each.id for each in mine} == {each.id for each in found}
    assert [mine[0].id] == [each.id for each in cancelled]
    assert 4 == len(everything)
    assert {mine[1].id, mine[2].id, other.id} == {each.id for each in later}
    assert 3 == listed


def _worker(rig: InRedis, *queues: str, room: int = 0) -> calls.Tick:
    """A look at what is due, by one that reads these."""
    return recover.tick(rig.store, "one", queues, 1, lambda: 0.5, room=room, held=60)


async def test_the_order_of_jobs_stays_that_of_their_coming(settings: Settings):
    rig = await InRedis(settings).open()
    dead = await submitted(rig)
    lease = await rig.take()
    assert lease is not None
    await rig.queue.settle(lease, Bury(FAILED))
    for _ in range(2):
        await rig.pass_time(3000)
    young = await submitted(rig)
    await rig.pass_time(1)
    found = [each.id for each in listing.ls(rig.store)]
    await rig.aclose()

    assert [young.id, dead.id] == found


async def test_whoever_submits_the_same_is_told_as_well(settings: Settings):
    rig = await InRedis(settings).open()
    hooks = [f"http://example.org/{number}" for number in range(3)]
    first = keyed(webhook=hooks[0])
    await submitted(rig, first)
    await rig.queue.submit(keyed(webhook=hooks[1]), Terms())
    lease = await rig.take()
    assert lease is not None
    await rig.queue.settle(lease, well())
    ended = _worker(rig, room=5).ends
    rig.store.ask(calls.told(first.id, hooks[0]))
    rig.store.ask(calls.tell_later(first.id, hooks[1], 5))
    cached = await rig.queue.submit(keyed(webhook=hooks[2]), Terms())
    later = _worker(rig, room=5).ends
    rig.now += 6
    again = _worker(rig, room=5).ends
    await rig.aclose()

    assert [(first.id, hooks[0], 1), (first.id, hooks[1], 1)] == sorted(ended)
    assert "cached" == cached.came
    assert [(first.id, hooks[2], 1)] == later
    assert [(first.id, hooks[1], 2)] == again


async def test_a_replayed_job_tells_of_its_end_as_often_as_before(settings: Settings):
    rig = await InRedis(settings).open()
    wanted = await submitted(rig, job(webhook="http://example.org/"))
    told = []
    for _ in range(6):
        lease = await rig.take()
        assert lease is not None
        await rig.queue.settle(lease, Bury(FAILED))
        told += [end for end in _worker(rig, room=5).ends if end[1] != "alert:"]
        await rig.revive(wanted.id)
    await rig.aclose()

    assert [(wanted.id, "http://example.org/", 1)] * 6 == told


async def test_a_worker_is_handed_as_many_ends_as_it_has_room_for(settings: Settings):
    rig = await InRedis(settings).open()
    for _ in range(3):
        await submitted(rig, job(webhook="http://example.org/"))
        lease = await rig.take()
        assert lease is not None
        await rig.queue.settle(lease, well())
    found = [len(_worker(rig, room=2).ends) for _ in range(3)]
    await rig.aclose()

    assert [2, 1, 0] == found


async def test_a_key_of_another_kind_stops_nobody(settings: Settings):
    rig = await InRedis(settings).open()
    rig.store.jobs.set("odd", "not a list")
    await submitted(rig, job(queue="odd"))
    wanted = await submitted(rig)
    _worker(rig, "odd", STANDARD)
    stand = rig.store.counts(("odd", STANDARD, "*"))
    lease = await rig.take()
    await rig.aclose()

    assert {"odd": 1, STANDARD: 1} == stand.depth
    assert lease is not None
    assert wanted.id == lease.job.id


async def test_names_of_queues_go_when_nothing_is_in_them(settings: Settings):
    rig = await InRedis(settings).open()
    wanted = await submitted(rig, job(queue="mine"))
    _worker(rig)
    while_it_waits = set(rig.store.counts("*").depth)
    await rig.queue.cancel(wanted.id)
    rig.store.jobs.delete("mine")
    _worker(rig)
    after = set(rig.store.counts("*").depth)
    await rig.aclose()

    assert {"mine"} == while_it_waits
    assert set() == after


async def test_nobody_joins_what_waits_where_nobody_reads(settings: Settings):
    rig = await InRedis(settings).open()
    await submitted(rig, keyed(queue="nobodys"))
    alone = await rig.queue.submit(keyed(), Terms())
    _worker(rig, "somebodys")
    elsewhere = keyed("print(2)", queue="somebodys")
    await submitted(rig, elsewhere)
    joined = await rig.queue.submit(keyed("print(2)"), Terms())
    await rig.aclose()

    assert "new" == alone.came
    assert (elsewhere.id, "joined") == (joined.job_id, joined.came)


@pytest.mark.parametrize("apart", [False, True])
async def test_what_is_gone_is_run_anew(settings: Settings, apart: bool):
    # In another database of the same server, or as on another server.
    rig = await InRedis(settings).open()
    if apart:
        rig.queue.databases = rig.store.databases = None
    await submitted(rig, keyed())
    lease = await rig.take()
    assert lease is not None
    await rig.queue.settle(lease, well())
    served = await rig.queue.submit(keyed(), Terms())
    rig.store.results.flushdb()
    anew = await rig.queue.submit(keyed(), Terms())
    await rig.aclose()

    assert ("cached", "new") == (served.came, anew.came)


async def test_nobody_pushes_the_dead_letters_of_others_out(settings: Settings):
    rig = await InRedis(settings).open()
    lost = []
    for tenant in ("quiet", "loud", "loud", "loud"):
        rig.now += 1
        lost.append((await submitted(rig, job(tenant=tenant))).id)
        lease = await rig.take()
        assert lease is not None
        if len(lost) == 4:
            strange = [b"bm90IG91cnM="] * 9_997
            rig.store.jobs.rpush("dead_letter", *strange)
        await rig.queue.settle(lease, Bury(FAILED))
    found = [letter["job_id"] for letter in await rig.letters()]
    length = rig.store.jobs.llen("dead_letter")
    await rig.aclose()

    assert [lost[3], lost[2], lost[0]] == found
    assert 10_000 == length


async def test_a_message_that_went_astray_is_sent_again(settings: Settings):
    rig = await InRedis(settings).open()
    wanted = await submitted(rig)
    rig.store.jobs.delete(STANDARD)  # it was with a worker that died before it claimed
    await rig.pass_time(5)
    recover.tick(rig.store, "clock", [STANDARD], 1, lambda: 0.5)
    lease = await rig.take()
    second = await rig.take()
    await rig.aclose()

    assert lease is not None
    assert (wanted.id, 1) == (lease.job.id, lease.job.attempt)
    assert second is None


async def test_a_revoked_task_cancels_its_job_and_no_later_start_of_it(settings: Settings):
    rig = await InRedis(settings).open()
    wanted = await submitted(rig)
    revoked = calls.cancel(wanted.id, rig.store.where.database, wanted.id)
    rig.store.ask(revoked)
    first = (await rig.queue.find(wanted.id)).state
    await rig.revive(wanted.id)
    rig.store.ask(revoked)  # its first message comes to a worker only now
    second = (await rig.queue.find(wanted.id)).state
    await rig.aclose()

    assert (JobState.CANCELLED, JobState.QUEUED) == (first, second)


async def test_more_than_a_hundred_wait_at_once(settings: Settings):
    rig = await InRedis(settings).open()
    wanted = await submitted(rig)
    found: list[JobState] = []

    async def wait() -> None:
        found.append((await rig.queue.wait(wanted.id, 30)).state)

    async with anyio.create_task_group() as tasks:
        for _ in range(150):
            tasks.start_soon(wait)
        while len(rig.store.jobs.client_list()) < 150:  # noqa: ASYNC110 - who waits is known there
            await anyio.sleep(0.01)
        lease = await rig.take()
        assert lease is not None
        await rig.queue.settle(lease, well())
    await rig.aclose()

    assert [JobState.DONE] * 150 == found


async def test_what_is_sent_twice_is_taken_in_once(settings: Settings):
    rig = await InRedis(settings).open()
    wanted = await submitted(rig)
    lease = await rig.take()
    again = await rig.queue.submit(wanted, Terms())  # its sender lost the connection
    state = (await rig.queue.find(wanted.id)).state
    asked_again = rig.store.ask(calls.claim(wanted.id, "worker", lease.token if lease else ""))
    await rig.aclose()

    assert "new" == again.came
    assert JobState.RUNNING is state
    assert asked_again is not None
    assert 1 == asked_again.attempt
