"""Locks between processes that share a store; the kernel lets go of them when a holder dies."""

import errno
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import anyio

_BETWEEN_TRIES: Final = 0.05


@contextmanager
def held(path: Path, operation: int) -> Iterator[None]:
    """Hold a lock (LOCK_SH or LOCK_EX) that nobody keeps for longer than a moment."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno not in {errno.EROFS, errno.EACCES}:
            raise
        # As in an image that was built with its layers: what cannot be changed needs no lock.
        yield
        return
    with _released(fd):
        fcntl.flock(fd, operation)
        yield


@contextmanager
def tried(path: Path) -> Iterator[bool]:
    """Hold a lock if nobody else does; says whether that is so."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with _released(fd):
        yield _locked(fd)


@asynccontextmanager
async def turn(path: Path, on_wait: Callable[[], None]) -> AsyncIterator[int]:
    """
    Hold a lock for as long as a build takes; `on_wait` is called once if it is taken.

    Gives its descriptor: a process that inherits it keeps the lock when we are killed.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with _released(fd):
        if not _locked(fd):
            on_wait()
            # Asked for again and again, because a thread that waits in flock cannot be
            # cancelled, and enough of them would leave none for the build they wait for.
            # The wait ends with the holder, however that one ends.
            while not _locked(fd):  # noqa: ASYNC110 (another process cannot set our event)
                await anyio.sleep(_BETWEEN_TRIES)
        yield fd


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _released(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        # Not left to close(): a process forked meanwhile may have the descriptor too.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
