from typing import Any

import pytest

from saggar import InvalidTask, Limits, NotFound, PlatformError, Policy, PolicyDenied, Result, Task
from saggar.config import Quota, Settings
from saggar.errors import DriverUnavailable, Expired
from saggar.jobs.job import HEAVY, Failure, Job, job_limits
from saggar.jobs.submission import ended, policy_of, prepare, unread

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


def test_what_was_made_with_secrets_is_not_served_to_the_next():
    """Only their names lie in what is kept; their values may be others by then."""
    said = TASK.replace(secrets=("DB_URL",))

    assert "key:mine" == prepare(Settings(), said, Policy(), key="mine")[0].key
    with pytest.raises(InvalidTask, match="cache: what was made with secrets"):
        prepare(Settings(), said, Policy(), cache=True)


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


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"delay": "5s"}, "delay: wanted seconds as a number, found '5s'"),
        ({"delay": True}, "delay: wanted seconds"),
        ({"key": 5}, "key: wanted text, found 5"),
        ({"cache": "yes"}, "cache: wanted True or False"),
        ({"webhook": 5}, "webhook: wanted a URL as text, found 5"),
        ({"priority": True}, "priority: wanted a whole number from 0 to 9, found True"),
        ({"priority": "1"}, "priority: wanted"),
        ({"queue": None}, "queue: wanted a name, found None"),
        ({"retry_on": "timeout"}, "retry_on: wanted several of timeout, memory, oserror"),
    ],
)
def test_what_is_of_another_kind_is_told_with_what_was_wanted(said: dict, wanted: str):
    with pytest.raises(InvalidTask, match=wanted):
        prepared(**said)


def test_a_policy_and_limits_of_another_kind_are_told():
    with pytest.raises(InvalidTask, match=r"policy: wanted a saggar\.Policy, found \{\}"):
        policy_of(Settings(), {}, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidTask, match=r"limits: wanted saggar\.Limits or a mapping, found 5"):
        policy_of(Settings(), None, 5)  # type: ignore[arg-type]


def test_a_language_that_nobody_speaks_is_refused_before_it_is_queued():
    with pytest.raises(NotFound, match="no language named 'cobol'"):
        prepare(Settings(), Task.of("1", language="cobol"), Policy())


def test_who_reads_a_queue_of_ones_own_is_said():
    assert "start one: celery -A saggar.worker worker --queue=mine" in unread("mine")
    assert unread("code_execution").endswith("celery -A saggar.worker worker")


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
