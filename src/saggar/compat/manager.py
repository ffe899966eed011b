"""
The manager's HTTP: `/session/{id}/...`, `/allocate`, `/deallocate/{id}`, `/status`, `/restart`.

It translates. Who has which instance is known to `sessions/pool.py`, how an instance is spoken to
is the business of `upstream.py` (one with an address) and `local.py` (a session on this machine).
"""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from fastapi import APIRouter, FastAPI, Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response

from saggar.compat.upstream import segments_stay_below
from saggar.config import Settings
from saggar.server import problems
from saggar.server.app import create_app
from saggar.server.auth import Doors
from saggar.server.body import Answer
from saggar.sessions.pool import Pool
from saggar.sessions.pool_state import Condition, Instance, InstanceDown, Member

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
DOCUMENTED = ("execute", "restart", "ready", "health", "restart-status")
"""What every instance has; an error of one of these is said in the manager's words."""
HOLDER = "x-saggar-allocation"
"""The header with which a caller says under which allocation he comes."""
KEYS = (b"authorization", b"x-api-key")
LARGEST_COMPLAINT = 16 << 10
LONGEST_WAIT = 3600.0
LARGEST_BODY = 1 << 30
SENDING = 600.0
"""Seconds that a caller may take to send a body."""


class Upstream(Instance, Protocol):
    """What the manager asks of an instance beyond what its pool does."""

    async def restarting(self) -> bool:
        """Whether it is being restarted now."""
        ...

    async def relay(self, scope: "Scope", path: bytes, receive: "Receive", send: "Send") -> None:
        """Pass on a request, and its answer."""
        ...


def application(pool: AbstractAsyncContextManager[Pool], doors: Doors) -> FastAPI:
    """The manager of one pool, which is open as long as this serves."""
    routes = _Routes(secret=doors.key is not None)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with pool as routes.pool:
            yield

    app = create_app("Saggar manager", doors, lifespan, raw=["/session/"])
    app.add_exception_handler(InstanceDown, _down)
    app.include_router(routes.router())
    app.router.redirect_slashes = False
    return app


def doors_of(settings: Settings, host: str) -> Doors:
    """The doors an operator asks for; what is passed on is not held here, and may be large."""
    doors = Doors.of(settings, host)
    return doors.replace(largest_body=LARGEST_BODY, patience=SENDING)


