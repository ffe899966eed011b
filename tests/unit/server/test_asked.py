import pytest

from saggar import InvalidTask, Policy, PolicyDenied, Task
from saggar.jobs.job import HEAVY, job_limits
from saggar.model.limits import Limits
from saggar.server import asked


def test_the_short_form_is_a_program():
    task, _ = asked.run({"code": "1 + 1", "language": "node", "want_value": True})

    assert Task.of("1 + 1", language="node", want_value=True) == task


def test_a_task_is_what_its_own_json_says():
    task = Task.of(
        "print(1)", files={"a.bin": b"\x00\xff"}, stdin=b"\xfe", env={"A": "1"}, input=[1, 2]
    )

    found, said = asked.job({**task.model_dump(mode="json"), "priority": 3, "key": "mine"})

    assert task == found
    assert (3, "mine", False) == (said.priority, said.key, said.cache)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("print(1)", "wanted an object"),
        ({"cod": "1"}, "no field named 'cod'; did you mean 'code'"),
        ({"code": "1", "zzzz": 1}, "there are: args, "),
        ({"code": 1}, "task.program.code"),
        ({"language": "python"}, "task.program.code"),
        ({"code": "1", "program": {"code": {"kind": "inline", "text": "1"}}}, "say one of both"),
        ({"code": "1", "files": [{"path": "../x", "content": ""}]}, "files.0.path"),
        ({"code": "1", "policy": {"limits": {"wall": "soon"}}}, "policy.limits.wall"),
    ],
)
def test_what_does_not_fit_is_named(document, complaint):
    with pytest.raises(InvalidTask, match=complaint):
        asked.job(document)


def test_what_is_said_of_jobs_means_nothing_to_a_run():
    with pytest.raises(InvalidTask, match="no field named 'priority'"):
        asked.run({"code": "1", "priority": 1})


def test_a_run_has_a_runs_limits_and_a_job_those_of_its_queue():
    _, run = asked.run({"code": "1"})
    _, job = asked.job({"code": "1"})
    _, heavy = asked.job({"code": "1", "queue": HEAVY, "policy": {"network": "loopback"}})
    ceiling = Policy(limits=job_limits(HEAVY), network="loopback")

    assert Policy() == run.within(Policy())
    assert job_limits() == job.policy_within(Policy(limits=job_limits())).limits
    assert (job_limits(HEAVY), "loopback") == (
        heavy.policy_within(ceiling).limits,
        heavy.policy_within(ceiling).network.value,
    )


def test_limits_are_narrowed_and_what_cannot_be_is_denied():
    _, greedy = asked.run({"code": "1", "limits": {"wall": 3600, "memory": "64MiB"}})
    _, networked = asked.run({"code": "1", "policy": {"network": "host"}})

    assert Limits().replace(memory="64MiB") == greedy.within(Policy()).limits
    with pytest.raises(PolicyDenied):
        networked.within(Policy())
    with pytest.raises(InvalidTask, match="did you mean 'wall'"):
        asked.run({"code": "1", "limits": {"wal": 1}})[1].within(Policy())
