"""
HTTP to a Saggar server: connections that are kept, deadlines on every wait, errors as errors.

Apart from what is said over it (`server`), and of the standard library alone: whoever calls from
afar needs nothing of what a server does. No proxy is asked, no redirection followed.
"""

import json
import select
import ssl
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import SHUT_RDWR
from typing import Any, Final, Self
from urllib.parse import SplitResult, unquote, urlsplit

from saggar.errors import InvalidTask, SaggarError, ServerUnavailable, UsageError
from saggar.jobs.job import Failure
from saggar.jobs.submission import failed
from saggar.model.quantity import MiB

CONNECTING: Final = 2.5
"""Seconds in which a server must have taken a connection, its name looked up and its key shown."""
PATIENCE: Final = 35.0
"""Seconds without a byte after which a server is given up; it says something every ten."""
IDLE: Final = 30.0
"""Seconds for which an unused connection is kept; the server keeps it for longer."""
LONGEST_LINE: Final = 128 * MiB
KEPT: Final = 32
JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
OURS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def parts_of(url: str) -> SplitResult:
    """The parts of a server's address. InvalidTask if it is none."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        fits = fits and parts.path.isascii() and bool((parts.hostname or "").encode("idna"))
    except ValueError:  # of an address, or of a name that no machine can have
        fits = False
    if not fits or parts.query or parts.fragment or any(c in url for c in "\r\n\t "):
        raise InvalidTask(
            "where: wanted the address of a server such as 'https://host:8000',"
            f" found {hidden(url)!r:.80}"
        )
    return parts


def hidden(url: str) -> str:
    """A URL without what stands before its host, which may be a password."""
    scheme, mark, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"


class Grip:
    """What holds one exchange, so that another thread can end it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self.let = False

    def take(self, connection: HTTPConnection | None) -> None:
        """What it goes over, from now on."""
        with self._lock:
            self._connection = connection
            if self.let:
                self._cut()

    def let_go(self) -> None:
        """Nobody waits any more: the server sees the end of the connection, and ends the run."""
        with self._lock:
            self.let = True
            self._cut()

    def _cut(self) -> None:
        sock = None if self._connection is None else self._connection.sock
        if sock is not None:
            with suppress(OSError):  # it may have ended by itself
                sock.shutdown(SHUT_RDWR)


