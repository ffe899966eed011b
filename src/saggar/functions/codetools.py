"""
`CodeTools`: code as text in, a dictionary with plain keys out; at once, or by a worker.

The face that agents of older systems were written for. What it adds to `saggar.run` and
`saggar.submit` is its keys, its defaults, and that waiting always ends.
"""

import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from saggar.config import Settings, load
from saggar.errors import InvalidTask, SaggarError
from saggar.functions import sourcetext
from saggar.jobs.job import HEAVY, STANDARD, Failure, Job, code_hash, job_limits
from saggar.jobs.queue import Receipt, Terms
from saggar.jobs.submission import SyncDesk, SyncJob, desk, ended, prepare, unread
from saggar.model.environment import Environment
from saggar.model.policy import Policy
from saggar.model.quantity import MiB
from saggar.model.result import Result, Status
from saggar.model.task import Task
from saggar.platform import run

PATIENCE: Final = 30.0
"""Seconds beyond its timeout for which a job is waited for."""
KEYS: Final = (
    "success", "stdout", "stderr", "returncode", "task_id", "code_hash", "execution_time_ms",
    "memory_used_mb", "retry_count", "timestamp", "worker_id", "status", "message",
)  # fmt: skip
"""All keys of every answer; None where there is nothing to say."""


class CodeTools:
    """Runs code, and looks at it."""

    @staticmethod
    def execute_code(  # noqa: PLR0913 - as it is documented
        code: str,
        timeout: float | None = None,
        async_mode: bool = False,  # noqa: FBT001, FBT002
        wait_for_result: bool = True,  # noqa: FBT001, FBT002
        *,
        idempotency_key: str | None = None,
        cache: bool = True,
    ) -> dict[str, Any]:
        """
        Run code in a sandbox of its own, with the packages that SAGGAR_CODE_ENVIRONMENT names.

        Args:
            code: Python source.
            timeout: Seconds until it is interrupted, 90 if not said; 30 later it is killed.
            async_mode: By a worker; else here, while the caller waits.
            wait_for_result: Whether a worker's result is waited for, `timeout` + 30 s at most.
            idempotency_key: What makes another call the same one; else that its code is the same.
            cache: Whether the result of the same code, at most an hour old, will do.

        Returns:
            success stdout stderr returncode task_id code_hash execution_time_ms memory_used_mb
            retry_count timestamp worker_id status message. What has not ended in time has
            `status: "pending"`, `success: None` and the reason as message.

        Raises:
            UsageError: The code cannot be run like that.
            PlatformError: We could not do our part.
        """
        settings = load()
        task, policy = _asked(settings, code, timeout)
        if not async_mode:
            return answer_of(run(task, policy=policy), code_hash(task))
        at = desk(settings)
        job = at.submit(task, policy, key=idempotency_key, cache=cache)
        if not wait_for_result:
            return _unfinished(job.id, "submitted", "the job was submitted", code_hash(task))
        return _waited(at, job, policy.limits.wall + PATIENCE)

    @staticmethod
    def get_task_result(task_id: str, timeout: float = 30) -> dict[str, Any]:
        """
        The result of a job, once it is there; the same keys as from `execute_code`.

        Raises:
            NotFound: There is no such job.
            Expired: Its result is no longer kept.
        """
        at = desk(load())
        return _waited(at, at.of(task_id), timeout)

    @staticmethod
    def validate_syntax(code: str) -> tuple[bool, str]:
        """Whether it is Python, and if not, where. Like all that follow it runs nothing."""
        found = sourcetext.problem(code)
        return not found, found or "the syntax is valid"

    @staticmethod
    def format_code(code: str) -> str:
        """
        The same program in the form of black, its imports in the order of isort.

        Raises:
            InvalidTask: It is not Python.
            UsageError: Ruff is not installed, which does that.
        """
        return sourcetext.formatted(code)

    @staticmethod
    def extract_dependencies(code: str) -> list[str]:
        """The packages that it imports and Python does not bring along, sorted. InvalidTask."""
        return sourcetext.dependencies(code)

    @staticmethod
    def add_docstrings(code: str) -> str:
        """The program with a docstring for each function and class that has none. InvalidTask."""
        return sourcetext.documented(code)

    @staticmethod
    def check_code_quality(code: str) -> dict[str, Any]:
        """
        valid_syntax line_count function_count class_count has_docstrings has_type_hints
        complexity_score, which is McCabe's: 1, and 1 for each way to branch.
        """
        return sourcetext.quality(code)


