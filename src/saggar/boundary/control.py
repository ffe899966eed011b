"""
What the host and a fork server say to each other: fixed records over a sequenced-packet socket.

The host asks (`PARK`) and says which children it has finished with (`RELEASE`); the server and its
children answer (`PARKED`, with descriptors, `GONE`, `FAILED`). Structs, because a fork server that
imported somebody's package is less trusted than the host.
"""

import struct

from saggar.boundary.parts import Parts

PARK, PARKED, GONE, FAILED, RELEASE = range(1, 6)

RECORD = struct.Struct("<BxxxIidQ")
MAX_RECORD = 16_384

DESCRIPTORS = ("channel", "stdin", "stdout", "stderr", "work", "process", "space", "init")
"""What comes with `PARKED`, in this order; the last two are missing on the landlock rung."""


class Record(Parts):
    """One message, whichever way it goes."""

    __slots__ = ()
    kind: int
    serial: int
    """Of the child."""
    status: int
    """Its wait status, for `GONE`; for `PARK`, whether its run is waiting already."""
    cpu: float
    """Seconds, for `GONE`."""
    memory: int
    """The peak of its resident bytes, for `GONE`."""
    text: str
    """
    Why, for `FAILED`; for `PARKED` the work folder as the child calls it; for `PARK` and `RELEASE`
    the serials of children of which the host holds nothing any more, spaces between them.
    """


def pack(  # noqa: PLR0913, PLR0917 - the fields of the record
    kind: int, serial: int, status: int = 0, cpu: float = 0.0, memory: int = 0, text: str = ""
) -> bytes:
    """A record as it goes over the socket."""
    encoded = text.encode("utf-8", "replace")[: MAX_RECORD - RECORD.size]
    return RECORD.pack(kind, serial, status, cpu, memory) + encoded


def unpack(data: bytes) -> Record:
    """The record in one packet; `struct.error` when it is none."""
    kind, serial, status, cpu, memory = RECORD.unpack_from(data)
    text = data[RECORD.size :].decode("utf-8", "replace")
    return Record(kind, serial, status, cpu, memory, text)


def reason(exc: BaseException) -> str:
    """What went wrong and in which function of ours, in one line, for a `FAILED` record."""
    where = exc.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" (in {where.tb_frame.f_code.co_name}, line {where.tb_lineno})" if where else ""
    return f"{type(exc).__name__}: {exc}{place}"
