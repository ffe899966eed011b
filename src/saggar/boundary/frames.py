"""
Frames: how the host and the runner inside speak over one stream socket.

A frame is `version, kind, head length, blob length`, then the two parts. The host's heads are
`marshal` (the guest trusts the host, and it needs no import); the guest's heads are JSON, because
the host unmarshals nothing that a guest wrote.
"""

import struct

from saggar.boundary.parts import Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
TASK, READY, DISPLAY, VALUE, ERROR, DONE, STANDING, TOLD, TEXT, WRITTEN, CLEARED = range(1, 12)
KINDS = frozenset(range(READY, CLEARED + 1))
"""
The kinds a guest may send. STANDING: an interpreter that nobody forked has started. READY: it has
taken its order, and what follows is the program's. TOLD: what became of a process that a live
sandbox was asked to start. Of a session only: TEXT that Python wrote; WRITTEN, the marks that
were put into its pipes before what follows; CLEARED, what was shown is to go.
"""

HEADER = struct.Struct("<BBxxII")
MAX_HEAD = 1 << 20


def mark(number: int) -> bytes:
    """
    What stands in a pipe where a frame was sent: no terminal shows it, and the host takes it out.

    Of less than PIPE_BUF bytes, so that it is never in two parts.
    """
    return b"\x1b_saggar:%016x\x1b\\" % number


class FrameError(ValueError):
    """What came over the channel is not a frame of this version, or is larger than allowed."""


class Frame(Parts):
    """One message: its kind, its encoded head and the bytes that travel beside it."""

    __slots__ = ()
    kind: int
    head: bytes
    blob: bytes


def pack(kind: int, head: bytes = b"", blob: bytes = b"") -> bytes:
    """The frame as it goes over the wire."""
    return HEADER.pack(VERSION, kind, len(head), len(blob)) + head + blob


class Decoder:
    """
    Frames out of a byte stream that an enemy may have written.

    Holds at most one frame of `max_blob` bytes; anything larger, of another version or of a kind
    that guests do not send raises `FrameError`, and the stream is then useless.
    """

    __slots__ = ("_buffer", "_max_blob")

    def __init__(self, max_blob: int) -> None:
        self._buffer = bytearray()
        self._max_blob = max_blob

    def feed(self, data: bytes) -> "Iterator[Frame]":
        """Take what was read; give every frame that is complete now."""
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        if len(self._buffer) < HEADER.size:
            return None
        version, kind, head, blob = HEADER.unpack_from(self._buffer)
        if version != VERSION or kind not in KINDS:
            raise FrameError(f"not a frame of version {VERSION}: version {version}, kind {kind}")
        if head > MAX_HEAD or blob > self._max_blob:
            raise FrameError(f"frame too large: head {head}, blob {blob} bytes")
        middle = HEADER.size + head
        end = middle + blob
        if len(self._buffer) < end:
            return None
        frame = Frame(
            kind, bytes(self._buffer[HEADER.size : middle]), bytes(self._buffer[middle:end])
        )
        del self._buffer[:end]
        return frame
