"""What Prometheus asks for."""

from typing import Final

from fastapi import FastAPI, Request
from starlette.responses import Response

from saggar.jobs import calls
from saggar.jobs.job import HEAVY, STANDARD
from saggar.server import service

QUEUES: Final = (STANDARD, HEAVY, "*")
"""Ours, whether or not anything was ever submitted to them, and all that others named."""


def install(app: FastAPI) -> None:
    """Add it to the application."""
    app.add_api_route("/metrics", metrics, response_model=None)


async def metrics(request: Request) -> Response:
    """How it stands, with jobs and those who run them."""
    from saggar.telemetry.metrics import render

    store = await service.of(request).desk.store()
    stand = await store.ask(calls.counts(QUEUES))
    content, media_type = render(stand, request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": media_type})
