"""The tasks of the Celery application, by their documented names."""

import shlex
import subprocess
from collections.abc import Callable
from typing import Any, Final

from saggar.config import Settings
from saggar.errors import PlatformError
from saggar.jobs import message, webhooks
from saggar.jobs.deadletters import entry
from saggar.worker.station import Station, station

ALERT: Final = 30
"""Seconds for whoever is told of a dead letter."""


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
        """Tell of a dead letter, and fail with what it says: whoever watches sees it as failed."""
        letter = entry(ours().store, job)
        alert(settings(), letter)
        error = letter["error"]
        raise DeadLetter(f"job {job} after {letter['attempts']} attempts: {error['message']}")

    @app.task(name="deliver_webhook", acks_late=True)
    def deliver_webhook(job: str, url: str) -> bool:
        """Tell a job's end to whoever asked for that; what fails comes again."""
        said = settings()
        private, secret = said.private_webhooks, said.webhook_secret
        return webhooks.deliver(ours().store, job, url, private=private, secret=secret)

    @app.task(name="health_check")
    def health_check() -> dict[str, str]:
        """Whether a worker answers."""
        return {"status": "healthy", "worker": "responsive"}

    @app.task(name="cleanup_old_results")
    def cleanup_old_results() -> dict[str, int]:
        """Remove blobs that nothing refers to; whatever is in Redis ends by itself."""
        from saggar.jobs.blobs import WAITING

        return {"blobs": ours().store.blobs.sweep(WAITING)}


def _execute(
    here: Station, task: Any, job: str | None, said: tuple[Any, ...], *, heavy: bool = False
) -> Any:
    worker = task.request.hostname
    if job is not None:
        found = here.execute(job, worker)
        return found and found.result and str(found.result.status)
    from saggar.functions.codetools import direct

    code, timeout, key = said
    return direct(here, code, worker, timeout=timeout, key=key, heavy=heavy)


def alert(settings: Settings, letter: dict[str, Any]) -> None:
    """Tell the operator of a dead letter, in the way he chose; a command reads it as JSON."""
    import json

    hook, data = settings.dead_letter_alert, json.dumps(letter).encode()
    if not hook:
        return
    if hook.startswith(("http://", "https://")):
        webhooks.post(hook, data, private=True)  # the operator's own choice
        return
    subprocess.run(shlex.split(hook), input=data, timeout=ALERT, check=True)
