"""Uploads: what a caller sends once, and names by its digest in what he asks for."""

import anyio.to_thread
from fastapi import FastAPI, Request
from starlette.responses import Response

from saggar.errors import PolicyDenied
from saggar.model.program import CodeKind
from saggar.server import service
from saggar.server.uploads import check_digest

PATH = "/v1/uploads/"


def install(app: FastAPI) -> None:
    """Add them to the application."""
    one = f"{PATH}{{digest}}"
    body = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}
    app.add_api_route(one, keep, methods=["PUT"], response_model=None, openapi_extra=body)
    app.add_api_route(one, fetch, response_model=None)


async def keep(request: Request, digest: str) -> Response:
    """Keep the body, which has this SHA-256, for its caller; 204."""
    here = service.of(request)
    check_digest(digest)
    if CodeKind.PICKLED not in here.ceiling().accept:
        raise PolicyDenied("uploads: nothing that is accepted here is made of them")
    data = await request.body()
    await anyio.to_thread.run_sync(here.uploads(request).put, digest, data)
    return Response(status_code=204)


async def fetch(request: Request, digest: str) -> Response:
    """What the caller has left, or what was left for him."""
    uploads = service.of(request).uploads(request)
    data = await anyio.to_thread.run_sync(uploads.get, check_digest(digest))
    return Response(
        data,
        media_type="application/octet-stream",
        headers={"Content-Disposition": "attachment"},
    )
