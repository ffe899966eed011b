"""
A job: a run that waits for its turn. Values and their states, without any queue.

What a job is allowed to be next is a table here; queues only store what it says.
"""

import hashlib
import math
import re
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self
from uuid import uuid4

from pydantic import AfterValidator, Field

from saggar.config import RETRIED
from saggar.errors import Conflict, InvalidTask
from saggar.model.digest import digest
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.program import Inline
from saggar.model.quantity import MiB, format_bytes
from saggar.model.result import Result
from saggar.model.task import Task
from saggar.model.value import Value

STANDARD: Final = "code_execution"
HEAVY: Final = "code_execution_heavy"
DEAD: Final = "dead_letter"
"""The list of dead letters; no queue can have its name, or envelopes would lie among letters."""
_THEIRS: Final = ("unacked", "celery-task", "celeryev", "chord-")
"""What names of Celery's and kombu's own keys begin with: in a queue of one neither would work."""
LARGEST_CODE: Final = 1 * MiB
"""Code of one job as text; what is larger belongs in a file or a package."""
ORDINARY: Final = 5
_LIBRARIES: Final = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "NUMBA", "RAYON")
_THREADS: Final = (*(f"{name}_NUM_THREADS" for name in _LIBRARIES), "VECLIB_MAXIMUM_THREADS")


class JobState(StrEnum):
    """Where a job is."""

    DELAYED = "delayed"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing follows by itself."""
        return self in (JobState.DONE, JobState.DEAD, JobState.CANCELLED)

    @property
    def waits(self) -> bool:
        """Whether somebody has to come and run it."""
        return self in (JobState.DELAYED, JobState.QUEUED)


NEXT: Final = {
    JobState.DELAYED: {JobState.QUEUED, JobState.CANCELLED},
    JobState.QUEUED: {JobState.RUNNING, JobState.CANCELLED},
    JobState.RUNNING: {
        JobState.DONE,
        JobState.DELAYED,  # to be tried again
        JobState.QUEUED,  # its worker is gone
        JobState.DEAD,
        JobState.CANCELLED,
    },
    JobState.DONE: set(),
    # Only because somebody asks for it.
    JobState.DEAD: {JobState.QUEUED},
    JobState.CANCELLED: {JobState.QUEUED},
}
"""What may follow on each state."""


def _queue(name: str) -> str:
    taken = name == DEAD or name.startswith(_THEIRS) or name.endswith(".pidbox")
    if taken or not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
        raise ValueError(f"wanted the name of a queue such as {STANDARD!r}, found {name!r:.80}")
    return name


def _tenant(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", name):
        raise ValueError(f"wanted a tenant such as 'team-a', found {name!r:.80}")
    return name


QueueName = Annotated[str, AfterValidator(_queue)]
TenantName = Annotated[str, AfterValidator(_tenant)]


class Failure(Value):
    """Why an attempt came to nothing."""

    kind: Literal["ours", "theirs", "lost", "refused"]
    """Our failure, the program's own, a worker that died, what no attempt can mend."""
    code: str
    """The slug of the error, or the status of the result."""
    message: str


class Job(Value):
    """A run, deferred."""

    id: str
    task: Task | None = None
    """None: it ended well, and its code is not kept."""
    policy: Policy = Policy.model_construct()
    tenant: TenantName = "default"
    queue: QueueName = STANDARD
    priority: Annotated[int, Field(ge=0, le=9)] = ORDINARY
    """Among jobs of its tenant; 0 is first."""
    retry_on: tuple[Literal["timeout", "memory", "oserror"], ...] = ()
    webhook: str = ""
    code_hash: str = ""
    """SHA-256 of the code's text."""
    key: str = ""
    """What makes another submission the same one; empty: nothing does."""
    state: JobState = JobState.QUEUED
    attempt: int = 0
    """How often it was started."""
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    worker: str | None = None
    failure: Failure | None = None
    """Of its last attempt, if that came to nothing."""
    result: Result[Any] | None = None

    @classmethod
    def of(cls, task: Task, policy: Policy, **fields: Any) -> Self:
        """
        A new job, with an id of its own.

        Raises:
            InvalidTask: It is not well formed, or its code is larger than a queue carries.
        """
        return cls(
            id=str(uuid4()),
            task=threaded(_sized(task), policy.limits),
            policy=policy,
            code_hash=code_hash(task),
            **fields,
        )

    @property
    def retries(self) -> int:
        """Starts beyond the first."""
        return max(0, self.attempt - 1)

    def to(self, state: JobState, **changes: Any) -> Self:
        """The same job in its next state. Conflict if that cannot follow."""
        if state not in NEXT[self.state]:
            raise Conflict(f"job {self.id} is {self.state}, which cannot become {state}")
        return self.model_copy(update={"state": state, **changes})


def job_limits(queue: str = STANDARD, **changes: Any) -> Limits:
    """What a job may consume if nobody says otherwise: more than a run that is waited for."""
    wall, grace = (240, 60) if queue == HEAVY else (90, 30)
    return Limits(
        **{
            "wall": wall,
            "grace": grace,
            "cpu": max(120, wall + grace if queue == HEAVY else 0),
            "memory": "1GiB",
            "file_size": 100_000_000,
            "disk": 200_000_000,
            "processes": 10,
            **changes,
        }
    )


def code_hash(task: Task) -> str:
    """SHA-256 of the code's text, as hexadecimal digits; of its JSON where it is no text."""
    code = task.program.code
    text = code.text if isinstance(code, Inline) else code.model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()


def same(task: Task, policy: Policy) -> str:
    """What two submissions of the same work have in common: all that can change a result."""
    return f"{digest(task)}+{digest(policy)}"


def threaded(task: Task, limits: Limits) -> Task:
    """
    The task, told how many threads it has processors for.

    Libraries for numbers start a thread for each processor of the host: ten processes are soon
    too few, and the threads would wait for each other.
    """
    number = str(math.ceil(limits.cpu_share))
    said = dict.fromkeys(_THREADS, number)
    return task.model_copy(update={"env": {**said, **task.env}})


def retried(names: str) -> tuple[str, ...]:
    """A setting's "timeout,memory" as a job spells it."""
    return tuple(name for name in RETRIED if name in map(str.strip, names.split(",")))


def _sized(task: Task) -> Task:
    match task.program.code:
        case Inline(text=text) if len(text.encode()) > LARGEST_CODE:
            raise InvalidTask(
                f"the code weighs {len(text.encode())} bytes, a job may carry"
                f" {format_bytes(LARGEST_CODE)}: {LARGEST_CODE}; put data into files or a mount"
            )
    return task
