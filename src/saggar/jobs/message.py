"""
Celery's message for a job, as Celery's own producer would write it.

Made here, so that a job and its message come into being in one step: the script that takes a job
in puts the message into Celery's list, now or when it is the job's turn. And whoever submits needs
no Celery. The form is Celery's task message protocol, version 2, in kombu's envelope for Redis;
a test holds ours beside theirs.
"""

import json
import os
import socket
from base64 import b64encode
from typing import Any, Final

from saggar.jobs.job import HEAVY, Job

EXECUTE: Final = "execute_code_async"
EXECUTE_HEAVY: Final = "execute_code_heavy"
BURY: Final = "dead_letter_handler"
OURS: Final = "saggar_job"
"""The header of messages that nobody need give back: a job whose message is lost gets another."""
TASK: Final = "TASK"
"""Where the id of a task is set in by the script that knows it."""
SOFT_NET: Final = 15
HARD_NET: Final = 30
"""Seconds after our own limits at which Celery's strike: nets, should ours not have held."""
PREPARING: Final = 600
"""Seconds for what is installed or compiled before a program starts: not part of its limits."""
_JOB_ID: Final = 36
"""Characters of a job's id."""
_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def execution(job: Job) -> bytes:
    """The message that has a worker run a job."""
    return _execution(job, job.id)


def repetition(job: Job) -> bytes:
    """
    The same for one that starts anew: another task, as far as Celery is concerned.

    What was cancelled is revoked, and Celery's workers drop what has its id for hours.
    """
    return _execution(job, f"{job.id}-{os.urandom(2).hex()}")


def _execution(job: Job, task_id: str) -> bytes:
    task = EXECUTE_HEAVY if job.queue == HEAVY else EXECUTE
    return envelope(task, job.queue, task_id, {"job": job.id}, nets(job))


def job_of(task_id: str) -> str:
    """The id of the job that a task with this id runs, if it runs one."""
    return task_id[:_JOB_ID]


def control(database: str) -> str:
    """The channel on which Celery's workers are told something."""
    return f"/{database}.celery.pidbox"


def revocation() -> bytes:
    """What is said there of a task that was cancelled, so that whoever watches knows it, too."""
    arguments = {"task_id": TASK, "terminate": False, "signal": None}
    said = {"method": "revoke", "arguments": arguments}
    everybody = dict.fromkeys(("destination", "pattern", "matcher"))
    return json.dumps(
        {
            "body": json.dumps({**said, **everybody}),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"clock": 1, "expires": 0},
            "properties": {
                "delivery_mode": 2,
                "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
                "priority": 0,
                "delivery_tag": os.urandom(8).hex(),
            },
        }
    ).encode()


def burial(job: Job) -> bytes:
    """The message that shows a dead letter to whoever watches the workers."""
    return envelope(BURY, job.queue, f"dead-{job.id}", {"job": job.id})


def nets(job: Job) -> tuple[int, int]:
    """Celery's hard and soft limit for a job: beyond what it may take, and what ending it does."""
    limits = job.policy.limits
    most = int(limits.wall + limits.grace) + 1
    program = job.task.program if job.task else None
    if program and (program.environment.packages or program.language != "python"):
        most += PREPARING
    return most + HARD_NET, most + SOFT_NET


def envelope(
    task: str,
    queue: str,
    task_id: str,
    kwargs: dict[str, Any],
    limits: tuple[int | None, int | None] = (None, None),
) -> bytes:
    """A message as it lies in a list of Redis."""
    body = json.dumps([[], kwargs, _EMBED], separators=(",", ":"))
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": limits,
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": repr(kwargs),
        "origin": f"saggar{os.getpid()}@{socket.gethostname()}",
        # Our results are not Celery's: nobody waits for what it would store.
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        **({OURS: True} if task in {EXECUTE, EXECUTE_HEAVY} else {}),
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": f"{task_id}-{os.urandom(4).hex()}",
    }
    return json.dumps(
        {
            "body": b64encode(body.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        },
        separators=(",", ":"),
    ).encode()
