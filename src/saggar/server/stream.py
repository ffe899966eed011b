"""
Answers that take a while: given up when the caller leaves, told as they come to be.

A caller who reads slowly holds up nobody: what is produced waits for him in memory, and how much
that can be is a limit of the run it comes from. Only what a generator yields has none: it waits
until he has read what was before.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from saggar.errors import SaggarError, UsageError
from saggar.model.quantity import MiB
from saggar.server.body import write
from saggar.server.problems import alone

if TYPE_CHECKING:
    from anyio import CancelScope
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")

KEEPALIVE: Final = 10.0
"""Seconds without news after which a line says that there are none."""
NO_NEWS: Final = write({"type": "keepalive"}) + b"\n"
AHEAD: Final = 1 * MiB
"""Bytes that wait for a slow reader before a generator waits as well."""
UNREAD: Final = 60.0
"""Seconds for which a generator waits so."""
LEFT: Final = 499
"""The status that nobody gets; logs of other servers use it."""


async def while_connected(request: Request, call: Callable[[], Awaitable[T]]) -> T:
    """
    What `call` returns. It is cancelled when the caller leaves. The body must have been read.

    Raises:
        HTTPException: 499, the caller left first.
    """
    found: list[T] = []
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_leave_with_caller, request.receive, tasks.cancel_scope)
            found.append(await call())
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise alone(group) from None
    if not found:
        raise HTTPException(LEFT, "the caller left before the answer was there")
    return found[0]


class Lines(Response):
    """
    JSON documents, one a line, each sent as soon as it is there.

    Lines `{"type": "keepalive"}` come when nothing else does: writing is how one finds out that
    nobody reads.
    """

    media_type = "application/x-ndjson"
    no_news = NO_NEWS

    def __init__(
        self,
        documents: AsyncGenerator[Mapping[str, object]],
        failed: Callable[[SaggarError], Mapping[str, object]],
        keepalive: float = KEEPALIVE,
        unread: float = UNREAD,
    ) -> None:
        super().__init__()
        # The length of an empty body was set, and there is one.
        del self.headers["content-length"]
        self._documents, self._failed, self._keepalive = documents, failed, keepalive
        self._unread = unread
        self._waiting = 0
        """Bytes that are produced and not sent."""
        self._sent = anyio.Event()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:  # noqa: ARG002 - ASGI's
        """Send them, until there are no more or the caller leaves."""
        outlet, inlet = anyio.create_memory_object_stream[bytes](math.inf)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_leave_with_caller, receive, tasks.cancel_scope)
                tasks.start_soon(self._produce, outlet)
                await self._send(inlet, send)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise alone(group) from None

    async def _produce(self, outlet: MemoryObjectSendStream[bytes]) -> None:
        async with outlet:
            try:
                async with aclosing(self._documents) as documents:
                    async for document in documents:
                        line = self.line(document)
                        self._waiting += len(line)
                        outlet.send_nowait(line)
                        if document.get("kind") == "yielded":
                            await self._room()
            except SaggarError as exc:
                # The status is long sent: what is left is to say it here.
                with suppress(anyio.BrokenResourceError):
                    outlet.send_nowait(self.line(self._failed(exc)))
            except anyio.BrokenResourceError:
                return  # the caller left a moment ago, and nobody sends what is produced

    async def _room(self) -> None:
        """Wait until there is little that was not sent. UsageError if nobody reads at all."""
        try:
            while self._waiting > AHEAD:
                self._sent = anyio.Event()
                with anyio.fail_after(self._unread):
                    await self._sent.wait()
        except TimeoutError:
            # Whoever holds a connection and does not read would hold a run as well.
            raise UsageError(f"for {self._unread:g} s nobody read what is yielded") from None

    def line(self, document: Mapping[str, object]) -> bytes:
        """One of them, as it is sent."""
        return write(document) + b"\n"

    async def _send(self, inlet: MemoryObjectReceiveStream[bytes], send: "Send") -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        async with inlet:
            while (lines := await self._next(inlet)) is not None:
                await send({"type": "http.response.body", "body": lines, "more_body": True})
                if lines is not self.no_news:
                    self._waiting -= len(lines)
                    self._sent.set()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self, inlet: MemoryObjectReceiveStream[bytes]) -> bytes | None:
        """All lines that are there, at least one; None after the last."""
        try:
            with anyio.fail_after(self._keepalive):
                lines = [await inlet.receive()]
            while inlet.statistics().current_buffer_used:
                lines.append(inlet.receive_nowait())
            return b"".join(lines)
        except TimeoutError:
            return self.no_news
        except anyio.EndOfStream:
            return None


async def _leave_with_caller(receive: "Receive", scope: "CancelScope") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
