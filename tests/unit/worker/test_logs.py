import json
import logging
from pathlib import Path

from saggar import Policy, Result, Status, Task
from saggar.jobs.job import Failure, Job
from saggar.jobs.queue import Again, Done
from saggar.model.result import Usage
from saggar.worker import logs

JOB = Job.of(Task.of("secret = 1"), Policy()).model_copy(
    update={"attempt": 2, "worker": "celery@worker1"}
)


def test_an_attempt_is_told_with_the_documented_keys():
    usage = Usage(wall=1.234, memory=47_395_635)
    came: Result = Result(status=Status.OK, isolation="jail", usage=usage, stdout_bytes=b"secret")

    found = logs.said(JOB, came, Done(came), recorded=True)

    assert {
        "task_id": JOB.id,
        "code_hash": JOB.code_hash,
        "success": True,
        "execution_time_ms": 1234,
        "memory_used_mb": 45.2,
        "retry_count": 1,
        "worker_id": "celery@worker1",
    }.items() <= found.items()
    assert "secret" not in json.dumps(found)


def test_a_failure_of_ours_is_no_success():
    failure = Failure(kind="ours", code="sandbox-broken", message="secret")

    found = logs.said(JOB, failure, Again(failure, 5), recorded=True)

    assert (False, "sandbox-broken", "again") == (
        found["success"], found["status"], found["outcome"],
    )  # fmt: skip
    assert "secret" not in json.dumps(found)


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path):
    path = tmp_path / "logs" / "app.log"
    before = list(logs.log.handlers)
    logs.to_file(path)
    handler = next(each for each in logs.log.handlers if each not in before)
    try:
        logs.log.info("one")
        path.rename(tmp_path / "old.log")
        logs.log.info("two")
    finally:
        logs.log.removeHandler(handler)
        handler.close()
        logs.log.setLevel(logging.NOTSET)

    assert "two" in path.read_text()
    assert "one" not in path.read_text()
