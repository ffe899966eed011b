"""
Jobs that were given up: plain JSON on the list `dead_letter`, newest first.

`redis-cli LRANGE dead_letter 0 -1` shows the same.
"""

import json
from typing import Any, Final

from saggar.errors import NotFound
from saggar.jobs import calls, keys
from saggar.jobs.job import DEAD
from saggar.jobs.store import Store

WRITTEN: Final = frozenset(
    ("job_id", "tenant", "queue", "error", "attempts", "buried", "code_hash", "worker")
)
"""What each letter says."""


def ls(store: Store, limit: int = 100, tenant: str | None = None) -> list[dict[str, Any]]:
    """The newest letters; of one tenant, if one is named."""
    with store.guarded():
        found = [_read(letter) for letter in store.jobs.lrange(DEAD, 0, -1)]
    return [letter for letter in found if letter and tenant in (None, letter["tenant"])][:limit]


def _read(letter: bytes) -> dict[str, Any] | None:
    """A letter; None if it is none of ours, as anybody can put something there."""
    try:
        found = json.loads(letter)
    except ValueError:
        return None
    known = isinstance(found, dict) and isinstance(found.get("error"), dict)
    return found if known and found.keys() >= WRITTEN else None


def entry(store: Store, job_id: str) -> dict[str, Any]:
    """The letter of a job. NotFound."""
    with store.guarded():
        letter = store.jobs.hget(keys.record(job_id), "letter")
    if letter is None:
        raise NotFound(f"there is no dead letter of a job {job_id!r:.80}")
    found: dict[str, Any] = json.loads(letter)
    return found


def replay(store: Store, job_id: str) -> None:
    """Start the job anew, with all its attempts. NotFound, Expired, Conflict."""
    store.ask(calls.revive(store.find(job_id)))


def drop(store: Store, job_id: str) -> None:
    """Forget it. NotFound."""
    if not store.ask(calls.drop(job_id)):
        raise NotFound(f"there is no dead letter of a job {job_id!r:.80}")
