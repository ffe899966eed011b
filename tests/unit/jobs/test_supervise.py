"""One attempt: what it says to the queue, and how it ends when nobody wants it."""

from collections.abc import AsyncGenerator

import anyio
import pytest

from saggar import DriverUnavailable, Policy, PolicyDenied, Result, Status, Task
from saggar.jobs.job import Failure, JobState
from saggar.jobs.memory import MemoryQueue
from saggar.jobs.queue import Done, Lease, Terms
from saggar.jobs.supervise import SHOWN, Supervisor
from saggar.model.event import Event, Finished, Output, Started, Yielded
from saggar.testing.queues import job

ENDED = Finished(status=Status.OK, isolation="jail")


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


async def lease_of(queue: MemoryQueue) -> Lease:
    wanted = job()
    await queue.submit(wanted, Terms())
    lease = await queue.claim(wanted.id, "worker")
    assert lease is not None
    return lease


async def quick(task: Task, policy: Policy) -> AsyncGenerator[Event]:
    yield Started(isolation="jail")
    yield Output(stream="stdout", data=b"quick")
    yield ENDED


async def endless(task: Task, policy: Policy) -> AsyncGenerator[Event]:
    yield Started(isolation="jail")
    await anyio.sleep_forever()


async def test_an_attempt_comes_to_the_sum_of_its_events(queue: MemoryQueue):
    async with Supervisor(queue, quick) as supervisor:
        came = await supervisor.attempt(await lease_of(queue))

    assert isinstance(came, Result)
    assert "quick" == came.stdout


async def test_a_cancelled_job_ends_at_once(queue: MemoryQueue):
    lease = await lease_of(queue)
    async with Supervisor(queue, endless) as supervisor, anyio.create_task_group() as tasks:
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(cancel_when_running, queue, lease)
        with anyio.fail_after(1):
            came = await supervisor.attempt(lease)

    assert isinstance(came, Result)
    assert Status.CANCELLED is came.status
    assert await queue.settle(lease, Done(came))
    assert JobState.CANCELLED is (await queue.find(lease.job.id)).state


async def cancel_when_running(queue: MemoryQueue, lease: Lease) -> None:
    async for _ in queue.events(lease.job.id):
        await queue.cancel(lease.job.id)
        return


async def test_a_lost_lease_ends_the_run_and_says_nothing(queue: MemoryQueue):
    lease = await lease_of(queue)
    lost = Lease(lease.job, "another token")
    async with Supervisor(queue, endless) as supervisor:
        with anyio.fail_after(5):
            came = await supervisor.attempt(lost)

    assert came is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [(DriverUnavailable("no"), "ours"), (PolicyDenied("no"), "refused"), (KeyError("x"), "ours")],
)
async def test_an_error_is_a_failure_of_its_kind(queue: MemoryQueue, error: Exception, kind: str):
    async def broken(task: Task, policy: Policy) -> AsyncGenerator[Event]:
        yield Started(isolation="jail")
        raise error

    async with Supervisor(queue, broken) as supervisor:
        came = await supervisor.attempt(await lease_of(queue))

    assert isinstance(came, Failure)
    assert kind == came.kind


async def test_items_that_nobody_asked_for_are_not_kept(queue: MemoryQueue):
    async def lavish(task: Task, policy: Policy) -> AsyncGenerator[Event]:
        for _ in range(100):
            yield Yielded(data=b"x" * 1000, media_type="text/plain")
        await anyio.sleep(0.15)  # until it has been looked at
        yield ENDED

    lease = await lease_of(queue)
    async with Supervisor(queue, lavish) as supervisor:
        came = await supervisor.attempt(lease)

    assert isinstance(came, Result)
    assert [] == queue._jobs[lease.job.id].events


async def test_what_is_shown_has_an_end_and_the_result_has_all(queue: MemoryQueue):
    async def loud(task: Task, policy: Policy) -> AsyncGenerator[Event]:
        for _ in range(4):
            yield Output(stream="stdout", data=b"x" * (SHOWN // 2))
        await anyio.sleep(0.15)  # until it has been looked at
        yield ENDED

    lease = await lease_of(queue)
    async with Supervisor(queue, loud) as supervisor:
        came = await supervisor.attempt(lease)
    shown = queue._jobs[lease.job.id].events

    assert isinstance(came, Result)
    assert 2 * SHOWN == len(came.stdout)
    assert ["output", "output"] == [event.kind for event in shown]
