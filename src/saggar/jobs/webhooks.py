"""
Telling somebody at a URL how a job ended.

The URL is a stranger's. It must lead to the world: an address of a private network, or our own,
would make us his messenger where he cannot go himself. A name is looked up once, and what was
looked at is what is connected to.
"""

import hmac
import http.client
import ipaddress
import json
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from time import monotonic, time
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from saggar.errors import InvalidTask, NotFound, PlatformError
from saggar.jobs.job import Job
from saggar.jobs.store import Store
from saggar.model.quantity import KiB

PATIENCE: Final = 10.0
"""Seconds for all of it: a receiver that says a byte now and then is none."""
LONGEST: Final = 2048
"""Characters of a URL."""
HEAD: Final = 64 * KiB
"""Bytes of an answer in which its status must have come."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")
_NOBODYS: Final = tuple(
    map(ipaddress.IPv6Network, ("::/96", "fec0::/10", "64:ff9b:1::/48", "2001::/32"))
)
"""Older kinds of IPv6 for one's own network, and tunnels that lead anywhere."""


def admit(url: str, *, private: bool = False) -> None:
    """InvalidTask for a URL that is none, or that leads where nobody is told anything."""
    parts = _parts(url)
    _address(parts, private=private)


def deliver(
    store: Store, job_id: str, url: str, *, private: bool = False, secret: str | None = None
) -> bool:
    """Tell the end of a job; False if it is not known any more, which nobody need be told."""
    try:
        job = store.find(job_id)
    except NotFound:
        return False
    data = json.dumps(told(job)).encode()
    post(url, data, private=private, headers=signed(secret, job_id, data, int(time())))
    return True


def told(job: Job) -> dict[str, Any]:
    """What is said of a job: how it ended, not what it printed."""
    return {
        "job_id": job.id,
        "state": job.state,
        "status": job.result.status if job.result else None,
        "attempts": job.attempt,
        "finished": job.finished,
        "failure": job.failure.model_dump() if job.failure and job.result is None else None,
    }


def signed(secret: str | None, job_id: str, data: bytes, at: int) -> dict[str, str]:
    """Headers by which its receiver knows that we sent it, as standardwebhooks.com has them."""
    said = {"webhook-id": job_id, "webhook-timestamp": str(at)}
    if secret is None:
        return said
    content = f"{job_id}.{at}.".encode() + data
    found = b64encode(hmac.digest(secret.encode(), content, "sha256")).decode()
    return {**said, "webhook-signature": f"v1,{found}"}


def post(
    url: str, data: bytes, *, private: bool = False, headers: Mapping[str, str] | None = None
) -> None:
    """POST some JSON there, following nobody elsewhere. PlatformError if it is not taken."""
    parts = _parts(url)
    address = _address(parts, private=private)
    end = monotonic() + PATIENCE
    try:
        with closing(_connection(parts, address, end)) as connection:
            path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            said = {"Content-Type": "application/json", "Connection": "close", **(headers or {})}
            connection.sock.settimeout(_left(end))  # all of one `sendall`
            connection.request("POST", path, data, said)
            status = _status(connection.sock, end)
    except (OSError, http.client.HTTPException) as exc:
        raise PlatformError(f"nobody takes what is posted to {parts.hostname}: {exc}") from exc
    if not 200 <= status < 300:
        raise PlatformError(f"{parts.hostname} answered {status} to what was posted")


def _status(sock: socket.socket, end: float) -> int:
    """
    The status of the answer, of which nothing else matters.

    Read by hand: the library would wait for each byte as long as for all of them.
    """
    head = b""
    while len(head) < HEAD:
        sock.settimeout(_left(end))
        if not (more := sock.recv(4096)):
            break
        head += more
        # What only says that an answer will come has a head of its own.
        while (found := _STATUS.match(head)) and found[1].startswith(b"1"):
            _, over, head = head.partition(b"\r\n\r\n")
            if not over:
                head = found[0]
                break
        if found and not found[1].startswith(b"1"):
            return int(found[1])
    raise http.client.BadStatusLine(ascii(head[:40]))


def _left(end: float) -> float:
    left = end - monotonic()
    if left <= 0:
        raise TimeoutError(f"no answer within {PATIENCE:g} s")
    return left


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except (TypeError, ValueError, AttributeError):
        good = False
    if not good or parts.username is not None or not all("!" <= letter <= "~" for letter in url):
        raise InvalidTask(
            "webhook: wanted a URL such as https://example.org/done, in ASCII, what is not being"
            f" percent-encoded; found {url!r:.80}"
        )
    if len(url) > LONGEST:
        raise InvalidTask(f"webhook: a URL has {LONGEST} characters at most, found {len(url)}")
    return parts


def _address(parts: SplitResult, *, private: bool) -> str:
    host = str(parts.hostname)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise InvalidTask(f"webhook: {host} is not known: {exc}") from exc
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    for address in addresses:
        if not private and not _public(address):
            raise InvalidTask(
                f"webhook: {host} is {address}, in a network that is not everybody's;"
                " an operator may allow that: Settings(private_webhooks=True)"
            )
    return addresses[0]


def _public(address: str) -> bool:
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if any(found in network for network in _NOBODYS):
            return False
        # What leads to an address of the older kind is as public as that one.
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _TRANSLATED:
            inner = ipaddress.IPv4Address(found.packed[-4:])
        found = inner or found
    return bool(found.is_global and not found.is_multicast)


def _connection(parts: SplitResult, address: str, end: float) -> http.client.HTTPConnection:
    """A connection to the address that was looked at, whatever its name says by now."""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    connection = http.client.HTTPConnection(str(parts.hostname), port, timeout=PATIENCE)
    connection.sock = socket.create_connection((address, port), _left(end))
    if secure:
        connection.sock.settimeout(_left(end))  # all of a handshake
        context = ssl.create_default_context()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=parts.hostname)
    return connection
