"""
Which jobs there are, the newest first: what one sees of each without its code and its result.

Jobs that are forgotten are not among them. Looks at as many as it must to find as many as were
asked for, and not at all of a long history.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from saggar.jobs import keys
from saggar.jobs.job import JobState
from saggar.jobs.store import Store

AT_ONCE: Final = 500
MOST: Final = 50_000
"""Jobs that one question looks at."""
_FIELDS: Final = (
    "state", "status", "tenant", "queue", "priority", "attempt", "created", "started", "finished",
    "worker",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Listed:
    """A job as it is listed."""

    id: str
    state: str
    status: str | None
    """Of its result, if it has one."""
    tenant: str
    queue: str
    priority: int
    attempts: int
    created: float
    started: float | None
    finished: float | None
    worker: str | None


def ls(
    store: Store, *, state: JobState | None = None, tenant: str | None = None, limit: int = 100
) -> list[Listed]:
    """The newest of them; those in one state, of one tenant, if they are named."""
    found: list[Listed] = []
    for job in _all(store):
        if len(found) >= limit:
            break
        if state in (None, job.state) and tenant in (None, job.tenant):
            found.append(job)
    return found


def beginning(store: Store, prefix: str) -> list[str]:
    """The ids that begin so, the newest first; for people, who do not type all of one."""
    with store.guarded():
        found = store.jobs.zrevrange(keys.JOBS, 0, MOST - 1)
    return [name.decode() for name in found if name.startswith(prefix.encode())]


def _all(store: Store) -> Iterator[Listed]:
    for start in range(0, MOST, AT_ONCE):
        with store.guarded():
            ids = store.jobs.zrevrange(keys.JOBS, start, start + AT_ONCE - 1)
            asked = store.jobs.pipeline(transaction=False)
            for name in ids:
                asked.hmget(keys.record(name.decode()), _FIELDS)
            rows = asked.execute()
        for name, row in zip(ids, rows, strict=True):
            if row[0] is not None:
                yield _listed(name.decode(), [word and word.decode() for word in row])
        if len(ids) < AT_ONCE:
            return


def _listed(job_id: str, row: list[str | None]) -> Listed:
    state, status, tenant, queue, priority, attempt, created, started, finished, worker = row
    return Listed(
        id=job_id,
        state=str(state),
        status=status or None,
        tenant=str(tenant),
        queue=str(queue),
        priority=int(priority or 0),
        attempts=int(attempt or 0),
        created=float(created or 0) / 1000,
        started=float(started) / 1000 if started else None,
        finished=float(finished) / 1000 if finished else None,
        worker=worker,
    )
