import hashlib

import pytest

from saggar import Command, InvalidTask, Limits, Policy, Task
from saggar.errors import Conflict
from saggar.jobs.job import (
    HEAVY,
    NEXT,
    Job,
    JobState,
    code_hash,
    job_limits,
    retried,
    same,
    threaded,
)

TASK = Task.of("print(1)")


def test_a_new_job_is_queued_and_has_an_id_of_its_own():
    one, other = Job.of(TASK, Policy()), Job.of(TASK, Policy())

    assert JobState.QUEUED is one.state
    assert one.id != other.id
    assert (0, 0) == (one.attempt, one.retries)


def test_a_job_survives_the_wire():
    job = Job.of(TASK, Policy(), tenant="them", retry_on=("timeout",))

    assert job == Job.model_validate_json(job.model_dump_json())


@pytest.mark.parametrize("state", JobState)
def test_only_what_the_table_says_follows(state: JobState):
    job = Job.of(TASK, Policy()).model_copy(update={"state": state})

    for other in JobState:
        if other in NEXT[state]:
            assert other is job.to(other).state
        else:
            with pytest.raises(Conflict, match=f"is {state}"):
                job.to(other)


def test_what_is_final_has_an_end():
    assert [JobState.DONE, JobState.DEAD, JobState.CANCELLED] == [s for s in JobState if s.final]


def test_the_hash_of_code_is_that_of_its_text():
    expected = hashlib.sha256(b"print('\xc3\xa4')").hexdigest()

    assert expected == code_hash(Task.of("print('ä')"))
    assert expected == Job.of(Task.of("print('ä')"), Policy()).code_hash
    assert code_hash(Task.of(Command(argv=("ls",)))) != code_hash(Task.of(Command(argv=("id",))))


@pytest.mark.parametrize(
    "other",
    [
        (Task.of("print(2)"), Policy()),
        (Task.of("print(1)", input=1), Policy()),
        (Task.of("print(1)", files={"a": b""}), Policy()),
        (Task.of("print(1)", language="node"), Policy()),
        (TASK, Policy(limits=Limits(wall=9))),
    ],
)
def test_whatever_changes_a_result_makes_other_work(other: tuple[Task, Policy]):
    assert same(TASK, Policy()) == same(Task.of("print(1)"), Policy())
    assert same(TASK, Policy()) != same(*other)


@pytest.mark.parametrize(
    "fields",
    [
        {"queue": "dead_letter"},
        {"queue": "unacked"},
        {"queue": "unacked_mutex"},
        {"queue": "_kombu.binding.x"},
        {"queue": "celery-task-meta-x"},
        {"queue": "x.reply.celery.pidbox"},
        {"queue": "Code Execution"},
        {"queue": ""},
        {"tenant": "a:b"},
        {"tenant": ""},
        {"priority": 10},
        {"priority": -1},
        {"retry_on": ("luck",)},
    ],
)
def test_names_that_would_meet_others_are_refused(fields: dict):
    with pytest.raises(InvalidTask):
        Job.of(TASK, Policy(), **fields)


def test_code_is_not_larger_than_a_queue_carries():
    Job.of(Task.of("#" * 2**20), Policy())

    with pytest.raises(InvalidTask, match="may carry 1 MiB"):
        Job.of(Task.of("#" * (2**20 + 1)), Policy())
    with pytest.raises(InvalidTask):
        Job.of(Task.of("ä" * 2**19 + "#"), Policy())


def test_libraries_are_told_how_many_processors_there_are():
    one = threaded(TASK, Limits())
    three = threaded(TASK, Limits(cpu_share=2.5))
    said = threaded(Task.of("1", env={"OMP_NUM_THREADS": "7"}), Limits())

    assert "1" == one.env["OMP_NUM_THREADS"] == one.env["OPENBLAS_NUM_THREADS"]
    assert "3" == three.env["MKL_NUM_THREADS"]
    assert "7" == said.env["OMP_NUM_THREADS"]


def test_heavy_jobs_have_more_time():
    assert 120 == job_limits().wall + job_limits().grace
    assert 300 == job_limits(HEAVY).wall + job_limits(HEAVY).grace
    assert 5 == job_limits(wall=5).wall


def test_a_setting_lists_failures_to_be_tried_again():
    assert ("timeout", "memory", "oserror") == retried("timeout,memory,oserror")
    assert ("memory",) == retried(" memory , ")
    assert () == retried("")
