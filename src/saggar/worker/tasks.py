"""The tasks of the Celery application, by their documented names."""

from collections.abc import Callable
from typing import Any

from celery.exceptions import Ignore

from saggar.config import Settings
from saggar.errors import PlatformError
from saggar.jobs import message
from saggar.jobs.deadletters import entry
from saggar.model.result import Status
from saggar.worker.station import Station, station


class DeadLetter(PlatformError):
    """A job was given up."""

    code = "dead-letter"


def register(app: Any, settings: Callable[[], Settings]) -> None:
    """Give the application its tasks."""

    def ours() -> Station:
        return station(settings())

    @app.task(name=message.EXECUTE, bind=True, acks_late=True)
    def execute_code_async(
        self: Any,
        code: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        *,
        job: str | None = None,
    ) -> Any:
        """Run a job; given code instead, make one of it and answer as CodeTools does."""
        return _execute(ours(), self, job, (code, timeout, idempotency_key))

    @app.task(name=message.EXECUTE_HEAVY, bind=True, acks_late=True)
    def execute_code_heavy(
        self: Any,
        code: str | None = None,
        timeout: float | None = None,
        *,
        job: str | None = None,
    ) -> Any:
        """The same with the limits of heavy work."""
        return _execute(ours(), self, job, (code, timeout, None), heavy=True)

    @app.task(name=message.BURY, acks_late=True, throws=(DeadLetter,))
    def dead_letter_handler(job: str) -> None:
        """Fail with what a dead letter says: whoever watches sees it as failed."""
        letter = entry(ours().store, job)
        error = letter["error"]
        raise DeadLetter(f"job {job} after {letter['attempts']} attempts: {error['message']}")

    @app.task(name="health_check")
    def health_check() -> dict[str, str]:
        """Whether a worker answers."""
        return {"status": "healthy", "worker": "responsive"}

    @app.task(name="cleanup_old_results")
    def cleanup_old_results() -> dict[str, int]:
        """Remove blobs that nothing refers to; whatever is in Redis ends by itself."""
        return {"blobs": ours().store.blobs.sweep()}


def _execute(
    here: Station, task: Any, job: str | None, said: tuple[Any, ...], *, heavy: bool = False
) -> Any:
    worker = task.request.hostname
    if job is not None:
        found = here.execute(job, worker)
        if found and found.result and found.result.status is Status.CANCELLED:
            # Who watches would otherwise see it succeed: the task has done its part.
            task.send_event("task-revoked", terminated=True, signum=None, expired=False)
            raise Ignore
        return found and found.result and str(found.result.status)
    from saggar.functions.codetools import direct

    code, timeout, key = said
    return direct(here, code, worker, timeout=timeout, key=key, heavy=heavy)
