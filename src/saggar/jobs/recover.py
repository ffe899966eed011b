"""
What time brings: retries that are due, messages that went astray, jobs whose workers fell silent.

Every worker does all of it once a second. Whoever comes second finds nothing left to do.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from time import time
from typing import Final

from saggar.jobs import calls, retry
from saggar.jobs.job import Failure
from saggar.jobs.queue import Lease
from saggar.jobs.store import Store

EVERY: Final = 1.0
ALIVE: Final = 10.0
"""Seconds for which a worker counts as alive after it said so."""


def tick(  # noqa: PLR0913 - what a worker says of itself
    store: Store,
    worker: str,
    queues: Sequence[str],
    slots: int,
    random: Callable[[], float],
    *,
    alive: float = ALIVE,
    stuck: float = 0.0,
    name: str = "",
    room: int = 0,
    held: float = 0.0,
) -> calls.Tick:
    """Do what is due; returns what was found."""
    now, scratch = store.now(), shutil.disk_usage(tempfile.gettempdir())
    said = {
        "name": name or worker,
        "queues": list(queues),
        "slots": slots,
        "until_ms": int((now + alive) * 1000),
        "at": time(),
        "stuck": stuck,
        "scratch_free": scratch.free,
        "scratch_size": scratch.total,
    }
    found = store.ask(calls.tick(worker, said, room, held))
    for lease, silent in found.silent:
        give_up(store, lease, silent, random)
    return found


def give_up(store: Store, lease: Lease, worker: str, random: Callable[[], float]) -> bool:
    """A job whose worker is gone starts again, unless it was the death of several."""
    failure = Failure(
        kind="lost",
        code="worker-lost",
        message=f"worker {worker} fell silent during attempt {lease.job.attempt}",
    )
    job = lease.job.model_copy(update={"worker": worker})
    return store.settle(Lease(job, lease.token), retry.decide(job, failure, random))
