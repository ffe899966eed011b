"""One line for each attempt, as JSON with the documented keys; on the log, and in a file."""

import logging
from pathlib import Path
from typing import Any

from saggar.jobs.job import Failure, Job
from saggar.jobs.queue import Outcome
from saggar.model.quantity import MiB
from saggar.model.result import Result, Status
from saggar.telemetry.log import say
from saggar.telemetry.log import to_file as begin

log = logging.getLogger("saggar.jobs")


def attempted(job: Job, came: Result[Any] | Failure, outcome: Outcome, *, recorded: bool) -> None:
    """What an attempt came to. Never code, input or output."""
    say(log, "job.attempted", **said(job, came, outcome, recorded=recorded))


def said(
    job: Job, came: Result[Any] | Failure, outcome: Outcome, *, recorded: bool
) -> dict[str, Any]:
    """The documented keys, and ours."""
    usage = came.usage if isinstance(came, Result) else None
    return {
        "task_id": job.id,
        "code_hash": job.code_hash,
        "success": isinstance(came, Result) and came.status is Status.OK,
        "execution_time_ms": round(usage.wall * 1000) if usage else None,
        "memory_used_mb": round(usage.memory / MiB, 1) if usage and usage.memory else None,
        "retry_count": job.retries,
        "worker_id": job.worker,
        "status": came.status if isinstance(came, Result) else came.code,
        "outcome": type(outcome).__name__.lower(),
        "tenant": job.tenant,
        "queue": job.queue,
        "recorded": recorded,
    }


def to_file(path: Path) -> None:
    """Write the log to a file as well; one that is moved away is begun anew."""
    begin(log, path)
