"""What `saggar serve` answers: runs and jobs over HTTP, a module for each kind of thing."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Final

from fastapi import FastAPI

from saggar.config import Settings
from saggar.model.policy import Policy
from saggar.platform import Platform
from saggar.server.app import create_app
from saggar.server.auth import Doors
from saggar.server.routes import jobs, letters, runs, uploads, watching
from saggar.server.service import Service

JOBS: Final = (jobs, letters, uploads, watching)
"""What runs nothing here, and needs no walls here."""
ALL: Final = (*JOBS, runs)


def application(settings: Settings, doors: Doors, rooms: Iterable[ModuleType] = ALL) -> FastAPI:
    """All of these, behind these doors."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        # Callers are not its operator: whatever is his to list, he has to list.
        closed = settings.replace(ceiling=settings.ceiling or Policy())
        async with Platform(closed) as platform:
            app.state.service = service = Service(settings, platform)
            try:
                yield
            finally:
                await service.aclose()

    app = create_app("Saggar", doors, lifespan, raw=(uploads.PATH,))
    for room in rooms:
        room.install(app)
    return app
