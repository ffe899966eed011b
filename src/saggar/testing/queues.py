"""
Behaviours that every queue of jobs shows: run them against yours before anybody relies on it.

    from saggar.testing.queues import CHECKS, Rig, name

    @pytest.mark.parametrize("check", CHECKS, ids=name)
    async def test_my_queue_conforms(check):
        async with my_rig() as rig:
            await check(rig)

A check is `async (rig) -> None` and raises AssertionError. Time passes when the rig is told so.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio

from saggar.config import Quota
from saggar.errors import Conflict, Expired, NotFound, Overloaded
from saggar.jobs import retry
from saggar.jobs.job import HEAVY, Failure, Job, JobState, job_limits, same
from saggar.jobs.queue import KEPT, LEASE, Again, Bury, Done, Lease, Queue, Terms, Work, cancelled
from saggar.model.event import Event, Output, Started
from saggar.model.policy import Policy
from saggar.model.result import Result, Status
from saggar.model.task import Task

FAILED = Failure(kind="ours", code="sandbox-broken", message="the sandbox broke")
LOST = Failure(kind="lost", code="worker-lost", message="it fell silent")


class Both(Queue, Work, Protocol):
    """A queue from both of its sides."""


class Rig(Protocol):
    """A queue that a check can hold, and its time."""

    @property
    def queue(self) -> Both:
        """The queue."""
        ...

    async def take(self, queue: str = ..., worker: str = ...) -> Lease | None:
        """What a worker would be given now; None if nothing is due."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """So much later, all that was due meanwhile is done."""
        ...

    async def letters(self) -> list[dict[str, Any]]:
        """The dead letters, newest first."""
        ...

    async def revive(self, job_id: str) -> None:
        """Start a job anew that was given up or cancelled."""
        ...


Check = Callable[[Rig], Awaitable[None]]


def job(text: str = "print(1)", **fields: Any) -> Job:
    """A job to be queued."""
    return Job.of(Task.of(text), Policy(limits=job_limits()), **fields)


def well(stdout: bytes = b"1\n", status: Status = Status.OK) -> Done:
    """An attempt that came to a result."""
    return Done(Result(status=status, isolation="jail", exit_code=0, stdout_bytes=stdout))


async def submitted(rig: Rig, wanted: Job | None = None, **terms: Any) -> Job:
    """A job in the queue."""
    wanted = wanted or job()
    receipt = await rig.queue.submit(wanted, Terms(**terms))
    assert receipt.came == "new"
    return wanted


async def taken(rig: Rig, **where: str) -> Lease:
    """The next lease, which there must be."""
    lease = await rig.take(**where)
    assert lease is not None, "a job was due, and none was given"
    return lease


async def refused(kind: type[Exception], doing: Awaitable[Any]) -> Any:
    """The error that this must end with."""
    try:
        got = await doing
    except kind as exc:
        return exc
    raise AssertionError(f"should have been refused as {kind.__name__}, and came to {got}")


async def check_a_job_is_given_to_one_worker_only(rig: Rig) -> None:
    """Whoever asks second gets nothing."""
    wanted = await submitted(rig)
    lease = await taken(rig, worker="one")
    assert wanted.id == lease.job.id
    assert lease.job.attempt == 1
    assert lease.job.task.program.code.text == "print(1)"  # type: ignore[union-attr]
    assert await rig.take(worker="other") is None
    assert await rig.queue.claim(wanted.id, "other") is None


async def check_a_result_is_found_with_the_job(rig: Rig) -> None:
    """State, attempt, times and worker beside it."""
    wanted = await submitted(rig)
    assert JobState.QUEUED is (await rig.queue.find(wanted.id)).state
    lease = await taken(rig, worker="one")
    assert JobState.RUNNING is (await rig.queue.find(wanted.id)).state
    assert await rig.queue.settle(lease, well())
    found = await rig.queue.find(wanted.id)
    assert JobState.DONE is found.state
    assert (found.attempt, found.retries, found.worker) == (1, 0, "one")
    assert found.result is not None
    assert found.result.stdout == "1\n"
    assert found.finished is not None
    assert found.started is not None
    assert found.created <= found.started <= found.finished


async def check_what_a_program_fails_at_is_a_result(rig: Rig) -> None:
    """No other attempt follows."""
    wanted = await submitted(rig)
    lease = await taken(rig)
    bad = Result[Any](status=Status.ERROR, isolation="jail", exit_code=1)
    await rig.queue.settle(lease, retry.decide(lease.job, bad, lambda: 0.5))
    assert Status.ERROR is (await rig.queue.find(wanted.id)).result.status  # type: ignore[union-attr]
    await rig.pass_time(1000)
    assert await rig.take() is None


async def check_an_attempt_is_settled_once(rig: Rig) -> None:
    """The first word holds."""
    wanted = await submitted(rig)
    lease = await taken(rig)
    assert await rig.queue.settle(lease, well(b"first"))
    assert not await rig.queue.settle(lease, well(b"second"))
    assert (await rig.queue.find(wanted.id)).result.stdout == "first"  # type: ignore[union-attr]


async def check_first_come_first_served(rig: Rig) -> None:
    """Among the jobs of one tenant."""
    wanted = [(await submitted(rig)).id for _ in range(5)]
    found = [(await taken(rig)).job.id for _ in range(5)]
    assert wanted == found


async def check_priority_goes_before_age(rig: Rig) -> None:
    """Among those that wait for their turn; what is with the workers already is."""
    for _ in range(40):
        await submitted(rig, job(priority=9))
    urgent = await submitted(rig, job(priority=0))
    found = [(await taken(rig)).job.id for _ in range(41)]
    assert found.index(urgent.id) <= 10


async def check_tenants_take_turns(rig: Rig) -> None:
    """One who floods the queue delays nobody but himself."""
    for _ in range(40):
        await submitted(rig, job(tenant="flood"))
    for _ in range(3):
        await submitted(rig, job(tenant="modest"))
    found = [(await taken(rig)).job.tenant for _ in range(43)]
    assert found[:16].count("modest") == 3


async def check_a_tenant_runs_no_more_at_once_than_he_may(rig: Rig) -> None:
    """The others go on; his next one starts when one ends."""
    quota = Quota(running=2)
    for _ in range(4):
        await submitted(rig, job(tenant="capped"), quota=quota)
    other = await submitted(rig, job(tenant="other"))
    leases = [await taken(rig) for _ in range(3)]
    assert other.id in [lease.job.id for lease in leases]
    assert await rig.take() is None
    ended = next(lease for lease in leases if lease.job.tenant == "capped")
    await rig.queue.settle(ended, well())
    assert (await taken(rig)).job.tenant == "capped"
    assert await rig.take() is None


async def check_a_tenant_has_no_more_waiting_than_he_may(rig: Rig) -> None:
    """What goes beyond is refused, with a time to come again."""
    quota = Quota(waiting=20)
    error = None
    for _ in range(60):
        try:
            await rig.queue.submit(job(tenant="many"), Terms(quota=quota))
        except Overloaded as exc:
            error = exc
            break
    assert error is not None
    assert error.retry_after
    await submitted(rig, job(tenant="other"), quota=quota)


async def check_what_waits_for_its_time_or_elsewhere_waits_as_well(rig: Rig) -> None:
    """A tenant has a number of jobs that wait, whichever queue they are in; none of them runs."""
    quota = Quota(waiting=3)
    await submitted(rig, quota=quota, delay=60)
    await submitted(rig, job(queue=HEAVY), quota=quota)
    wanted = await submitted(rig, quota=quota)
    await refused(Overloaded, rig.queue.submit(job(), Terms(quota=quota)))
    await refused(Overloaded, rig.queue.submit(job(queue="ours"), Terms(quota=quota)))
    assert wanted.id == (await taken(rig)).job.id
    await submitted(rig, quota=quota)
    await refused(Overloaded, rig.queue.submit(job(), Terms(delay=60, quota=quota)))


async def check_a_rate_is_held(rig: Rig) -> None:
    """A burst passes, then one at a time; the refusal says when."""
    quota = Quota(rate=2, burst=3)
    for _ in range(3):
        await submitted(rig, quota=quota)
    error = await refused(Overloaded, rig.queue.submit(job(), Terms(quota=quota)))
    assert 0 < error.retry_after <= 0.5
    await rig.pass_time(error.retry_after)
    await submitted(rig, quota=quota)


async def check_queues_are_apart(rig: Rig) -> None:
    """Who reads one gets nothing of the other."""
    heavy = await submitted(rig, job(queue=HEAVY))
    assert await rig.take() is None
    assert heavy.id == (await taken(rig, queue=HEAVY)).job.id


async def check_a_delayed_job_waits_for_its_time(rig: Rig) -> None:
    """And not longer."""
    wanted = await submitted(rig, delay=30)
    assert JobState.DELAYED is (await rig.queue.find(wanted.id)).state
    await rig.pass_time(29)
    assert await rig.take() is None
    await rig.pass_time(1.1)
    assert wanted.id == (await taken(rig)).job.id


async def check_our_failures_are_tried_again_later(rig: Rig) -> None:
    """After 5, 25 and 125 seconds, a fifth more or less; then it is given up."""
    wanted = await submitted(rig)
    for attempt, wait in ((1, 5), (2, 25), (3, 125)):
        lease = await taken(rig)
        assert attempt == lease.job.attempt
        outcome = retry.decide(lease.job, FAILED, lambda: 0.5)
        assert await rig.queue.settle(lease, outcome)
        await rig.pass_time(wait - 0.5)
        assert await rig.take() is None, f"tried again before {wait} s"
        await rig.pass_time(0.6)
    lease = await taken(rig)
    assert lease.job.retries == 3
    await rig.queue.settle(lease, retry.decide(lease.job, FAILED, lambda: 0.5))
    assert JobState.DEAD is (await rig.queue.find(wanted.id)).state


async def check_a_silent_workers_job_starts_again(rig: Rig) -> None:
    """Within 15 seconds; what the old worker says later counts for nothing."""
    wanted = await submitted(rig)
    old = await taken(rig, worker="old")
    await rig.pass_time(LEASE + 2)
    new = await taken(rig, worker="new")
    assert (wanted.id, 2) == (new.job.id, new.job.attempt)
    assert await rig.queue.renew([old]) == ["lost"]
    assert not await rig.queue.settle(old, well(b"old"))
    assert await rig.queue.settle(new, well(b"new"))
    assert (await rig.queue.find(wanted.id)).result.stdout == "new"  # type: ignore[union-attr]


async def check_who_gives_signs_of_life_keeps_his_job(rig: Rig) -> None:
    """However long it takes."""
    await submitted(rig)
    lease = await taken(rig)
    for _ in range(5):
        await rig.pass_time(LEASE / 2)
        assert await rig.queue.renew([lease]) == ["ok"]
    assert await rig.take() is None
    assert await rig.queue.settle(lease, well())


async def check_the_death_of_four_workers_is_enough(rig: Rig) -> None:
    """A job that kills whoever takes it is given up."""
    wanted = await submitted(rig)
    for attempt in range(1, 5):
        assert attempt == (await taken(rig, worker=f"w{attempt}")).job.attempt
        await rig.pass_time(LEASE + 2)
    assert await rig.take() is None
    found = await rig.queue.find(wanted.id)
    assert JobState.DEAD is found.state
    assert found.failure.code == "worker-lost"  # type: ignore[union-attr]
    assert [wanted.id] == [letter["job_id"] for letter in await rig.letters()]


async def check_a_dead_letter_says_what_happened(rig: Rig) -> None:
    """As plain values, without the code itself."""
    wanted = await submitted(rig, job("secret = 1", tenant="them"))
    lease = await taken(rig, worker="one")
    await rig.queue.settle(lease, Bury(FAILED))
    (letter,) = await rig.letters()
    assert (wanted.id, wanted.code_hash) == (letter["job_id"], letter["code_hash"])
    assert (letter["tenant"], letter["attempts"], letter["worker"]) == ("them", 1, "one")
    assert letter["error"]["message"] == "the sandbox broke"
    assert letter["created"] <= letter["buried"]
    assert "secret" not in str(letter)


async def check_a_dead_job_can_start_anew(rig: Rig) -> None:
    """With all its attempts, and its letter is gone."""
    wanted = await submitted(rig)
    await rig.queue.settle(await taken(rig), Bury(FAILED))
    await rig.revive(wanted.id)
    assert await rig.letters() == []
    lease = await taken(rig)
    assert (wanted.id, 1) == (lease.job.id, lease.job.attempt)
    await rig.queue.settle(lease, well())
    assert JobState.DONE is (await rig.queue.wait(wanted.id, 1)).state
    await refused(Conflict, rig.revive(wanted.id))


async def check_a_cancelled_job_does_not_start(rig: Rig) -> None:
    """And who waits for it hears of it."""
    wanted = await submitted(rig)
    await rig.queue.cancel(wanted.id)
    assert await rig.take() is None
    found = await rig.queue.wait(wanted.id, 1)
    assert JobState.CANCELLED is found.state
    assert Status.CANCELLED is found.result.status  # type: ignore[union-attr]
    later = await submitted(rig, delay=5)
    await rig.queue.cancel(later.id)
    await rig.pass_time(6)
    assert await rig.take() is None


async def check_a_running_job_hears_that_nobody_wants_it(rig: Rig) -> None:
    """By its next sign of life at the latest."""
    wanted = await submitted(rig)
    lease = await taken(rig)
    await rig.queue.cancel(wanted.id)
    assert await rig.queue.renew([lease]) == ["cancel"]
    assert await rig.queue.settle(lease, Done(cancelled()))
    assert JobState.CANCELLED is (await rig.queue.find(wanted.id)).state


async def check_what_nobody_wants_is_not_tried_again(rig: Rig) -> None:
    """Neither after a failure nor after a worker's death."""
    for outcome in (Again(FAILED, 5.0), Bury(FAILED)):
        wanted = await submitted(rig)
        lease = await taken(rig)
        await rig.queue.cancel(wanted.id)
        await rig.queue.settle(lease, outcome)
        assert JobState.CANCELLED is (await rig.queue.find(wanted.id)).state
    wanted = await submitted(rig)
    await taken(rig)
    await rig.queue.cancel(wanted.id)
    await rig.pass_time(LEASE + 2)
    assert await rig.take() is None
    assert JobState.CANCELLED is (await rig.queue.find(wanted.id)).state
    assert await rig.letters() == []