class Http:
    """One server; called by many threads."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = parts_of(url)
        self.url = hidden(url).rstrip("/")
        """Its address, as it may be shown."""
        self.secure = parts.scheme == "https"
        self.local = parts.hostname in OURS
        self._host, self._port = str(parts.hostname), parts.port
        self._base = parts.path.rstrip("/")
        self._key = unquote(parts.password or parts.username or "") or key
        if self._key and not self._key.isprintable():
            # Else it would stand in the error of who writes headers.
            raise UsageError(
                f"the key for {self.url} holds a line break, or what else is no printable character"
            )
        self._context = ssl.create_default_context() if self.secure else None
        self._idle: list[tuple[float, HTTPConnection]] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._idle)

    def __repr__(self) -> str:
        return f"<server {self.url}>"

    def send(  # noqa: PLR0913 - what a request is
        self,
        method: str,
        path: str,
        body: bytes | memoryview = b"",
        *,
        kind: str = JSON,
        accept: str = JSON,
        grip: Grip | None = None,
    ) -> "Reply":
        """
        A request, and the head of its answer.

        Raises:
            ServerUnavailable: It cannot be reached, or breaks off.
            SaggarError: What the server says is wrong.
        """
        grip = grip or Grip()
        connection = self._connection()
        try:
            grip.take(connection)
            headers: dict[str, str | bytes] = {"Accept": accept, "User-Agent": "saggar"}
            if self._key is not None:
                headers["Authorization"] = b"Bearer " + self._key.encode()
            if method != "GET":
                headers |= {"Content-Type": kind, "Content-Length": str(len(body))}
            connection.request(method, self._base + path, body or None, headers)
            reply = Reply(self, connection, connection.getresponse(), grip)
        except (OSError, HTTPException) as exc:
            connection.close()
            raise self.broken(exc) from None
        except BaseException:
            connection.close()
            raise
        if reply.status >= 300:
            with reply:
                raise self._problem(reply)
        return reply

    def broken(self, exc: BaseException) -> SaggarError:
        """A connection that failed, as an error of ours."""
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        if isinstance(exc, TimeoutError):
            reason = f"nothing came for {PATIENCE:g} s"
        return ServerUnavailable(f"the server at {self.url} broke off: {reason}")

    def keep(self, connection: HTTPConnection) -> None:
        """A connection whose answer has been read, for the next request."""
        with self._lock:
            if len(self._idle) < KEPT:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _connection(self) -> HTTPConnection:
        while True:
            with self._lock:
                if not self._idle:
                    break
                since, connection = self._idle.pop()
            if time.monotonic() - since < IDLE and not _ended(connection):
                return connection
            connection.close()
        return self._connected()

    def _connected(self) -> HTTPConnection:
        """A new connection. In a thread: nothing else ends the looking up of a name."""
        made: HTTPConnection
        if self._context is not None:
            made = HTTPSConnection(
                self._host, self._port, timeout=CONNECTING, context=self._context
            )
        else:
            made = HTTPConnection(self._host, self._port, timeout=CONNECTING)
        done: Future[None] = Future()

        def connect() -> None:
            try:
                made.connect()
            except BaseException as exc:  # noqa: BLE001 - it is raised by who waits
                done.set_exception(exc)
            else:
                done.set_result(None)

        threading.Thread(target=connect, name="saggar-connect", daemon=True).start()
        try:
            done.result(CONNECTING)
        except TimeoutError:
            made.close()
            raise ServerUnavailable(
                f"the server at {self.url} did not answer within {CONNECTING:g} s"
            ) from None
        except ssl.SSLError as exc:
            raise ServerUnavailable(self._distrusted(exc)) from None
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise ServerUnavailable(
                f"the server at {self.url} cannot be reached: {reason.lower()}"
            ) from None
        made.sock.settimeout(PATIENCE)
        return made

    def _distrusted(self, exc: ssl.SSLError) -> str:
        said = getattr(exc, "verify_message", "") or exc.reason or str(exc)
        return (
            f"the server at {self.url} is not trusted: {said.lower()};"
            " an authority of your own is named by SSL_CERT_FILE"
        )

    def _problem(self, reply: "Reply") -> SaggarError:
        found = reply.document()
        if not isinstance(found, dict) or not isinstance(found.get("detail"), str):
            return ServerUnavailable(
                f"{self.url} answered {reply.status}, and not as a Saggar server does"
            )
        code, detail = str(found.get("code")), found["detail"]
        if code == Lacking.code:
            missing = found.get("missing")
            return Lacking(self.url, list(map(str, missing)) if isinstance(missing, list) else [])
        if code == "job-failed" and isinstance(found.get("failure"), dict):
            return self.said(str(found["failure"].get("code")), detail)
        return self.said(code, detail, reply.status, reply.headers)

    def said(
        self, code: str, detail: str, status: int = 500, headers: Mapping[str, str] | None = None
    ) -> SaggarError:
        """What the server says is wrong, as the error that it is there."""
        if code == "no-key":
            shown = "another key than the one shown" if self._key else "a key"
            return UsageError(f"the server at {self.url} wants {shown}: set SAGGAR_SERVER_KEY")
        if code == "policy-denied":
            detail = f"{detail} (at {self.url}, whose operator sets SAGGAR_CEILING and the lists)"
        if code == Lacking.code:
            return Lacking(self.url, [])
        error = failed(Failure(kind="ours", code=code, message=detail))
        if type(error).__name__ == "PlatformError" and status < 500:
            return UsageError(f"{self.url}: {detail}")
        if after := (headers or {}).get("Retry-After", ""):
            vars(error)["retry_after"] = float(after) if after.isdecimal() else None
        return error


class Lacking(UsageError):
    """Something that was named has to be sent to the server first; it says what, if asked again."""

    code = "uploads-missing"

    def __init__(self, url: str, digests: list[str]) -> None:
        many = f"{len(digests)} uploads" if digests else "some uploads"
        super().__init__(f"{many} are not at {url}, or not any more")
        self.digests = digests


class Reply:
    """An answer that comes. Read to its end, its connection is used again; else it is closed."""

    def __init__(
        self, http: Http, connection: HTTPConnection, response: HTTPResponse, grip: Grip
    ) -> None:
        self._http, self._connection, self._response = http, connection, response
        self._grip = grip
        self.status = response.status
        self.headers = dict(response.headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._grip.take(None)
        if self._response.isclosed() and not self._response.will_close and not self._grip.let:
            self._http.keep(self._connection)
        else:
            self._connection.close()

    def read(self) -> bytes:
        """All of it."""
        try:
            return self._response.read()
        except (OSError, HTTPException) as exc:
            raise self._http.broken(exc) from None

    def document(self) -> Any:
        """It as JSON; None if it is none."""
        try:
            return json.loads(self.read())
        except (ValueError, RecursionError):
            return None

    def lines(self) -> Iterator[dict[str, Any]]:
        """Its lines, each a JSON object, as they come."""
        while line := self._line():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                found = None
            if not isinstance(found, dict):
                raise ServerUnavailable(f"{self._http.url} answered what is no answer")
            yield found

    def _line(self) -> bytes:
        try:
            return self._response.readline(LONGEST_LINE)
        except (OSError, HTTPException, ValueError) as exc:
            raise self._http.broken(exc) from None


def _close(idle: list[tuple[float, HTTPConnection]]) -> None:
    for _, connection in idle:
        connection.close()


def _ended(connection: HTTPConnection) -> bool:
    """Whether the other side has closed it, or has said something that nobody asked."""
    if connection.sock is None:
        return True
    waiting = select.poll()
    waiting.register(connection.sock, select.POLLIN)
    return bool(waiting.poll(0))
