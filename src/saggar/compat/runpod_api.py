"""
RunPod's data plane for one worker on this machine: /run, /runsync, /status and the others; also
/ping and /execute, which endpoints that balance their load have instead.

For tests of clients: with and without `/v2/{endpoint}` before the path. A few jobs run at once, and
those that have ended are kept for a while. A queue that survives this process is Saggar's own.
"""

import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException

from saggar.config import load
from saggar.errors import Overloaded
from saggar.server import body
from saggar.server.app import create_app
from saggar.server.auth import Doors
from saggar.server.serve import serve as listen

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from saggar.compat.runpod_worker import Worker

MOST: Final = 1000
AT_ONCE: Final = 4
SYNC: Final = 600.0
"""Seconds that /runsync waits: nested calls of clients take its first answer for the last."""
WAITING, RUNNING, DONE, FAILED, CANCELLED = (
    "IN_QUEUE",
    "IN_PROGRESS",
    "COMPLETED",
    "FAILED",
    "CANCELLED",
)


@dataclass(slots=True)
class Job:
    """One event, and what has become of it."""

    event: dict[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = WAITING
    output: dict[str, Any] | None = None
    error: str | None = None
    created: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: float | None = None
    streamed: bool = False
    """Whether its output was given to who asks for it piece by piece: once, or he asks for good."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)

    def end(self, status: str) -> None:
        """It has ended, so or so; once."""
        if self.ended is None:
            self.status, self.ended = status, time.monotonic()
            self.over.set()

    def document(self, worker: str) -> dict[str, Any]:
        """As clients want it: an error is beside the output, which is an object all the same."""
        began = self.created if self.started is None else self.started
        now = time.monotonic()
        said: dict[str, Any] = {
            "id": self.id,
            "workerId": worker,
            "status": self.status,
            "delayTime": int(((self.started or self.ended or now) - self.created) * 1000),
            "executionTime": int(((self.ended or now) - began) * 1000) if self.started else 0,
        }
        if self.output is not None:
            said["output"] = self.output
        if self.error is not None:
            said["error"] = self.error
        return said


class Jobs:
    """Those that wait, run, or have ended lately."""

    def __init__(self, worker: "Worker", tasks: "TaskGroup", at_once: int = AT_ONCE) -> None:
        self._worker, self._tasks = worker, tasks
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._turns = anyio.CapacityLimiter(at_once)
        self.name = f"local-{uuid.uuid4().hex[:8]}"

    def submit(self, event: object) -> Job:
        """Take one in. Overloaded if all places are taken by those that have not ended."""
        if not isinstance(event, dict) or "input" not in event:
            raise HTTPException(400, "wanted an object with 'input'")
        while len(self._jobs) >= MOST:
            ended = next((job for job in self._jobs.values() if job.ended is not None), None)
            if ended is None:
                raise Overloaded(f"{MOST} jobs wait here, which is the most", 1.0)
            del self._jobs[ended.id]
        job = Job(event)
        self._jobs[job.id] = job
        self._tasks.start_soon(self._perform, job)
        return job

    def find(self, job_id: str) -> Job:
        """The one of this id."""
        if job_id not in self._jobs:
            raise HTTPException(404, "no job has this id; it may have ended long ago")
        return self._jobs[job_id]

    async def _perform(self, job: Job) -> None:
        try:
            with job.scope:
                async with self._turns:
                    job.started, job.status = time.monotonic(), RUNNING
                    output = await self._output(job.event)
                    job.error = output.pop("error", None)
                    job.output = output
                    job.end(DONE if job.error is None else FAILED)
        finally:
            if job.ended is None:
                job.output = {"success": False, "stdout": ""}
                job.error = "the job was cancelled"
                job.end(CANCELLED)

    async def execute(self, event: dict[str, Any]) -> dict[str, Any]:
        """Do an event, as soon as it is its turn."""
        async with self._turns:
            return await self._output(event)

    async def _output(self, event: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._worker.handle(event)
        except Exception as exc:  # noqa: BLE001 - the edge of a worker: the others go on
            return {"success": False, "error": f"a mistake of ours: {type(exc).__name__}: {exc}"}

    def cancel(self, job: Job) -> None:
        """Nobody wants it any more; its sandbox ends."""
        if job.ended is None:
            job.scope.cancel()

    def purge(self) -> int:
        """Cancel all that wait; how many there were."""
        waiting = [job for job in self._jobs.values() if job.status == WAITING]
        for job in waiting:
            self.cancel(job)
        return len(waiting)

    def health(self) -> dict[str, Any]:
        """How many there are of each kind."""
        counts = dict.fromkeys((WAITING, RUNNING, DONE, FAILED, CANCELLED), 0)
        for job in self._jobs.values():
            counts[job.status] += 1
        return {
            "jobs": {
                "completed": counts[DONE],
                "failed": counts[FAILED],
                "inProgress": counts[RUNNING],
                "inQueue": counts[WAITING],
                "retried": 0,
            },
            **self.workers(),
        }

    def workers(self) -> dict[str, Any]:
        """This one."""
        busy = min(1, sum(job.status == RUNNING for job in self._jobs.values()))
        numbers = {"idle": 1 - busy, "ready": 1, "running": busy}
        none = dict.fromkeys(("initializing", "throttled", "unhealthy"), 0)
        return {"workers": {**numbers, **none}}


def application(worker: "Worker", doors: Doors, at_once: int = AT_ONCE) -> FastAPI:
    """What answers RunPod's clients."""

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            app.state.jobs = Jobs(worker, tasks, at_once)
            yield
            tasks.cancel_scope.cancel()

    app = create_app("Saggar: a RunPod worker", doors, living)
    # Ours says that it answers; theirs says how many work. Their clients need theirs.
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", "") != "/health"
    ]
    routes = _routes()
    app.include_router(routes)
    app.include_router(routes, prefix="/v2/{endpoint}", include_in_schema=False)
    return app


