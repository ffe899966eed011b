"""
An application: doors around it, errors in one form, JSON in and out.

It describes itself at /openapi.json. There are no pages that show the description: FastAPI's load
their scripts from somebody else's server, which a sandbox for code nobody trusts should not.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI

import saggar
from saggar.server import problems
from saggar.server.auth import OPEN, Doors, Guard
from saggar.server.body import Answer

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    title: str, doors: Doors, lifespan: Lifespan | None = None, *, raw: Iterable[str] = ()
) -> FastAPI:
    """
    An application with nothing in it but `GET /health`.

    Args:
        title: What it is called in its own description.
        doors: Who may come in.
        lifespan: What is open as long as it serves.
        raw: Beginnings of paths whose bodies are passed on unread, and so may be of any type.
    """
    app = FastAPI(
        title=title,
        version=saggar.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        default_response_class=Answer,
    )
    problems.install(app)
    app.add_middleware(Guard, doors=doors, raw=raw)
    app.add_api_route(OPEN, health)
    app.add_api_route(OPEN, health, methods=["HEAD"], include_in_schema=False)
    return app


async def health() -> dict[str, str]:
    """Whether this server answers at all."""
    return {"status": "ok"}