async def check_the_same_work_joins_what_is_under_way(rig: Rig) -> None:
    """One run for all, queued or running."""
    first = await submitted(rig, keyed())
    found = [await rig.queue.submit(keyed(), Terms()) for _ in range(10)]
    lease = await taken(rig)
    found += [await rig.queue.submit(keyed(), Terms()) for _ in range(9)]
    assert {("joined", first.id)} == {(each.came, each.job_id) for each in found}
    assert await rig.take() is None
    await rig.queue.settle(lease, well())
    after = await rig.queue.submit(keyed(), Terms())
    assert ("cached", first.id) == (after.came, after.job_id)


async def check_who_joins_what_is_delayed_does_not_wait_for_it(rig: Rig) -> None:
    """A job that never ran starts as early as any of its submissions wants."""
    late = keyed()
    await submitted(rig, late, delay=3600)
    receipt = await rig.queue.submit(keyed(), Terms(delay=30))
    assert (late.id, "joined") == (receipt.job_id, receipt.came)
    await rig.pass_time(31)
    lease = await taken(rig)
    assert late.id == lease.job.id
    await rig.queue.settle(lease, Again(FAILED, 60))
    await rig.queue.submit(keyed(), Terms())
    assert await rig.take() is None, "what failed is tried again in its own time"
    other = keyed("print(2)")
    await submitted(rig, other, delay=3600)
    await rig.queue.submit(keyed("print(2)"), Terms())
    assert other.id == (await taken(rig)).job.id


