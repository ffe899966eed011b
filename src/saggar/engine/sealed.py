"""
Shared memory between host and guest: files of memory that nobody can change any more.

What a guest sends is mapped only when the kernel says that it is sealed: one that shrinks under us
would end this process, and one that changes would be read twice and differ.
"""

import fcntl
import mmap
import os
from collections.abc import Sequence

EDGE = 64
"""Buffers begin at multiples of it."""
WANTED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
PIECE = 1 << 30


def share(buffers: Sequence[memoryview]) -> int:
    """A sealed file of these buffers, one behind the other. OSError if there is no room for it."""
    fd = os.memfd_create("saggar", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        offset = 0
        for one in buffers:
            left = one
            while left:
                left = left[os.pwrite(fd, left[:PIECE], offset + one.nbytes - left.nbytes) :]
            offset += -(-one.nbytes // EDGE) * EDGE
        os.ftruncate(fd, offset)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, WANTED | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def mapped(fd: int, most: int) -> memoryview:
    """
    The memory of a file that a guest sent, as a copy of our own that is made where we write.

    Closes the descriptor in any case. ValueError if it is not sealed, or larger than `most`.
    """
    try:
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            raise ValueError("what came beside the value is no shared memory") from None
        if seals & WANTED != WANTED:
            raise ValueError("the shared memory beside the value is not sealed")
        size = os.fstat(fd).st_size
        if not 0 < size <= most:
            raise ValueError(f"the shared memory has {size:,} bytes, the limit is {most:,}")
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        return memoryview(mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=protection))
    finally:
        os.close(fd)
