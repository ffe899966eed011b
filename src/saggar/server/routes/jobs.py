"""Jobs: submitted and answered at once, looked at, waited for, read along, cancelled."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from saggar.errors import Overloaded, SaggarError
from saggar.jobs import listing
from saggar.jobs.job import Failure, Job, JobState
from saggar.jobs.submission import failed as errored
from saggar.server import asked, pieces, problems, service
from saggar.server.body import Answer, Json
from saggar.server.routes.streaming import answered, failed, lacking_uploads, streamed, told
from saggar.server.stream import while_connected
from saggar.telemetry.log import say

LONGEST: Final = 300.0
"""Seconds that one request waits for a result; whoever wants to wait longer asks again."""


def install(app: FastAPI) -> None:
    """Add them to the application."""
    described = asked.described(asked.Submission)
    one = "/v1/jobs/{job_id}"
    app.add_api_route(
        "/v1/jobs", submit, methods=["POST"], response_model=None, openapi_extra=described
    )
    app.add_api_route("/v1/jobs", ls)
    app.add_api_route(one, show)
    app.add_api_route(f"{one}/result", result, response_model=None)
    app.add_api_route(f"{one}/events", events, response_model=None)
    app.add_api_route(f"{one}/cancel", cancel, methods=["POST"], response_model=None)


async def submit(request: Request, document: Json) -> Response:
    """Take a job in; 202 with its id before anything of it is done."""
    here = service.of(request)
    document, parts = pieces.divided(document)
    task, said = asked.job(document)
    tenant = service.tenant(request, said.tenant)
    beside = {"policy", "limits", "tenant", "leave"}
    wishes = said.model_dump(exclude=beside, exclude_none=True)
    policy = said.policy_within(here.ceiling(said.queue))
    here.admit_queue(said.queue)
    here.admit(task, policy)
    uploads = here.uploads(request)
    if lacking := await pieces.lacking(parts, uploads):
        return lacking_uploads(lacking)
    try:
        async with here.joining:
            task = await pieces.whole(task, parts, uploads, policy.limits.memory)
            job = await here.desk.submit(task, policy, tenant=tenant, **wishes)
    except Overloaded as exc:
        # Not that we could not: this caller has had his share.
        return problems.of(exc, 429)
    keys = {"task_id": job.id, "tenant": tenant, "queue": said.queue, "came": job.came}
    say(service.log, "job.submitted", **keys)
    state = JobState.DELAYED if said.delay else JobState.QUEUED
    if job.came != "new":
        state = (await job.job()).state
    document = {"id": job.id, "state": state, "came": job.came, "links": links(job.id)}
    return Answer(document, 202, {"Location": f"/v1/jobs/{job.id}"})


async def ls(
    request: Request,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """The newest jobs of the caller."""
    store, tenant = await service.of(request).store(), service.caller(request)

    def look() -> list[listing.Listed]:
        return listing.ls(store, state=state, tenant=tenant, limit=limit)

    return {"jobs": [asdict(job) for job in await anyio.to_thread.run_sync(look)]}


async def show(request: Request, job_id: str) -> dict[str, Any]:
    """How it stands, with its result if it has one."""
    return shown(await service.of(request).job(job_id, service.caller(request)))


async def result(
    request: Request,
    job_id: str,
    wait: Annotated[float, Query(ge=0, le=LONGEST)] = 0,
    *,
    leave: bool = False,
) -> Response:
    """
    Its result; 202 and how it stands, if it has none within `wait` seconds.

    With `leave`, what is large in it is left behind, to be fetched as an upload is.
    """
    here = service.of(request)
    job = await here.job(job_id, service.caller(request))
    handle = await here.handle(job)
    try:
        with here.waiting(request):
            found = await while_connected(request, lambda: handle.result(wait))
    except TimeoutError:
        job = await here.job(job_id, service.caller(request))
        return Answer(shown(job), 202, {"Retry-After": "1"})
    except Overloaded as exc:
        return problems.of(exc, 429)
    except SaggarError:
        job = await here.job(job_id, service.caller(request))
        if job.state is not JobState.DEAD or job.failure is None:
            raise
        return given_up(job, job.failure)
    return await answered(found, here.uploads(request) if leave else None)


async def events(request: Request, job_id: str) -> Response:
    """What its run does, from the beginning, while it does it."""
    here = service.of(request)
    handle = await here.handle(await here.job(job_id, service.caller(request)))

    try:
        with here.waiting(request):
            pass  # while it can still be said with a status
    except Overloaded as exc:
        return problems.of(exc, 429)

    async def documents() -> AsyncGenerator[Mapping[str, object]]:
        finished = False
        with here.waiting(request):
            async with aclosing(told(handle.events())) as found:
                async for each in found:
                    finished = each["kind"] == "finished"
                    yield each
            job = await handle.job()
            if not finished and job.state is JobState.DEAD and job.failure is not None:
                yield failed(errored(job.failure))

    return streamed(request, documents())


def given_up(job: Job, failure: Failure) -> Response:
    """It has no result and will not get one: not that the request was wrong, or that we are."""
    more = {"state": job.state, "failure": failure.model_dump(mode="json")}
    return problems.problem(424, failure.message, code="job-failed", more=more)


async def cancel(request: Request, job_id: str) -> Response:
    """Nobody wants it any more: it does not start, or it is killed."""
    here = service.of(request)
    handle = await here.handle(await here.job(job_id, service.caller(request)))
    await handle.cancel()
    return Answer(shown(await handle.job()), 202)


def shown(job: Job) -> dict[str, Any]:
    """A job as callers see it; its code is theirs already."""
    hidden = {"task", "policy", "key", "webhook", "attempt"}
    said = job.model_dump(mode="json", exclude=hidden)
    return {**said, "attempts": job.attempt, "links": links(job.id)}


def links(job_id: str) -> dict[str, str]:
    """Where to go on."""
    one = f"/v1/jobs/{job_id}"
    return {"self": one, **{name: f"{one}/{name}" for name in ("result", "events", "cancel")}}
