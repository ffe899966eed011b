"""
What two processes of one user say to each other about live sandboxes: lines of JSON over a socket.

A line may be followed by bytes, whose number it says. Both are bounded, and neither is a guest's:
what a guest wrote is only ever among the bytes.
"""

import json
import socket
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

from saggar.errors import InvalidTask

LONGEST = 1 << 20
"""Bytes of a line: the words that start a program fit, as the kernel would take them."""
LARGEST = 1 << 18
"""Bytes that follow one."""
PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Message:
    """One line, and what followed it."""

    head: dict[str, Any]
    data: bytes = field(default=b"", repr=False)

    @property
    def say(self) -> Any:
        """What it is about."""
        return self.head.get("say")


class Line:
    """Messages in both directions."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._end: socket.socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610
        self._buffer = bytearray()
        self._sending = anyio.Lock()

    async def send(self, say: str, data: bytes = b"", **head: object) -> None:
        """
        One message; more bytes than one may have go as several.

        Waits while the other side does not read. BrokenResourceError when it is gone.
        """
        async with self._sending:
            for start in range(0, max(1, len(data)), LARGEST):
                piece = data[start : start + LARGEST]
                line = json.dumps({"say": say, **head, "size": len(piece)}).encode() + b"\n"
                await self._stream.send(line + piece)

    async def receive(self) -> Message | None:
        """
        The next message; None at the end.

        Raises:
            InvalidTask: What came is none.
        """
        try:
            line = await self._line()
            if line is None:
                return None
            head = _head(line)
            return Message(head, await self._exactly(head["size"]))
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return None

    async def _line(self) -> bytes | None:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LONGEST:
                raise InvalidTask(f"a line of a request has at most {LONGEST:,} bytes")
            self._buffer += await self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def _more(self) -> bytes:
        """
        What has come. Read from the socket itself: a stream's own `receive` that is cancelled in
        the moment in which something comes leaves an error in the event loop.
        """
        while True:
            try:
                data = self._end.recv(PIECE)
            except BlockingIOError:
                await anyio.wait_readable(self._end)
                continue
            except OSError as exc:
                raise anyio.BrokenResourceError from exc
            if not data:
                raise anyio.EndOfStream
            return data

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._buffer += await self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


def _head(line: bytes) -> dict[str, Any]:
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    match head:
        case {"say": str(), "size": int(size)} if 0 <= size <= LARGEST:
            return dict(head)
        case {"say": str()} if "size" not in head:
            return {**head, "size": 0}
    raise InvalidTask('a request is a line of JSON such as {"say": "list"}')
