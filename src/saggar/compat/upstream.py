"""
An instance at the other end of HTTP: what a pool asks of it, and requests passed on to it.

It needs the four documented endpoints only. Nothing but its configured address is ever called: no
redirect is followed, no proxy of the environment is asked.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
from starlette.exceptions import HTTPException

from saggar.compat.containers import Container
from saggar.sessions.pool_state import InstanceDown, Member

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

CONNECTIONS: Final = 1000
CONNECTING: Final = 5.0
"""Seconds in which an instance must take a connection."""
SENDING: Final = 60.0
"""Seconds in which it must take the next part of a body."""
ANSWERING: Final = 18000.0
"""Seconds it may stay silent while it executes; what limits an execution is its own deadline."""
READY: Final = 15.0
"""Seconds in which it must say whether it is ready."""
RESTARTING: Final = 60.0
"""Seconds a restart may take."""
KEPT: Final = 2.0
"""Seconds an idle connection is kept: less than an instance keeps it, or we write into the void."""
FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.5
HOP_BY_HOP: Final = frozenset(
    b"connection expect keep-alive proxy-authenticate proxy-authorization proxy-connection te"
    b" trailer transfer-encoding upgrade".split()
)
"""They concern one connection, not the request."""


def new_client(answering: float = ANSWERING) -> httpx.AsyncClient:
    """The client for all instances of a manager."""
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(answering, connect=CONNECTING, write=SENDING, pool=CONNECTING),
        limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=KEPT),
        follow_redirects=False,
        trust_env=False,
    )
    # It would ask for compression in the name of a caller who did not.
    client.headers.clear()
    return client


@asynccontextmanager
async def instances(
    containers: Sequence[Container], answering: float = ANSWERING
) -> AsyncGenerator[Sequence[Member]]:
    """Those of a list, ready to be put into a pool."""
    async with new_client(answering) as client:
        yield [
            Member(c.name, c.type, c.url, HttpInstance(c.name, c.url, client)) for c in containers
        ]


class HttpInstance:
    """One instance, at one address."""

    def __init__(
        self, name: str, url: str, client: httpx.AsyncClient, patience: float = RESTARTING
    ) -> None:
        self._name = name
        self._url = httpx.URL(url)
        self._client = client
        self._patience = patience

    async def ready(self) -> None:
        """InstanceDown unless it says that it is ready."""
        status, said = await self._ask("GET", "/ready", READY)
        if status != 200 or said.get("ready") is not True:
            reason = said.get("reason") or f"/ready answered {status} {json.dumps(said)[:80]}"
            raise InstanceDown(self._unavailable(f"it is not ready: {reason}"))

    async def restart(self) -> None:
        """Ask it to forget everything."""
        status, said = await self._ask("POST", "/restart", self._patience)
        if status >= 400 or said.get("status") == "error":
            reason = said.get("reason") or f"/restart answered {status}"
            raise InstanceDown(self._unavailable(f"it did not restart: {reason}"))

    async def restarting(self) -> bool:
        """Whether it is being restarted. One that cannot say so is, as long as it is not ready."""
        status, said = await self._ask("GET", "/restart-status", READY)
        if status == 200 and isinstance(said.get("restarting"), bool):
            return bool(said["restarting"])
        try:
            await self.ready()
        except InstanceDown:
            return True
        return False

    async def settled(self) -> None:
        """It has restarted and is ready; InstanceDown when it takes too long."""
        pause, reason = FIRST_PAUSE, "it is restarting"
        with anyio.move_on_after(self._patience):
            while True:
                try:
                    if not await self.restarting():
                        return await self.ready()
                except InstanceDown as exc:
                    reason = str(exc)
                await anyio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        raise InstanceDown(f"{reason}; {self._patience:g} seconds after its restart")

    async def relay(self, scope: "Scope", path: bytes, receive: "Receive", send: "Send") -> None:
        """Pass on a request as it comes, and the answer as it comes."""
        headers = _passed_on(scope["headers"], drop=b"host")
        request = self._client.build_request(
            scope["method"],
            self._at(path, scope["query_string"]),
            headers=headers,
            content=_body(receive) if _has_body(headers, scope["headers"]) else None,
        )
        with self._told():
            response = await self._client.send(request, stream=True)
        try:
            with self._told():
                await _answer(response, send)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    def _at(self, path: bytes, query: bytes = b"") -> httpx.URL:
        """Below the configured address, whatever `path` holds: it can change nothing before it."""
        # As bytes, because what was %2F or a space for the caller must stay one.
        target = self._url.raw_path.rstrip(b"/") + path + (b"?" + query if query else b"")
        return self._url.copy_with(raw_path=target)

    async def _ask(self, method: str, path: str, patience: float) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of an answer."""
        with self._told():
            response = await self._client.request(method, self._at(path.encode()), timeout=patience)
        try:
            said = response.json()
        except ValueError:
            said = None
        return response.status_code, said if isinstance(said, dict) else {}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong on the way is told as ours."""
        try:
            yield
        except httpx.PoolTimeout:
            raise HTTPException(503, f"all {CONNECTIONS} connections are in use") from None
        except httpx.TransportError as exc:
            reason = str(exc) or type(exc).__name__
            raise InstanceDown(self._unavailable(reason)) from exc

    def _unavailable(self, reason: str) -> str:
        return f"Container {self._name} is not available: {reason}"


def segments_stay_below(path: bytes) -> bool:
    """Whether a path names nothing above where it begins."""
    from urllib.parse import unquote_to_bytes

    parts = unquote_to_bytes(path).replace(b"\\", b"/").split(b"/")
    return b".." not in parts and b"." not in parts


def _passed_on(headers: Sequence[tuple[bytes, bytes]], drop: bytes) -> list[tuple[bytes, bytes]]:
    """Headers less those that concern this connection, and those it says concern it."""
    named = [value for name, value in headers if name.lower() == b"connection"]
    own = {word.strip().lower() for value in named for word in value.split(b",")}
    gone = HOP_BY_HOP | own | {drop}
    # The length of a body is kept where it is known: a simple server reads no chunks.
    return [(name.lower(), value) for name, value in headers if name.lower() not in gone]


def _has_body(
    passed: Sequence[tuple[bytes, bytes]], headers: Sequence[tuple[bytes, bytes]]
) -> bool:
    length = dict(passed).get(b"content-length", b"0")
    return length != b"0" or any(name == b"transfer-encoding" for name, _ in headers)


async def _body(receive: "Receive") -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if content := message.get("body", b""):
            yield content
        if not message.get("more_body", False):
            return


async def _answer(response: httpx.Response, send: "Send") -> None:
    # Our server says when this is as well, and an answer has one date.
    headers = _passed_on(response.headers.raw, drop=b"date")
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async for part in response.aiter_raw():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
