"""Every queue shows every behaviour that is asked of one: the one in memory, and Redis."""

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from saggar.config import Settings
from saggar.jobs import calls, deadletters, keys, listing, recover
from saggar.jobs.broker import Embedded, binary
from saggar.jobs.job import STANDARD, JobState
from saggar.jobs.memory import MemoryQueue
from saggar.jobs.queue import Lease, Terms
from saggar.jobs.store import AStore, Store
from saggar.testing.queues import CHECKS, Check, Rig, job, name, submitted


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
            job_id = json.loads(message)["headers"]["id"]
            if lease := await self.queue.claim(job_id, worker):
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
    shutil.rmtree(state)


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