def environment(named: str) -> Environment:
    """What a setting means: "host", "bare", or requirements."""
    match named.strip():
        case "host" | "":
            return Environment.host()
        case "bare":
            return Environment()
        case requirements:
            return Environment(packages=tuple(requirements.replace(",", " ").split()))


def _asked(
    settings: Settings, code: str, timeout: float | None, queue: str = STANDARD
) -> tuple[Task, Policy]:
    if not isinstance(code, str):
        raise InvalidTask(f"code: wanted text, found {type(code).__name__}")
    around = environment(settings.code_environment)
    limits = job_limits(queue)
    if timeout is not None:
        limits = job_limits(queue, wall=timeout, cpu=max(limits.cpu, timeout + limits.grace))
    policy = Policy(limits=limits, host_packages=around.host_packages)
    if settings.ceiling is not None:
        policy = policy.within(settings.ceiling)
    task = Task.of(code, environment=around)
    policy.admit(task)
    return task, policy


def _waited(at: SyncDesk, job: SyncJob, timeout: float) -> dict[str, Any]:
    try:
        found = job.wait(timeout)
    except TimeoutError:
        return _pending(at, job.job(), timeout)
    if found.result is None and found.failure is not None:
        return _given_up(found, found.failure)
    return answer(found)


def _given_up(job: Job, failure: Failure) -> dict[str, Any]:
    """A job that has no result and will not get one."""
    finished = datetime.fromtimestamp(job.finished or job.created, UTC).isoformat()
    said = f"{failure.code}: {failure.message}"
    beside = {"success": False, "retry_count": job.retries, "timestamp": finished}
    return {
        **_unfinished(job.id, str(job.state), said, job.code_hash),
        **beside,
        "worker_id": job.worker,
    }


def _pending(at: SyncDesk, job: Job, timeout: float) -> dict[str, Any]:
    """Why there is nothing yet."""
    why = f"the job is {job.state} after {timeout:g} s"
    if job.state != "running" and not at.store.alive(job.queue):
        why = unread(job.queue)
    return _unfinished(job.id, "pending", why, job.code_hash)


def _unfinished(task_id: str, status: str, message: str, hashed: str) -> dict[str, Any]:
    said = {"task_id": task_id, "status": status, "message": message, "code_hash": hashed}
    return {**dict.fromkeys(KEYS), **said}


def answer(job: Job) -> dict[str, Any]:
    """A job that is final, under the documented keys."""
    result = ended(job)
    finished = job.finished or job.created
    return {
        **answer_of(result, job.code_hash),
        "task_id": job.id,
        "retry_count": job.retries,
        "timestamp": datetime.fromtimestamp(finished, UTC).isoformat(),
        "worker_id": job.worker,
    }


def answer_of(result: Result[Any], hashed: str) -> dict[str, Any]:
    """A result under the documented keys."""
    usage = result.usage
    return {
        "success": result.status is Status.OK,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "returncode": _returncode(result),
        "task_id": None,
        "code_hash": hashed,
        "execution_time_ms": round(usage.wall * 1000),
        # The guest's own peak: what the worker weighs is nobody's business here.
        "memory_used_mb": None if usage.memory is None else round(usage.memory / MiB, 1),
        "retry_count": 0,
        "timestamp": datetime.now(UTC).isoformat(),
        "worker_id": None,
        "status": str(result.status),
        "message": None if result.ok else result.summary(),
    }


def _returncode(result: Result[Any]) -> int:
    """As `subprocess` has it: negative for the signal that ended it."""
    if result.exit_code is not None:
        return result.exit_code
    if result.signal is not None:
        return -int(getattr(signal, result.signal, signal.SIGKILL))
    return 0 if result.ok else 1


def direct(  # noqa: PLR0913 - what the documented tasks take
    here: Any,
    code: str | None,
    worker: str,
    *,
    timeout: float | None = None,
    key: str | None = None,
    heavy: bool = False,
) -> Mapping[str, Any]:
    """For somebody who sends the Celery task itself: his code becomes a job, and is run here."""
    if code is None:
        raise InvalidTask("the task needs code, or the id of a job")
    task, policy = _asked(here.settings, code, timeout, HEAVY if heavy else STANDARD)
    job, terms = prepare(here.settings, task, policy, key=key, queue=HEAVY if heavy else STANDARD)
    receipt: Receipt = here.store.submit(job, Terms(delay=-0.001, quota=terms.quota))
    if receipt.came == "new":
        here.execute(receipt.job_id, worker)
    try:
        return answer(here.store.wait(receipt.job_id, policy.limits.wall + PATIENCE))
    except SaggarError as exc:
        return _unfinished(receipt.job_id, exc.code, str(exc), job.code_hash)
