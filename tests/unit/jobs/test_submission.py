from typing import Any

import pytest

from saggar import InvalidTask, Limits, NotFound, PlatformError, Policy, PolicyDenied, Result, Task
from saggar.config import Quota, Settings
from saggar.errors import DriverUnavailable, Expired
from saggar.jobs.job import HEAVY, Failure, Job, job_limits
from saggar.jobs.submission import ended, policy_of, prepare

TASK = Task.of("print(1)")


def prepared(settings: Settings | None = None, **said: Any) -> Job:
    return prepare(settings or Settings(), TASK, Policy(), **said)[0]


def test_a_job_has_more_time_and_memory_than_a_run():
    assert job_limits() == policy_of(Settings(), None, None).limits
    assert job_limits(HEAVY) == policy_of(Settings(), None, None, HEAVY).limits
    assert job_limits(wall=3) == policy_of(Settings(), None, {"wall": 3}).limits
    assert Limits() == policy_of(Settings(), Policy(), None).limits


def test_a_ceiling_holds_before_anything_is_queued():
    settings = Settings(ceiling=Policy(limits=Limits(wall=7)))

    assert 7 == policy_of(settings, None, None).limits.wall


def test_a_task_that_its_policy_denies_is_not_queued():
    with pytest.raises(PolicyDenied):
        prepare(Settings(), TASK, Policy(accept=frozenset({"named"})))


def test_only_what_is_wanted_is_shared():
    assert "" == prepared().key
    assert prepared(cache=True).key == prepared(cache=True).key != ""
    assert "key:mine" == prepared(key="mine").key == prepared(key="mine", cache=True).key


@pytest.mark.parametrize(
    "said", [{"key": "x" * 201}, {"key": "a\n"}, {"delay": -1}, {"delay": 1e9}, {"priority": 11}]
)
def test_what_is_not_well_formed_is_refused(said: dict):
    with pytest.raises(InvalidTask):
        prepared(**said)


def test_a_misspelled_option_is_told():
    with pytest.raises(NotFound, match="did you mean 'priority'"):
        prepared(prioritty=1)


def test_settings_say_what_is_tried_again_unless_the_caller_does():
    settings = Settings(retry_on="timeout,oserror")

    assert ("timeout", "oserror") == prepared(settings).retry_on
    assert ("memory",) == prepared(settings, retry_on=["memory"]).retry_on
    assert () == prepared(settings, retry_on=()).retry_on


def test_each_tenant_has_his_quota():
    settings = Settings(quota=Quota(waiting=5), tenants={"big": Quota(waiting=50)})

    assert 5 == prepare(settings, TASK, Policy(), tenant="any")[1].quota.waiting
    assert 50 == prepare(settings, TASK, Policy(), tenant="big")[1].quota.waiting


def test_our_failure_is_raised_as_what_it_was():
    def dead(code: str) -> Job:
        failure = Failure(kind="ours", code=code, message="why")
        return Job.of(TASK, Policy()).model_copy(update={"failure": failure})

    with pytest.raises(DriverUnavailable, match="why"):
        ended(dead("driver-unavailable"))
    with pytest.raises(PlatformError, match="why"):
        ended(dead("worker-lost"))


def test_a_result_goes_before_a_failure():
    result: Result = Result(status="timeout", isolation="jail")
    job = Job.of(TASK, Policy()).model_copy(
        update={"result": result, "failure": Failure(kind="theirs", code="timeout", message="")}
    )

    assert result == ended(job)
    with pytest.raises(Expired):
        ended(Job.of(TASK, Policy()))
