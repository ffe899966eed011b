"""
Who may come in: who has the key, who calls this server by a name of its own, pages of our own.

It stands before everything else an application does. The key keeps out who should not be here;
the names and origins keep out a browser that somebody else's page sends, key or no key.
"""

import hmac
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Self

import anyio
from pydantic import Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response

from saggar.model.quantity import MiB
from saggar.model.value import Value
from saggar.server.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from saggar.config import Settings

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
WILDCARDS: Final = ("", "0.0.0.0", "::")  # noqa: S104 - recognised, not bound
OPEN: Final = "/health"
"""What whoever watches over us may ask without a key, by any name."""
OPERATOR: Final = ""
"""The caller who has the one key that is nobody's in particular; no tenant has this name."""
CALLER: Final = "saggar.caller"
"""Where a request's scope says who sent it, if there are keys."""
LINGER: Final = 1.0
"""Seconds in which a caller may finish sending what nobody reads: else he misses the answer."""
OUR_SITES: Final = ("same-origin", "none")
WITH_BODY: Final = ("POST", "PUT", "PATCH", "DELETE")


class Doors(Value):
    """Who may come in. `Doors()` are those of a server on this machine's loopback."""

    key: str | None = Field(default=None, repr=False, min_length=1)
    """What a caller has to show; None lets everybody in who reaches us."""
    keys: Mapping[str, str] = Field(default={}, repr=False)
    """Keys of tenants by their names; whoever shows one comes in as that tenant."""
    hosts: tuple[str, ...] = LOOPBACK
    """Names by which we may be called; `*.example.org` for all below one, `*` for any."""
    local_names: bool = False
    """
    Whether any name will do that nobody can register: an address, a name without a dot, one below
    `.internal`. It is what containers and their hosts are called.
    """
    origins: tuple[str, ...] = ()
    """Whose pages may call us from a browser, beside our own: `https://app.example.org`."""
    insecure: bool = False
    """Whether all the network may come in where there is no key."""
    largest_body: int = 16 * MiB
    patience: float = 30.0
    """Seconds in which a body must have come."""

    @classmethod
    def of(cls, settings: "Settings", host: str) -> Self:
        """The doors that an operator asks for, of a server that listens on `host`."""
        return cls(
            key=settings.key,
            hosts=(*LOOPBACK, *([] if host in WILDCARDS else [host]), *settings.hosts),
            local_names=host in WILDCARDS,
            origins=settings.origins,
            insecure=settings.insecure_bind,
        )

    @property
    def locked(self) -> bool:
        """Whether nobody comes in without a key."""
        return self.key is not None or bool(self.keys)

    def caller(self, given: bytes) -> str | None:
        """Who shows this key: a tenant, `OPERATOR`, or None if it is no key of ours."""
        keys = dict(self.keys)
        if self.key is not None:
            keys[OPERATOR] = self.key
        found = None
        # Each is compared, in a time that tells nothing.
        for name, key in keys.items():
            if hmac.compare_digest(given, key.encode()):
                found = name
        return found

    def know_host(self, host: str) -> bool:
        """Whether `host`, as a request's header has it, is a name of ours."""
        name = _without_port(host).lower().rstrip(".")
        if not name:
            return False
        return _among(name, self.hosts) or (self.local_names and _unregistrable(name))

    def know_origin(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may call us, who were called by `host`."""
        if origin in self.origins:
            return True
        # Our own pages: this name was found to be ours before.
        return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


class Guard:
    """ASGI middleware: what `doors` do not admit is answered here, and reaches no route."""

    def __init__(self, app: "ASGIApp", doors: Doors, raw: Iterable[str] = ()) -> None:
        self._app = app
        self._doors = doors
        self._raw = tuple(raw)
        """Beginnings of paths whose bodies are passed on as they are, whatever they are."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """One request."""
        if scope["type"] == "lifespan" or _is_open(scope):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        answering = _Exchange(headers, receive, send, self._doors)
        refusal = self._refusal(scope, headers)
        await (refusal or self._app)(scope, answering.receive, answering.send)

    def _refusal(self, scope: "Scope", headers: Headers) -> Response | None:
        """The first reason not to let this request in, as an answer."""
        origin = headers.get("origin")
        if (refused := self._browser(headers, origin)) is not None:
            return refused
        if origin and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return _preflight(headers)
        if self._doors.locked:
            scope[CALLER] = self._doors.caller(_shown(headers))
        if self._doors.locked and scope[CALLER] is None:
            asked = {"WWW-Authenticate": 'Bearer realm="saggar"'}
            detail = "wanted the key in Authorization: Bearer or X-API-Key, found none that fits"
            return problem(401, detail, headers=asked)
        if self._must_be_json(scope) and (found := _other_type(headers)) is not None:
            detail = f"wanted Content-Type: application/json, found {found!r:.80}"
            return problem(415, detail)
        return self._too_large(headers)

    def _browser(self, headers: Headers, origin: str | None) -> Response | None:
        """What only a browser does that follows somebody else's page."""
        named = headers.getlist("host")
        if len(named) != 1 or not self._doors.know_host(named[0]):
            found = ", ".join(named) or "none"
            detail = f"not a name of this server: Host {found!r:.80}; SAGGAR_HOSTS lists more"
            return problem(403, detail, code="unknown-host")
        if origin is not None:
            known = self._doors.know_origin(origin, named[0])
        else:
            # A form or an image of another page has no Origin when it only gets something.
            known = headers.get("sec-fetch-site", "none") in OUR_SITES
        if known:
            return None
        found = origin or headers["sec-fetch-site"]
        detail = f"pages of {found!r:.80} may not call this server; SAGGAR_ORIGINS lists who may"
        return problem(403, detail, code="unknown-origin")

    def _must_be_json(self, scope: "Scope") -> bool:
        return scope["method"] in WITH_BODY and not scope["path"].startswith(self._raw)

    def _too_large(self, headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        most = self._doors.largest_body
        if length.isdecimal() and int(length) <= most:
            return None
        return problem(413, _too_much(most))


class _Exchange:
    """One request and its answer: the body counted and timed, the answer marked for its reader."""

    def __init__(self, headers: Headers, receive: "Receive", send: "Send", doors: Doors) -> None:
        self._receive, self._send, self._doors = receive, send, doors
        self._origin = headers.get("origin")
        self._host = headers.get("host", "")
        self._left = doors.largest_body
        self._until = anyio.current_time() + doors.patience
        self._all_here = (
            headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        )

    async def receive(self) -> "Message":
        """The next part of the body. HTTPException when it is too much, or takes too long."""
        if self._all_here:
            return await self._receive()  # the caller's leaving, for which there is no deadline
        try:
            with anyio.fail_after(self._until - anyio.current_time()):
                message = await self._next()
        except TimeoutError:
            detail = f"the body did not come within {self._doors.patience:g} s"
            raise HTTPException(408, detail) from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, _too_much(self._doors.largest_body))
        return message

    async def _next(self) -> "Message":
        message = await self._receive()
        self._all_here = not message.get("more_body", False)
        return message

    async def send(self, message: "Message") -> None:
        """A part of the answer. One that comes before all of the body was read is the last."""
        if message["type"] == "http.response.start":
            self._mark(MutableHeaders(scope=message))
        elif not self._all_here and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            with anyio.move_on_after(LINGER):
                while not self._all_here:
                    await self._next()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _mark(self, headers: MutableHeaders) -> None:
        if not self._all_here:
            headers["connection"] = "close"
        headers["x-content-type-options"] = "nosniff"
        headers["cache-control"] = headers.get("cache-control", "no-store")
        if self._origin and self._origin in self._doors.origins:
            headers["access-control-allow-origin"] = self._origin
            headers.add_vary_header("Origin")


def _is_open(scope: "Scope") -> bool:
    return scope["type"] == "http" and scope["path"] == OPEN and scope["method"] in ("GET", "HEAD")


def _preflight(headers: Headers) -> Response:
    """A browser asks whether a page that we know may send this."""
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": headers["access-control-request-method"],
            "access-control-allow-headers": "authorization, content-type, x-api-key",
            "access-control-max-age": "600",
        },
    )


def _shown(headers: Headers) -> bytes:
    """The key that a request has with it."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
    return given.encode("latin-1")  # as headers were decoded: this is what was sent


def _other_type(headers: Headers) -> str | None:
    """The content type of a body, where it is not JSON's; a form of a page is always another."""
    found = headers.get("content-type")
    if found is None:
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        return "none" if has_body else None
    return None if found.partition(";")[0].strip().lower() == "application/json" else found


def _too_much(most: int) -> str:
    return f"a body may have {most / MiB:g} MiB, found more"


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _among(name: str, hosts: Iterable[str]) -> bool:
    for host in hosts:
        if host in ("*", name) or host.lower() == name:
            return True
        if host.startswith("*.") and name.endswith(host[1:].lower()):
            return True
    return False


def _unregistrable(name: str) -> bool:
    """Whether no page can be served under this name by somebody who chose where it leads."""
    if "." not in name or name.endswith(".internal") or name == socket.gethostname().lower():
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
