"""
Bytes to our own stdout and stderr, as they are and in order.

Whoever reads them may be slow. Waiting must not stop the clock that ends the run, so nothing
here blocks: a descriptor is asked first whether it has room.
"""

import os
import select
import stat

import anyio

from saggar.errors import PlatformError

STDOUT, STDERR = 1, 2
# What a pipe that is writable at all is sure to take without blocking (PIPE_BUF).
_SURE = 4096


async def pour(fd: int, data: bytes) -> None:
    """
    Write all of `data`.

    Raises:
        BrokenPipeError: The reader has gone.
        PlatformError: It cannot be written, as on a full disk.
    """
    try:
        await _pour(fd, data)
    except BrokenPipeError:
        raise
    except OSError as exc:
        reason = os.strerror(exc.errno or 0).lower()
        raise PlatformError(f"the program's output cannot be passed on: {reason}") from exc


async def _pour(fd: int, data: bytes) -> None:
    if stat.S_ISREG(os.fstat(fd).st_mode):
        _write_all(fd, data)
        return
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    left = memoryview(data)
    while left:
        # Asked here first: a pipe with room, the usual case, costs no turn of the event loop.
        if not poll.poll(0):
            await anyio.wait_writable(fd)
            continue
        left = left[os.write(fd, left[:_SURE]) :]


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
