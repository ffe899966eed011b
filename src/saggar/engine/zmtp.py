"""
ZMTP 3.0, the client's side: how a Jupyter kernel speaks over a stream socket. Pure.

Our own, and not libzmq's, for two reasons. A kernel's end is a guest's: libzmq keeps whatever parts
of a message come until the last one is there, which has no bound, and here everything has one. And
a host that holds no zmq context may fork, as the workers of a queue do.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MORE, LONG, COMMAND = 1, 2, 4
GREETING = b"\xff" + b"\0" * 8 + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32
MOST_PARTS = 256
MOST_COMMAND = 1 << 16
SHORT = 255
READY = b"\x05READY"
SUBSCRIBE_ALL = b"\x01"


class NotSpoken(ValueError):
    """What came is not this protocol."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """In place of a message that was dropped as it came."""

    size: int
    """Bytes of the parts that were seen."""


Message = list[bytes]


def opening(kind: str) -> bytes:
    """
    What a socket of a kind says first: DEALER or SUB.

    Nothing may follow before the other side is ready as well: libzmq hangs up on whoever hurries.
    """
    properties = {b"Socket-Type": kind.encode(), b"Identity": b""}
    ready = READY
    for name, value in properties.items():
        ready += bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
    return GREETING + _frame(COMMAND, ready)


def packed(parts: Message) -> bytes:
    """A message as it goes over the wire."""
    last = len(parts) - 1
    return b"".join(_frame(MORE if n < last else 0, part) for n, part in enumerate(parts))


def _frame(flags: int, body: bytes) -> bytes:
    if len(body) <= SHORT:
        return bytes([flags, len(body)]) + body
    return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body


class Decoder:
    """
    Messages out of a byte stream that an enemy may have written.

    Holds at most `largest` bytes of one message, and one piece more. A message that is longer is
    dropped while it comes, and a `TooLong` stands in its place.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._buffer = bytearray()
        self._parts: Message = []
        self._size = 0
        self._dropping = False
        self._skip = self._flags = 0
        self._greeted = False
        self.ready = False
        """Whether the other side takes messages."""

    def feed(self, data: bytes) -> Iterator[Message | TooLong]:
        """Take what was read; give every message that is complete now. NotSpoken if it is none."""
        self._buffer += data
        if not self._greeted and not self._greet():
            return
        while (frame := self._next()) is not None:
            flags, body = frame
            if flags & COMMAND:
                self.ready = self.ready or body.startswith(READY)
                continue
            if not self._dropping:
                self._parts.append(body)
            if not flags & MORE:
                yield self._whole()

    def _greet(self) -> bool:
        said = bytes(self._buffer[: len(GREETING)])
        if said and (said[0] != GREETING[0] or (len(said) > 9 and not said[9] & 1)):
            raise NotSpoken("it does not begin as ZMTP does")
        if len(said) < len(GREETING):
            return False
        if said[10] < 3 or said[12:32] != GREETING[12:32]:
            raise NotSpoken(f"wanted ZMTP 3 without encryption, found version {said[10]}")
        del self._buffer[: len(GREETING)]
        self._greeted = True
        return True

    def _next(self) -> tuple[int, bytes] | None:
        """One frame; empty where it is dropped; None when more has to come."""
        if self._skip:
            return self._skipped()
        buffer = self._buffer
        if len(buffer) < 2 or (buffer[0] & LONG and len(buffer) < 9):
            return None
        flags = buffer[0]
        if flags > MORE | LONG | COMMAND:
            raise NotSpoken(f"no frame has the flags {flags:#x}")
        start = 9 if flags & LONG else 2
        size = int.from_bytes(buffer[1:start], "big")
        if self._too_much(flags, size):
            del buffer[:start]
            self._skip, self._flags = size, flags
            return self._skipped()
        if len(buffer) < start + size:
            return None
        body = bytes(buffer[start : start + size])
        del buffer[: start + size]
        if not flags & COMMAND:
            self._size += size
        return flags, body

    def _too_much(self, flags: int, size: int) -> bool:
        if flags & COMMAND:
            if size > MOST_COMMAND:
                raise NotSpoken(f"no command has {size} bytes")
            return False
        if self._size + size > self._largest or len(self._parts) >= MOST_PARTS or self._dropping:
            self._size += size
            self._parts.clear()
            self._dropping = True
        return self._dropping

    def _skipped(self) -> tuple[int, bytes] | None:
        gone = min(len(self._buffer), self._skip)
        del self._buffer[:gone]
        self._skip -= gone
        return None if self._skip else (self._flags, b"")

    def _whole(self) -> Message | TooLong:
        parts, size, dropped = self._parts, self._size, self._dropping
        self._parts, self._size, self._dropping = [], 0, False
        return TooLong(size) if dropped else parts
