"""
Instances that are sessions on this machine, for `saggar manager --local`.

Each is an executor instance as `instance.py` has it, without a socket of its own: requests reach
its application as the manager received them.
"""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
from fastapi import FastAPI

from saggar.compat import instance as endpoints
from saggar.compat.instance import Instance, Setup
from saggar.platform import Platform
from saggar.server.app import create_app
from saggar.server.auth import Doors
from saggar.sessions.pool_state import InstanceDown, Member

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from starlette.types import Receive, Scope, Send

    from saggar.config import Settings

LANGUAGES: Final = ("python",)
"""What a session here can be of."""
PLACE: Final = "local:"
RESTARTING: Final = 60.0
PAUSE: Final = 0.01
PASSED_ON: Final = (
    *("type", "asgi", "http_version", "method", "scheme", "query_string"),
    *("headers", "client", "server", "extensions"),
)
"""What a request keeps; the rest belongs to the manager's routes."""


class LocalInstance:
    """One session, as a pool and a manager see an instance."""

    def __init__(self, name: str, instance: Instance, app: FastAPI) -> None:
        self._name = name
        self._instance = instance
        self._app = app

    async def ready(self) -> None:
        """InstanceDown unless it would run now what is sent now."""
        found = self._instance.ready()
        if not found["ready"]:
            raise self._down(str(found.get("reason", "it does not say why")))

    async def restart(self) -> None:
        """Begin to replace its interpreter."""
        said = self._instance.restart()
        if said["status"] == "error":
            raise self._down(str(said["reason"]))

    async def restarting(self) -> bool:
        """Whether its interpreter is being replaced."""
        return self._instance.restarting

    async def settled(self) -> None:
        """It has a new interpreter, and is ready."""
        with anyio.move_on_after(RESTARTING):
            # Asked again and again: an interpreter may be replaced, and that one as well.
            while self._instance.restarting or not self._instance.ready()["ready"]:  # noqa: ASYNC110
                await anyio.sleep(PAUSE)
            return
        await self.ready()

    async def relay(self, scope: "Scope", path: bytes, receive: "Receive", send: "Send") -> None:
        """Pass on a request, and its answer."""
        inner = {name: scope[name] for name in PASSED_ON if name in scope}
        inner |= {"root_path": "", "path": path.decode("latin-1"), "raw_path": path}
        await self._app(inner, receive, send)

    def _down(self, reason: str) -> InstanceDown:
        return InstanceDown(f"Container {self._name} is not available: {reason}")


@asynccontextmanager
async def instances(
    types: Sequence[str], settings: "Settings", setup: Setup, doors: Doors
) -> AsyncGenerator[Sequence[Member]]:
    """Sessions of these types, numbered, ready to be put into a pool."""
    # Whoever comes has passed the manager's doors, where he showed the key and named the host.
    inner = doors.replace(key=None, hosts=("*",))
    # They end with us: what is remembered of others in this place is not about these.
    place = f"{PLACE}{secrets.token_hex(8)}"
    async with Platform(settings) as platform, anyio.create_task_group() as tasks:
        yield [
            Member(str(number), kind, place, _instance(str(number), platform, setup, tasks, inner))
            for number, kind in enumerate(types)
        ]
        tasks.cancel_scope.cancel()


def _instance(
    name: str, platform: Platform, setup: Setup, tasks: "TaskGroup", doors: Doors
) -> LocalInstance:
    instance = Instance(platform, setup, tasks)
    tasks.start_soon(instance.keep)
    app = create_app(f"Saggar session {name}", doors)
    app.state.instance = instance
    app.add_api_route("/ready", endpoints.ready)
    app.add_api_route("/restart-status", endpoints.restart_status)
    app.add_api_route("/restart", endpoints.restart, methods=["POST"])
    app.add_api_route("/execute", endpoints.execute, methods=["POST"], response_model=None)
    return LocalInstance(name, instance, app)