async def check_no_tenant_is_served_from_anothers_run(rig: Rig) -> None:
    """Not the same key, not the same code."""
    await submitted(rig, keyed(tenant="one"))
    await submitted(rig, keyed(tenant="other"))


async def check_only_what_would_come_out_the_same_is_served_again(rig: Rig) -> None:
    """Results and errors of the program are; time-outs, cancelled and dead runs are not."""
    for status in (Status.OK, Status.ERROR):
        wanted = keyed(f"# {status}")
        await submitted(rig, wanted)
        await rig.queue.settle(await taken(rig), well(status=status))
        assert (await rig.queue.submit(keyed(f"# {status}"), Terms())).came == "cached"
    for outcome in (well(status=Status.TIMEOUT), Done(cancelled()), Bury(FAILED)):
        await submitted(rig, keyed("# once"))
        await rig.queue.settle(await taken(rig), outcome)
    await submitted(rig, keyed("# once"))


async def check_a_result_is_served_for_an_hour(rig: Rig) -> None:
    """Then the work is done anew, and who asks for the old one is told that it expired."""
    wanted = await submitted(rig, keyed())
    await rig.queue.settle(await taken(rig), well())
    await rig.pass_time(KEPT - 10)
    assert (await rig.queue.submit(keyed(), Terms())).came == "cached"
    await rig.pass_time(20)
    error = await refused(Expired, rig.queue.find(wanted.id))
    assert "no longer kept" in str(error)
    await submitted(rig, keyed())


