"""
Who is told of the end of a job, by a worker's main process: webhooks, and of dead letters an alert.

Apart from the jobs, so that no receiver who is slow takes the place of one. Each has a thread while
he is told, which is a few seconds; there are as many threads as there are places, and none else:
what has no place stays in the queue, for another worker.
"""

import json
import logging
import shlex
import subprocess
import threading
from typing import Any, Final

from saggar.config import Settings
from saggar.errors import NotFound, QueueUnavailable, SaggarError
from saggar.jobs import calls, webhooks
from saggar.jobs.deadletters import entry
from saggar.jobs.store import Store
from saggar.telemetry.log import warn

PLACES: Final = 8
TRIES: Final = 4
HELD: Final = 60.0
"""Seconds after which one that was handed to a worker who then fell silent comes again."""
ALERT: Final = 30
"""Seconds for a command that is told of a dead letter."""
ALERTED: Final = "alert:"
"""What stands for the operator among the URLs."""
log = logging.getLogger("saggar.jobs")


class Deliveries:
    """What is being told now."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._taken = 0
        self._turn = threading.Lock()

    @property
    def room(self) -> int:
        """How many more can be told now."""
        return PLACES - self._taken

    def start(self, job_id: str, url: str, tries: int) -> None:
        """Tell somebody of the end of a job; when he could not be told, he is to be later."""
        with self._turn:
            self._taken += 1
        # Nobody waits for it: what ends with us comes again.
        threading.Thread(target=self._tell, args=(job_id, url, tries), daemon=True).start()

    def _tell(self, job_id: str, url: str, tries: int) -> None:
        try:
            self._store.ask(self._told(job_id, url, tries))
        except QueueUnavailable as exc:  # then it comes again by itself
            log.warning("queue.unavailable %s", exc)
        finally:
            with self._turn:
                self._taken -= 1

    def _told(self, job_id: str, url: str, tries: int) -> calls.Call[None]:
        try:
            if url == ALERTED:
                alert(self._settings, self._store, job_id)
            else:
                private, secret = self._settings.private_webhooks, self._settings.webhook_secret
                webhooks.deliver(self._store, job_id, url, private=private, secret=secret)
        except NotFound:
            pass  # it was dropped or replayed meanwhile
        except (SaggarError, OSError, ValueError, subprocess.SubprocessError) as exc:
            name = "alert.failed" if url == ALERTED else "webhook.failed"
            warn(log, name, task_id=job_id, tries=tries, why=str(exc)[:200])
            if tries >= TRIES:
                return calls.given_up(job_id, url)
            return calls.tell_later(job_id, url, 5.0**tries)
        return calls.told(job_id, url)


def alert(settings: Settings, store: Store, job_id: str) -> None:
    """Tell the operator of a dead letter, in the way he chose; a command reads it as JSON."""
    hook = settings.dead_letter_alert
    if not hook:
        return
    letter: dict[str, Any] = entry(store, job_id)
    data = json.dumps(letter).encode()
    if hook.startswith(("http://", "https://")):
        webhooks.post(hook, data, private=True)  # the operator's own choice
        return
    subprocess.run(shlex.split(hook), input=data, timeout=ALERT, check=True)
