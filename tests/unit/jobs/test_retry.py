from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar import Policy, Result, Status, Task
from saggar.jobs import retry
from saggar.jobs.job import Failure, Job
from saggar.jobs.queue import Again, Bury, Done
from saggar.model.result import ErrorInfo

OURS = Failure(kind="ours", code="sandbox-broken", message="it broke")


def job(attempt: int = 1, *retry_on: Any) -> Job:
    fresh = Job.of(Task.of("1"), Policy(), retry_on=retry_on)
    return fresh.model_copy(update={"attempt": attempt})


def result(status: Status, error: str = "") -> Result:
    told = ErrorInfo(type=error) if error else None
    return Result(status=status, isolation="jail", error=told)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 5), (2, 25), (3, 125)])
def test_our_failures_are_tried_again_after_five_times_as_long(attempt: int, seconds: int):
    found = retry.decide(job(attempt), OURS, lambda: 0.5)

    assert isinstance(found, Again)
    assert seconds == pytest.approx(found.delay)
    assert OURS == found.failure


@given(attempt=st.integers(1, 3), drawn=st.floats(0, 1, exclude_max=True))
def test_no_pause_is_a_fifth_off(attempt: int, drawn: float):
    found = retry.delay(attempt, lambda: drawn)

    assert 0.8 * 5**attempt <= found <= 1.2 * 5**attempt


def test_after_three_retries_it_is_given_up():
    assert Bury(OURS) == retry.decide(job(4), OURS, lambda: 0.5)


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.FAULT])
def test_what_a_program_came_to_is_a_result(status: Status):
    came = result(status)

    assert Done(came) == retry.decide(job(), came, lambda: 0.5)


def test_a_fault_is_our_failure():
    assert isinstance(retry.decide(job(), result(Status.FAULT), lambda: 0.5), Again)


def test_a_dead_workers_job_starts_again_at_once_and_not_for_ever():
    lost = Failure(kind="lost", code="worker-lost", message="silent")

    assert 3 * [Again(lost, 0.0)] == [retry.decide(job(n), lost, lambda: 0.5) for n in (1, 2, 3)]
    assert Bury(lost) == retry.decide(job(4), lost, lambda: 0.5)


def test_what_no_attempt_can_mend_is_given_up_at_once():
    refused = Failure(kind="refused", code="not-found", message="no such language")

    assert Bury(refused) == retry.decide(job(1), refused, lambda: 0.5)


@pytest.mark.parametrize(
    ("name", "came"),
    [
        ("timeout", result(Status.TIMEOUT)),
        ("memory", result(Status.MEMORY)),
        ("memory", result(Status.ERROR, "MemoryError")),
        ("oserror", result(Status.ERROR, "OSError")),
        ("oserror", result(Status.ERROR, "FileNotFoundError")),
    ],
)
def test_a_programs_own_failure_is_tried_again_where_that_is_wanted(name: str, came: Result):
    assert isinstance(retry.decide(job(1, name), came, lambda: 0.5), Again)
    assert Done(came) == retry.decide(job(1), came, lambda: 0.5)


def test_the_result_of_the_last_attempt_lies_with_the_dead_letter():
    came = result(Status.TIMEOUT)

    found = retry.decide(job(4, "timeout"), came, lambda: 0.5)

    assert isinstance(found, Bury)
    assert came == found.result


def test_other_failures_of_a_program_still_stand():
    came = result(Status.ERROR, "ValueError")

    assert Done(came) == retry.decide(job(1, "timeout", "memory", "oserror"), came, lambda: 0.5)
