"""Pipes of a live sandbox, as the host reads them: never waiting, and never believing an end."""

import array
import fcntl
import os
import select
import selectors
import termios
from collections.abc import Sequence

import anyio
import anyio.lowlevel

CHUNK = 1 << 18


class Pipe:
    """The reading end of one, or a terminal."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, most: int = CHUNK) -> bytes | None:
        """What it has; nothing at its end; None when it has nothing now."""
        try:
            return os.read(self.fd, most)
        except BlockingIOError:
            return None
        except OSError:
            return b""  # a terminal whose last user is gone

    def rest(self) -> bytes:
        """What lies in it now and no more: somebody may go on writing for ever."""
        data, left = bytearray(), self.lying()
        while len(data) < left and (more := self.read(left - len(data))):
            data += more
        return bytes(data)

    def lying(self) -> int:
        """Bytes that could be read now."""
        count = array.array("i", [0])
        try:
            fcntl.ioctl(self.fd, termios.FIONREAD, count)
        except OSError:
            return 0  # a terminal whose last user is gone
        return count[0]

    @property
    def ended(self) -> bool:
        """Whether nothing lies in it, and nobody is left to write."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return any(not events & select.POLLIN for _, events in poll.poll(0))

    def close(self) -> None:
        """Close it; may be called again."""
        if self.fd >= 0:
            drop(self.fd)
            self.fd = -1


async def read_some(fds: Sequence[int], writing: int = -1) -> list[int]:
    """Wait until one of them can be read, or `writing` be written to; those that can."""
    if ready := _ready(fds, writing):
        await anyio.lowlevel.checkpoint()  # whoever writes without end must not be our only care
        return ready
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        if writing >= 0:
            selector.register(writing, selectors.EVENT_WRITE)
        while True:
            await anyio.wait_readable(int(selector.fileno()))
            if found := selector.select(0):
                return [key.fd for key, _ in found]


def _ready(fds: Sequence[int], writing: int) -> list[int]:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    if writing >= 0:
        poll.register(writing, select.POLLOUT)
    return [fd for fd, _ in poll.poll(0)]


def drop(*fds: int) -> None:
    """Close all of these."""
    for fd in fds:
        os.close(fd)