class _Routes:
    """What the manager answers."""

    pool: Pool

    def __init__(self, *, secret: bool) -> None:
        self._secret = secret
        """Whether callers show us a key: that one is for us, not for what instances run."""

    def router(self) -> APIRouter:
        """All of it."""
        made = APIRouter()
        made.add_api_route("/status", self.status, methods=["GET"])
        made.add_api_route("/allocate", self.allocate, methods=["POST"])
        made.add_api_route("/deallocate/{name}", self.deallocate, methods=["POST"])
        made.add_api_route("/restart", self.restart_all, methods=["POST"])
        at = "/session/{name}"
        made.add_api_route(f"{at}/restart", self.restart, methods=["POST"])
        made.add_api_route(f"{at}/restart-status", self.restart_status, methods=["GET"])
        made.add_api_route(f"{at}/ready", self.look, methods=["GET", "HEAD"])
        made.add_api_route(f"{at}/health", self.look, methods=["GET", "HEAD"])
        made.add_api_route(f"{at}/execute", self.use, methods=["POST"])
        made.add_api_route(
            f"{at}/{{path:path}}", self.use, methods=METHODS, include_in_schema=False
        )
        return made

    async def status(self) -> dict[str, Any]:
        """How many containers are free, held, and away, and why those are."""
        census = self.pool.census()
        by_type = dict.fromkeys(self.pool.types(), 0)
        for member in census.free:
            by_type[member.type] += 1
        return {
            "available_containers": len(census.free),
            "available_by_type": by_type,
            "allocated_containers": len(census.held),
            "total_containers": len(census.free) + len(census.held) + len(census.away),
            "allocated_container_ids": [_id(member) for member in census.held],
            "unavailable_containers": {
                member.name: member.why or member.condition
                for member in [*census.held, *census.away]
                if member.condition is not Condition.READY
            },
        }

    async def allocate(self, container_type: str = "", wait: float | None = None) -> dict[str, Any]:
        """A container for the caller alone, of one type or of any; waits for its turn."""
        if wait is not None and not 0 <= wait <= LONGEST_WAIT:
            raise HTTPException(400, f"wait is 0 to {LONGEST_WAIT:g} seconds, found {wait:g}")
        member = await self.pool.allocate(container_type, wait)
        token = member.allocation.token if member.allocation else ""
        return {
            "container_id": _id(member),
            "url": member.place,
            "type": member.type,
            "allocation": token,
        }

    async def deallocate(self, name: str, request: Request) -> dict[str, Any]:
        """Give a container back; it is restarted before anybody else gets it."""
        member = self.pool.release(name, request.headers.get(HOLDER, ""))
        return {"status": "deallocated", "container_id": _id(member)}

    async def restart_all(self) -> dict[str, Any]:
        """Take back all containers, and restart them."""
        held = await self.pool.restart_all()
        failed = [member for member in held if member.condition is Condition.OUT]
        restarted = [member for member in held if member not in failed]
        return {
            "status": "restart_completed" if held else "no_containers_to_restart",
            "restarted_containers": [_id(member) for member in restarted],
            "failed_containers": [
                {"container_id": _id(member), "error": member.why} for member in failed
            ],
            "total_restarted": len(restarted),
            "total_failed": len(failed),
        }

    async def restart(self, name: str, request: Request) -> Response:
        """Clear what a container holds; whoever has it keeps it."""
        member = self.pool.find(name)
        if member.allocation is not None:
            return _Relayed(self, name, request)
        if member.condition is Condition.RETURNING:
            return Answer({"status": "already_restarting"})
        if member.condition is Condition.OUT:
            raise InstanceDown(f"Container {name} is not available: {member.why}")
        async with self.pool.restarting(name):
            await member.instance.restart()
        return Answer({"status": "restarting"})

    async def restart_status(self, name: str) -> dict[str, bool]:
        """Whether a container is being restarted."""
        member = self.pool.find(name)
        if member.allocation is None and member.condition is Condition.RETURNING:
            return {"restarting": True}
        return {"restarting": await _upstream(member).restarting()}

    async def look(self, name: str, request: Request) -> Response:
        """Ask a container about itself, without holding it for that."""
        self.pool.find(name)
        return _Relayed(self, name, request, holding=False)

    async def use(self, name: str, request: Request) -> Response:
        """Pass a request on; the first one to a free container makes it held."""
        self.pool.find(name)
        return _Relayed(self, name, request)

    async def relay(
        self, name: str, scope: "Scope", receive: "Receive", send: "Send", *, holding: bool
    ) -> None:
        """What `_Relayed` does, once it listens to its caller."""
        path = _below(scope)
        if path.lstrip(b"/").decode("latin-1") in DOCUMENTED:
            send = _Complaint(send).send
        token = Headers(scope=scope).get(HOLDER, "")
        scope = {**scope, "headers": self._for_instances(scope["headers"])}
        if not holding:
            await self._relay(self.pool.find(name), scope, path, receive, send)
            return
        async with self.pool.use(name, token) as member:
            await self._relay(member, scope, path, receive, send)

    async def _relay(
        self, member: Member, scope: "Scope", path: bytes, receive: "Receive", send: "Send"
    ) -> None:
        try:
            await _upstream(member).relay(scope, path, receive, send)
        except InstanceDown as exc:
            self.pool.lost(member, str(exc))
            raise

    def _for_instances(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        ours = {HOLDER.encode(), *(KEYS if self._secret else ())}
        return [(name, value) for name, value in headers if name not in ours]


class _Relayed(Response):
    """The answer of an instance, as it comes; a caller who leaves takes his request with him."""

    def __init__(
        self, routes: _Routes, name: str, request: Request, *, holding: bool = True
    ) -> None:
        super().__init__()
        self._routes, self._name, self._holding = routes, name, holding
        if not segments_stay_below(_below(request.scope)):
            raise HTTPException(400, "a path may not have . or .. among its parts")

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        try:
            async with anyio.create_task_group() as tasks:
                into, body = anyio.create_memory_object_stream["Message"](1)
                tasks.start_soon(self._listen, receive, into, tasks.cancel_scope)
                with body:
                    await self._routes.relay(
                        self._name, scope, _reader(body), send, holding=self._holding
                    )
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # Two tasks, one story: whoever asked is told the one thing that went wrong.
            if isinstance(found := problems.alone(group), Exception):
                raise found from None
            raise

    async def _listen(self, receive: "Receive", into: Any, scope: anyio.CancelScope) -> None:
        """The body, with no more of it here than one part; then wait for the caller to leave."""
        more = True
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                scope.cancel()
                return
            if more:
                more = message.get("more_body", False)
                try:
                    await into.send(message)
                except anyio.BrokenResourceError:
                    more = False  # it was answered without all of it


class _Complaint:
    """An instance's refusal, said as the manager says it: `Container error: ...`."""

    def __init__(self, send: "Send") -> None:
        self._send = send
        self._status = 0
        self._again: str | None = None
        """When the instance would have its caller come again."""
        self._said = bytearray()

    async def send(self, message: "Message") -> None:
        """Whatever is no refusal passes through."""
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._status = message["status"]
            self._again = Headers(raw=list(message["headers"])).get("retry-after")
        elif not self._status:
            await self._send(message)
        else:
            self._said += message.get("body", b"")[: LARGEST_COMPLAINT - len(self._said)]
            if not message.get("more_body", False):
                await self._tell()

    async def _tell(self) -> None:
        headers = {} if self._again is None else {"retry-after": self._again}
        detail = f"Container error: {_reason(self._said)}"
        answer = problems.problem(self._status, detail, code="container-error", headers=headers)
        await self._send(
            {
                "type": "http.response.start",
                "status": self._status,
                "headers": answer.raw_headers,
            }
        )
        await self._send({"type": "http.response.body", "body": answer.body})


def _reason(said: bytes | bytearray) -> str:
    """What an error of an instance says in words."""
    text = said.decode(errors="replace").strip()
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, TypeError, KeyError):
        return text
    return detail if isinstance(detail, str) else text


def _reader(body: MemoryObjectReceiveStream["Message"]) -> "Receive":
    """`receive` for whoever passes the body on: its parts, and nothing after the last."""

    async def receive() -> "Message":
        return await body.receive()

    return receive


def _below(scope: "Scope") -> bytes:
    """What follows `/session/{id}`, as it was sent."""
    raw = cast("bytes", scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
    # The name has only letters that nobody has to escape, and some escape them all the same.
    _, _, rest = raw.removeprefix(b"/session/").partition(b"/")
    return b"/" + rest


def _upstream(member: Member) -> Upstream:
    return cast("Upstream", member.instance)


def _id(member: Member) -> int | str:
    """As the protocol has it: a number, where the name is one."""
    whole = member.name.isascii() and member.name.isdecimal()
    return int(member.name) if whole and str(int(member.name)) == member.name else member.name


async def _down(_request: Request, exc: Exception) -> Response:
    headers: Mapping[str, str] = {"Retry-After": "1"}
    return problems.problem(503, str(exc), code=InstanceDown.code, headers=headers)
