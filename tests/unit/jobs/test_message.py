"""What Celery is told; that the form is Celery's own is in tests/integration/test_jobs.py."""

import json
from base64 import b64decode

from saggar import Limits, Policy, Task
from saggar.jobs import message
from saggar.jobs.job import HEAVY, Job

LIMITS = Limits(wall=90, grace=30)


def job(task: Task | None = None, **fields: str) -> Job:
    return Job.of(task or Task.of("secret = 1"), Policy(limits=LIMITS), **fields)


def test_a_message_names_the_job_and_carries_none_of_its_code():
    wanted = job()

    found = json.loads(message.execution(wanted))
    _, kwargs, _ = json.loads(b64decode(found["body"]))

    assert {"job": wanted.id} == kwargs
    assert (wanted.id, "execute_code_async") == (found["headers"]["id"], found["headers"]["task"])
    assert b"secret" not in message.execution(wanted)


def test_heavy_jobs_are_another_task_of_another_queue():
    found = json.loads(message.execution(job(queue=HEAVY)))

    assert "execute_code_heavy" == found["headers"]["task"]
    assert HEAVY == found["properties"]["delivery_info"]["routing_key"]


def test_celerys_limits_are_nets_below_ours():
    assert [151, 136] == json.loads(message.execution(job()))["headers"]["timelimit"]


def test_what_is_installed_first_has_its_time():
    assert (751, 736) == message.nets(job(Task.of("1", packages="numpy")))
    assert (751, 736) == message.nets(job(Task.of("1", language="go")))


def test_what_starts_anew_is_the_same_job_and_another_task():
    """Celery's workers drop what has the id of a task that was revoked."""
    wanted = job()

    found = json.loads(message.repetition(wanted))
    _, kwargs, _ = json.loads(b64decode(found["body"]))

    assert {"job": wanted.id} == kwargs
    assert found["headers"]["id"].startswith(f"{wanted.id}-")


def test_no_two_messages_have_the_same_tag():
    tags = {json.loads(message.execution(job()))["properties"]["delivery_tag"] for _ in range(10)}

    assert 10 == len(tags)
