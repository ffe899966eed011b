"""
Listening: on the loopback unless somebody decides otherwise, until SIGTERM.

uvicorn speaks HTTP. Added here is what it leaves to whoever stands in front of it: nobody keeps a
connection by sending nothing, and whoever lost the network is noticed.
"""

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from saggar.errors import PlatformError, UsageError
from saggar.server.auth import Doors
from saggar.server.problems import problem

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp

PATIENCE: Final = 10.0
"""Seconds in which a caller must have sent the head of a request."""
IDLE: Final = 75
"""Seconds that a connection is kept for a next request."""
FAREWELL: Final = 5
"""Seconds that running requests have once we were asked to stop."""
CONNECTIONS: Final = 1000
LARGEST_HEAD: Final = 64 << 10
SILENCE: Final = 60
"""Seconds after which a caller that acknowledges nothing is gone."""


def serve(
    app: "ASGIApp", host: str, port: int, doors: Doors, say: Callable[[str], None] | None = None
) -> None:
    """
    Serve until SIGTERM or Ctrl-C, and return.

    Args:
        app: What answers.
        host: Where to listen: an address or a name.
        port: 0 for any that is free.
        doors: Whether there is a key, or all may come in; the application itself keeps them.
        say: Is told the URL as soon as it answers; stdout, if nobody is named.

    Raises:
        UsageError: There is no key and `host` is not the loopback; or the port is in use.
    """
    with _listening(host, port) as listener:
        if not doors.locked and not doors.insecure and not _is_loopback(listener):
            raise UsageError(
                f"{host} can be reached from other machines, and there is no key: set SAGGAR_KEY,"
                " listen on 127.0.0.1, or, where something else keeps strangers out (a container"
                " whose port is published on 127.0.0.1 only), set SAGGAR_INSECURE_BIND=1"
            )
        config = uvicorn.Config(
            app,
            http=_Patient,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            # Whoever connects is who he is: anybody can write such a header.
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=FAREWELL,
            h11_max_incomplete_event_size=LARGEST_HEAD,
        )
        with _ending_well():
            _Announcing(config, lambda: (say or _say)(f"listening on {_url(host, listener)}")).run(
                [listener]
            )


class _Announcing(uvicorn.Server):
    """A server that tells when it answers."""

    def __init__(self, config: uvicorn.Config, tell: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does."""
        await super().startup(sockets)
        if self.started:
            self._tell()


class _Patient(H11Protocol):
    """HTTP with a caller who may be slow, but not for ever; what is no HTTP is told so."""

    _deadline: "asyncio.TimerHandle | None" = None

    def connection_made(self, transport: "asyncio.Transport") -> None:  # type: ignore[override]
        """Somebody came: a request is expected from now on."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Some of a request, or all of it."""
        super().data_received(data)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """He is gone."""
        self._relax()
        super().connection_lost(exc)

    def _expect(self) -> None:
        """The time for a head runs from its first byte to its last; uvicorn times what follows."""
        if self.conn.their_state is not h11.IDLE:
            self._relax()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(PATIENCE, self._give_up)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Say it in the form that all our errors have."""
        answer = problem(400, msg.lower().rstrip("."), headers={"connection": "close"})
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = h11.Response(status_code=400, headers=answer.raw_headers, reason=b"Bad Request")
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens. UsageError says why there is none."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, OverflowError, UnicodeError) as exc:
        raise UsageError(f"there is no address {host!r:.80}, port {port}: {exc}") from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _notice_who_is_gone(listener)
        try:
            listener.bind(address)
            listener.listen(CONNECTIONS)
        except OSError as exc:
            reason = os.strerror(exc.errno or 0).lower()
            raise UsageError(
                f"cannot listen on port {port} of {host}: {reason};"
                " name another port, or 0 for any that is free"
            ) from None
        yield listener


def _notice_who_is_gone(listener: socket.socket) -> None:
    """What is accepted here takes these over: a caller whose machine died answers no probe."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
    for name, value in {**options, "TCP_USER_TIMEOUT": SILENCE * 1000}.items():
        if (number := getattr(socket, name, None)) is not None:  # not every system has them all
            listener.setsockopt(socket.IPPROTO_TCP, number, value)


def _is_loopback(listener: socket.socket) -> bool:
    """By the address that was really bound: a name may lead anywhere."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _url(host: str, listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    name = host or address
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


@contextmanager
def _ending_well() -> Iterator[None]:
    """SIGTERM is how we are asked to end: uvicorn would die of it when all is done."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    before: Any = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit as exc:
        if exc.code not in (0, None):
            raise PlatformError("the server could not start; its log says why") from None
    finally:
        signal.signal(signal.SIGTERM, before)