async def check_an_unknown_job_is_said_to_be_unknown(rig: Rig) -> None:
    """To whoever asks for it in whatever way."""
    for doing in (rig.queue.find("none"), rig.queue.wait("none", 1), rig.queue.cancel("none")):
        error = await refused(NotFound, doing)
        assert not isinstance(error, Expired)


async def check_all_who_wait_are_woken(rig: Rig) -> None:
    """By one end."""
    wanted, found = await submitted(rig), []

    async def wait() -> None:
        found.append((await rig.queue.wait(wanted.id, 10)).state)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(wait)
        await rig.queue.settle(await taken(rig), well())
    assert found == 5 * [JobState.DONE]


async def check_waiting_ends(rig: Rig) -> None:
    """The job goes on."""
    wanted = await submitted(rig)
    await refused(TimeoutError, rig.queue.wait(wanted.id, 0.05))
    assert JobState.QUEUED is (await rig.queue.find(wanted.id)).state


async def check_events_are_seen_while_they_happen(rig: Rig) -> None:
    """And by who comes later, from the result."""
    wanted = await submitted(rig)
    lease = await taken(rig)
    started: list[Event] = [
        Started(isolation="jail"),
        Output(stream="stdout", data=b"one"),
    ]
    await rig.queue.tell(wanted.id, started)
    found = []
    with anyio.fail_after(10):
        async for event in rig.queue.events(wanted.id):
            found.append(event.kind)
            if len(found) == 2:
                await rig.queue.settle(lease, well(b"one"))
    assert found == ["started", "output", "finished"]


