"""
The socket of queues: what submits, and what works off, whichever queue it is.

`Queue` is what a caller holds. `Work` is what a worker holds; `supervise` drives it.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from saggar.config import Quota
from saggar.jobs.job import Failure, Job
from saggar.model.event import Event
from saggar.model.result import Result, Status

KEPT: Final = 3600.0
"""Seconds for which a result is kept, and served to whoever submits the same."""
LEASE: Final = 8.0
"""Seconds after which a worker that says nothing is taken for dead."""
BEAT: Final = 2.0
"""Seconds between two signs of life."""
OPEN: Final = Quota()


@dataclass(frozen=True, slots=True)
class Done:
    """It has its result."""

    result: Result[Any]


@dataclass(frozen=True, slots=True)
class Again:
    """It failed and is tried again, after `delay` seconds."""

    failure: Failure
    delay: float


@dataclass(frozen=True, slots=True)
class Bury:
    """It failed for good: a dead letter, with the result if there was one."""

    failure: Failure
    result: Result[Any] | None = None


Outcome = Done | Again | Bury


@dataclass(frozen=True, slots=True)
class Terms:
    """How a job is taken in."""

    delay: float = 0.0
    quota: Quota = OPEN


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a submission: it is new, joins one that is under way, or was run before."""

    job_id: str
    came: Literal["new", "joined", "cached"]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job, until it is settled or not renewed in time."""

    job: Job
    token: str


Beat = Literal["ok", "lost", "cancel"]
"""What a renewal says: go on, somebody else has it, nobody wants it any more."""


class Queue(Protocol):
    """Where jobs wait."""

    async def submit(self, job: Job, terms: Terms) -> Receipt:
        """Take a job in. Overloaded when the tenant has enough there."""
        ...

    async def find(self, job_id: str) -> Job:
        """The job as it is now. NotFound if there is none, Expired if it was forgotten."""
        ...

    async def wait(self, job_id: str, timeout: float | None) -> Job:  # noqa: ASYNC109 - part of the promise
        """The job once it is final. TimeoutError."""
        ...

    def events(self, job_id: str) -> AsyncIterator[Event]:
        """What its run does, from the beginning, while it does it."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Nobody wants it any more: it does not start, or it is killed."""
        ...


class Work(Protocol):
    """What a worker does with a queue."""

    async def claim(self, job_id: str, worker: str) -> Lease | None:
        """The right to run it. None if it has no need of that any more."""
        ...

    async def renew(self, leases: Sequence[Lease]) -> list[Beat]:
        """A sign of life for each."""
        ...

    async def tell(self, job_id: str, events: Sequence[Event]) -> None:
        """What a run has just done, to those who watch."""
        ...

    async def settle(self, lease: Lease, outcome: Outcome) -> bool:
        """Record how an attempt ended. False: it was not ours any more, and nothing is recorded."""
        ...


def cancelled(isolation: str = "") -> Result[Any]:
    """The result of a job that nobody wanted any more."""
    return Result(status=Status.CANCELLED, isolation=isolation)


def kept(result: Result[Any] | None) -> bool:
    """Whether a result may be served to whoever submits the same: it would come out the same."""
    return result is not None and result.status in (Status.OK, Status.ERROR)
