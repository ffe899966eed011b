"""
What all routes of `saggar serve` use: one platform, one queue, and who it is that asks.

Who calls is a tenant by his key. Without keys whoever reaches us is the operator, who says himself
for which tenant he asks.
"""

import logging
import os
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from fastapi import Request

from saggar.config import Settings, cache_dir
from saggar.errors import InvalidTask, Overloaded, PolicyDenied
from saggar.jobs.job import HEAVY, STANDARD, Job, job_limits
from saggar.jobs.store import Store
from saggar.jobs.submission import Desk, JobHandle
from saggar.model.policy import Policy
from saggar.model.quantity import GiB
from saggar.model.task import Task
from saggar.platform import Platform, admit_secrets
from saggar.server.auth import CALLER, OPERATOR
from saggar.server.room import Room
from saggar.server.uploads import Uploads

DEFAULT: Final = "default"
QUEUES: Final = (STANDARD, HEAVY)
WAITS: Final = 200
"""Requests of one tenant that wait for jobs at once; a server has a thousand for all."""
JOINED: Final = 2
INPUTS: Final = 1 * GiB
"""Bytes of inputs of all runs at once."""
PATIENCE: Final = 10.0
"""Seconds that a run waits for its turn."""
log = logging.getLogger("saggar.server")


class Service:
    """What all routes use."""

    def __init__(self, settings: Settings, platform: Platform) -> None:
        self.settings, self.platform = settings, platform
        self.desk = Desk(settings)
        self._letters: Store | None = None
        self._waiting: Counter[str] = Counter()
        self._uploads: dict[str, Uploads] = {}
        self.joining = anyio.CapacityLimiter(JOINED)
        """Whose jobs are put together of pieces, each with all its input in memory."""
        self.room = Room(INPUTS, PATIENCE)
        """For what runs are given in pieces, for as long as they run."""
        self._turns = anyio.CapacityLimiter(max(8, 4 * (os.cpu_count() or 1)))

    def ceiling(self, queue: str | None = None) -> Policy:
        """What callers may have at most: nothing, for as long as a run of theirs, or a job, may."""
        if self.settings.ceiling is not None:
            return self.settings.ceiling
        return Policy() if queue is None else Policy(limits=job_limits(queue))

    def admit(self, task: Task, policy: Policy) -> None:
        """
        Let a task pass that a worker runs, or say what of it is refused.

        A worker may have no ceiling of its own, as whoever submits there is its operator; who comes
        through this door is not.

        Raises:
            PolicyDenied: It asks for something that is the operator's to list.
        """
        policy.admit(task)
        around = task.program.environment
        if refused := set(around.preload) - set(self.settings.preload):
            raise PolicyDenied(
                f"environment.preload: {', '.join(sorted(refused))} is not on the operator's list,"
                " SAGGAR_PRELOAD; a program can import it itself"
            )
        admit_secrets(task.secrets, self.settings)
        names = {model.partition("@")[0] for model in around.models}
        listed = self.settings.models
        if refused := {name for name in names if not any(fnmatchcase(name, one) for one in listed)}:
            raise PolicyDenied(
                f"environment.models: {', '.join(sorted(refused))} is not on the operator's list,"
                " SAGGAR_MODELS: a worker would fetch it with his token"
            )

    def admit_queue(self, name: str) -> None:
        """Let a queue pass that somebody reads. InvalidTask."""
        if name not in (known := (*QUEUES, *self.settings.queues)):
            raise InvalidTask(
                f"queue: wanted one of {', '.join(known)}, found {name!r:.80}; an operator may add"
                " to them: SAGGAR_QUEUES"
            )

    @contextmanager
    def waiting(self, request: Request) -> Iterator[None]:
        """One of as many requests as a tenant may have wait for jobs at once. Overloaded."""
        owner = caller(request)
        if owner is not None and self._waiting[owner] >= WAITS:
            raise Overloaded(
                f"{WAITS} requests of yours wait for jobs; wait for fewer", retry_after=PATIENCE
            )
        key = owner or OPERATOR
        self._waiting[key] += 1
        try:
            yield
        finally:
            self._waiting[key] -= 1

    async def store(self) -> Store:
        """The queue, for what is asked of it in a thread."""
        if self._letters is None:
            await self.desk.store()  # the broker, if it is ours, is owned from here on
            self._letters = await anyio.to_thread.run_sync(Store.of, self.settings)
        return self._letters

    def uploads(self, request: Request) -> Uploads:
        """What whoever asks has left here; that of others is not there for him."""
        owner = str(request.scope.get(CALLER) or OPERATOR)
        if owner not in self._uploads:
            shared = self.settings.blobs
            root = Path(shared) if shared.startswith("/") else cache_dir(self.settings)
            most = self.settings.uploads_size
            self._uploads[owner] = Uploads(root / "uploads", owner, most)
        return self._uploads[owner]

    async def job(self, job_id: str, caller: str | None) -> Job:
        """A job of the caller's. NotFound, Expired."""
        from saggar.jobs.calls import unknown

        found = await (await self.desk.store()).find(job_id)
        if caller not in (None, found.tenant):
            raise unknown(job_id)  # that there is one of somebody else is not his to know
        return found

    async def handle(self, job: Job) -> JobHandle:
        """What can be done with a job that is there."""
        from saggar.jobs.queue import Receipt

        return JobHandle(self.desk, await self.desk.store(), Receipt(job.id, "joined"), job.queue)

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """One of as many runs as there may be at once. Overloaded."""
        try:
            with anyio.fail_after(PATIENCE):
                await self._turns.acquire()
        except TimeoutError:
            raise Overloaded("too many run at once; submit a job", retry_after=PATIENCE) from None
        try:
            yield
        finally:
            self._turns.release()

    async def aclose(self) -> None:
        """Let go of the queue."""
        await self.desk.aclose()
        if self._letters is not None:
            self._letters.close()


def of(request: Request) -> Service:
    """What a request is answered with."""
    found: Service = request.app.state.service
    return found


def caller(request: Request) -> str | None:
    """The tenant that calls. None: the operator, who sees what all of them have."""
    return request.scope.get(CALLER) or None


def tenant(request: Request, said: str | None) -> str:
    """
    For whom a job is.

    Raises:
        PolicyDenied: There are keys, and he says of himself who he is.
    """
    known = request.scope.get(CALLER)
    if known is None:
        return said or DEFAULT
    if said is not None:
        raise PolicyDenied("tenant: it comes with the key; leave it out")
    return DEFAULT if known == OPERATOR else str(known)