async def check_a_run_that_showed_nothing_is_shown_by_its_result(rig: Rig) -> None:
    """Short runs end before anybody could look."""
    wanted = await submitted(rig)
    await rig.queue.settle(await taken(rig), well(b"all of it"))
    with anyio.fail_after(10):
        found = [event async for event in rig.queue.events(wanted.id)]
    assert [event.kind for event in found] == ["started", "output", "finished"]
    assert found[1].data == b"all of it"  # type: ignore[union-attr]


async def check_a_large_job_and_a_large_result_come_through(rig: Rig) -> None:
    """Also what is stored elsewhere on its way."""
    task = Task.of("print(1)", files={"data.bin": b"x" * 300_000})
    wanted = Job.of(task, Policy(limits=job_limits()))
    await rig.queue.submit(wanted, Terms())
    lease = await taken(rig)
    assert len(lease.job.task.files[0].content) == 300_000  # type: ignore[union-attr]
    await rig.queue.settle(lease, well(b"y" * 300_000))
    found = await rig.queue.wait(wanted.id, 5)
    assert len(found.result.stdout) == 300_000  # type: ignore[union-attr]


def keyed(text: str = "print(1)", **fields: Any) -> Job:
    """A job of which one run is enough."""
    wanted = job(text, **fields)
    assert wanted.task is not None
    return wanted.model_copy(update={"key": same(wanted.task, wanted.policy)})


CHECKS: tuple[Check, ...] = tuple(
    thing for word, thing in list(globals().items()) if word.startswith("check_")
)


def name(check: Check) -> str:
    """A check's name as a sentence's id."""
    return check.__name__.removeprefix("check_").replace("_", "-")
