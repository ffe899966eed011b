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
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from time import time
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from saggar.errors import InvalidTask, PlatformError, SaggarError
from saggar.jobs import keys
from saggar.jobs.job import Job
from saggar.jobs.store import Store

PATIENCE: Final = 10.0


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
    except SaggarError:
        delivered = False
    else:
        data = json.dumps(told(job)).encode()
        post(url, data, private=private, headers=signed(secret, job_id, data, int(time())))
        delivered = True
    with store.guarded():
        store.jobs.zrem(keys.WEBHOOKS, job_id)
    return delivered


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
    try:
        with closing(_connection(parts, address)) as connection:
            path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            said = {"Content-Type": "application/json", **(headers or {})}
            connection.request("POST", path, data, said)
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        raise PlatformError(f"nobody takes what is posted to {parts.hostname}: {exc}") from exc
    if not 200 <= status < 300:
        raise PlatformError(f"{parts.hostname} answered {status} to what was posted")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username is not None or any(letter <= " " for letter in url):
        raise InvalidTask(
            f"webhook: wanted a URL such as https://example.org/done, found {url!r:.80}"
        )
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
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None) or found
    return bool(inner.is_global and not inner.is_multicast)


def _connection(parts: SplitResult, address: str) -> http.client.HTTPConnection:
    """A connection to the address that was looked at, whatever its name says by now."""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    connection = http.client.HTTPConnection(str(parts.hostname), port, timeout=PATIENCE)
    connection.sock = socket.create_connection((address, port), PATIENCE)
    if secure:
        context = ssl.create_default_context()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=parts.hostname)
    return connection
