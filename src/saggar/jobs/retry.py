"""
Whether an attempt that failed is followed by another, and when.

Pure: randomness is passed in, and nothing here waits.
"""

from collections.abc import Callable
from typing import Any, Final

from saggar.jobs.job import Failure, Job
from saggar.jobs.queue import Again, Bury, Done, Outcome
from saggar.model.result import Result, Status

RETRIES: Final = 3
JITTER: Final = 0.2
_OS_ERRORS: Final = frozenset(
    f"{name}Error"
    for name in (
        "OS", "IO", "Environment", "BlockingIO", "ChildProcess", "Connection", "BrokenPipe",
        "ConnectionAborted", "ConnectionRefused", "ConnectionReset", "FileExists", "FileNotFound",
        "Interrupted", "IsADirectory", "NotADirectory", "Permission", "ProcessLookup", "Timeout",
    )
)  # fmt: skip


def delay(attempt: int, random: Callable[[], float]) -> float:
    """Seconds before the next attempt: 5, 25, 125, a fifth more or less."""
    return 5.0**attempt * (1 - JITTER + 2 * JITTER * random())


def decide(job: Job, came: Result[Any] | Failure, random: Callable[[], float]) -> Outcome:
    """What becomes of a job whose current attempt came to this."""
    result = None if isinstance(came, Failure) else came
    failure = came if isinstance(came, Failure) else reason(job, came)
    if failure is None:
        assert result is not None  # noqa: S101 - or there were a failure
        return Done(result)
    if failure.kind == "refused" or job.attempt > RETRIES:
        return Bury(failure=failure, result=result)
    # A worker's death is seldom the job's doing, and somebody waits: it starts again at once.
    wait = 0.0 if failure.kind == "lost" else delay(job.attempt, random)
    return Again(failure=failure, delay=wait)


def reason(job: Job, result: Result[Any]) -> Failure | None:
    """Why a result is not to stand. None: it stands, as a program's own failure does."""
    if result.status is Status.FAULT:
        return Failure(kind="ours", code="fault", message=result.summary())
    if any(_is(name, result) for name in job.retry_on):
        return Failure(kind="theirs", code=result.status, message=result.summary())
    return None


def _is(name: str, result: Result[Any]) -> bool:
    error = result.error.type if result.error and result.status is Status.ERROR else ""
    match name:
        case "timeout":
            return result.status is Status.TIMEOUT
        case "memory":
            return result.status is Status.MEMORY or error == "MemoryError"
        case "oserror":
            return error in _OS_ERRORS
    return False
