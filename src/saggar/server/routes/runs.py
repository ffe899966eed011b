"""Runs: the caller waits, and no queue is asked."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from saggar.model.result import Result
from saggar.model.task import Task
from saggar.platform import RunOptions
from saggar.server import asked, body, pieces, service
from saggar.server.routes.streaming import answered, lacking_uploads, streamed, told, wanted
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
    document, secrets = asked.with_secrets(await body.read(request))
    document, parts = pieces.divided(document)
    task, said = asked.run(document)
    policy = said.within(here.ceiling())
    policy.admit(task)
    uploads = here.uploads(request)
    options: RunOptions = {"policy": policy, "secrets": secrets}
    if lacking := await pieces.lacking(parts, uploads):
        return lacking_uploads(lacking)

    @asynccontextmanager
    async def ready() -> AsyncGenerator[Task]:
        """It with all that came in pieces, when its turn has come, and for as long as it runs."""
        async with here.turn(), here.room.held(await pieces.weight(parts, uploads)):
            yield await pieces.whole(task, parts, uploads, policy.limits.memory)

    async def documents() -> AsyncGenerator[Mapping[str, object]]:
        async with ready() as found, aclosing(here.platform.events(found, **options)) as events:
            async for each in told(events, uploads if said.leave else None):
                yield each

    if wanted(request):
        # Its clock goes on while nobody reads.
        return streamed(request, documents(), unread=policy.limits.wall + policy.limits.grace)

    async def result() -> Result[Any]:
        async with ready() as found:
            return await here.platform.run(found, **options)

    ended = await while_connected(request, result)
    return await answered(ended, uploads if said.leave else None)
