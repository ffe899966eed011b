"""Runs: the caller waits, and no queue is asked."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from saggar.model.result import Result
from saggar.server import asked, body, service
from saggar.server.routes.streaming import streamed, told, wanted
from saggar.server.stream import while_connected


def install(app: FastAPI) -> None:
    """Add them to the application."""
    described = asked.described(asked.Bounds)
    app.add_api_route(
        "/v1/runs", run, methods=["POST"], response_model=None, openapi_extra=described
    )


async def run(request: Request) -> Response:
    """Run it and answer with its result; as it happens, where lines or events are asked for."""
    here = service.of(request)
    task, said = asked.run(await body.read(request))
    policy = said.within(here.ceiling())
    policy.admit(task)

    async def documents() -> AsyncGenerator[Mapping[str, object]]:
        async with here.turn(), aclosing(here.platform.events(task, policy=policy)) as events:
            async for each in told(events):
                yield each

    if wanted(request):
        return streamed(request, documents())

    async def result() -> Result[Any]:
        async with here.turn():
            return await here.platform.run(task, policy=policy)

    found = await while_connected(request, result)
    return Response(found.model_dump_json(), media_type="application/json")
