"""Dead letters: jobs that were given up."""

from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from saggar.errors import NotFound
from saggar.jobs import deadletters
from saggar.jobs.store import Store
from saggar.server import service
from saggar.server.body import Answer
from saggar.server.routes.jobs import shown
from saggar.telemetry.log import say


def install(app: FastAPI) -> None:
    """Add them to the application."""
    one = "/v1/dead-letters/{job_id}"
    app.add_api_route("/v1/dead-letters", ls)
    app.add_api_route(one, show)
    app.add_api_route(one, drop, methods=["DELETE"], status_code=204, response_model=None)
    app.add_api_route(f"{one}/replay", replay, methods=["POST"], response_model=None)


async def ls(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """The newest of the caller's."""
    store, tenant = await service.of(request).store(), service.caller(request)
    return {"dead_letters": await anyio.to_thread.run_sync(deadletters.ls, store, limit, tenant)}


async def show(request: Request, job_id: str) -> dict[str, Any]:
    """One of them."""
    _, letter = await _his(request, job_id)
    return letter


async def replay(request: Request, job_id: str) -> Response:
    """Start the job anew, with all its attempts."""
    store, letter = await _his(request, job_id)
    await anyio.to_thread.run_sync(deadletters.replay, store, job_id)
    say(service.log, "job.replayed", task_id=job_id, tenant=letter["tenant"])
    here = service.of(request)
    await here.desk.assure(letter["queue"])
    return Answer(shown(await here.job(job_id, service.caller(request))), 202)


async def drop(request: Request, job_id: str) -> Response:
    """Forget it."""
    store, letter = await _his(request, job_id)
    await anyio.to_thread.run_sync(deadletters.drop, store, job_id)
    say(service.log, "job.dropped", task_id=job_id, tenant=letter["tenant"])
    return Response(status_code=204)


async def _his(request: Request, job_id: str) -> tuple[Store, dict[str, Any]]:
    store = await service.of(request).store()
    letter = await anyio.to_thread.run_sync(partial(deadletters.entry, store, job_id))
    if service.caller(request) not in (None, letter["tenant"]):
        raise NotFound(f"there is no dead letter of a job {job_id!r:.80}")
    return store, letter