def _jobs(request: Request) -> Jobs:
    found: Jobs = request.app.state.jobs
    return found


def _routes() -> APIRouter:
    routes = APIRouter()
    routes.add_api_route("/run", run, methods=["POST"])
    routes.add_api_route("/runsync", runsync, methods=["POST"])
    # Clients poll with GET; the SDK's own local server knows POST only.
    routes.add_api_route("/status/{job_id}", status, methods=["GET", "POST"])
    routes.add_api_route("/cancel/{job_id}", cancel, methods=["POST"])
    routes.add_api_route("/stream/{job_id}", stream, methods=["GET", "POST"])
    routes.add_api_route("/purge-queue", purge, methods=["POST"])
    routes.add_api_route("/health", health, methods=["GET"])
    routes.add_api_route("/metrics", metrics, methods=["GET"])
    # Endpoints without a queue, which balance their load instead, are asked so.
    routes.add_api_route("/ping", ping, methods=["GET"])
    routes.add_api_route("/execute", execute, methods=["POST"])
    return routes


async def run(request: Request) -> dict[str, Any]:
    """Leave an event here; its id."""
    job = _jobs(request).submit(await body.read(request))
    return {"id": job.id, "status": WAITING}


async def runsync(request: Request) -> dict[str, Any]:
    """Have an event done, and wait for it."""
    jobs = _jobs(request)
    job = jobs.submit(await body.read(request))
    with anyio.move_on_after(SYNC):
        await job.over.wait()
    return job.document(jobs.name)


async def status(request: Request, job_id: str) -> dict[str, Any]:
    """How a job stands."""
    jobs = _jobs(request)
    return jobs.find(job_id).document(jobs.name)


async def cancel(request: Request, job_id: str) -> dict[str, Any]:
    """End a job."""
    jobs = _jobs(request)
    job = jobs.find(job_id)
    jobs.cancel(job)
    with anyio.move_on_after(SYNC):
        await job.over.wait()
    return job.document(jobs.name)


async def stream(request: Request, job_id: str) -> dict[str, Any]:
    """What there is of a job's output that was not asked for yet: all of it at its end."""
    job = _jobs(request).find(job_id)
    there = [] if job.output is None or job.streamed else [{"output": job.output}]
    job.streamed = job.output is not None
    return {"status": job.status, "stream": there}


async def purge(request: Request) -> dict[str, Any]:
    """Forget what waits."""
    return {"removed": _jobs(request).purge(), "status": "completed"}


async def health(request: Request) -> dict[str, Any]:
    """How many jobs and workers there are."""
    return _jobs(request).health()


async def metrics(request: Request) -> dict[str, Any]:
    """The workers, and which of them answer."""
    jobs = _jobs(request)
    return {**jobs.workers(), "readyWorkers": [jobs.name]}


async def ping() -> dict[str, str]:
    """That it answers."""
    return {"status": "healthy"}


async def execute(request: Request) -> dict[str, Any]:
    """Have a request done at once; it comes as it is, or as the input of an event."""
    said = await body.read(request)
    if not isinstance(said, dict):
        raise HTTPException(400, "wanted an object: a request, or one with 'input'")
    return await _jobs(request).execute(said if "input" in said else {"input": said})


def serve(worker: "Worker", host: str, port: int, at_once: int = AT_ONCE) -> None:
    """Serve until SIGTERM."""
    doors = Doors.of(load(), host)
    listen(application(worker, doors, at_once), host, port, doors)
