"""
The worker that is there when nobody started one: for a broker of our own only.

It runs in the background, one for each state directory, and ends by itself when no client is left
and nothing waits. Whoever submits holds a shared lock while he lives; that is how it knows.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from saggar.config import Settings

CLIENTS: Final = "clients.lock"
WORKER: Final = "worker.lock"
LOG: Final = "worker.log"
LEAVING: Final = 20.0
"""Seconds that a worker may take to end."""
SETTINGS: Final = "_SAGGAR_WORKER_SETTINGS"
"""The variable in which a worker finds the settings of whoever started it, as JSON."""
# Its starter is rid of it at once: what it leaves behind is not his child.
_DETACH: Final = (
    "import os, sys; os.fork() and os._exit(0); os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"
)


def client(state: Path) -> int:
    """Be a client from now on; the descriptor is the lock."""
    return _lock(state / CLIENTS, fcntl.LOCK_SH)


def start(settings: Settings, state: Path) -> None:
    """Start one; does not wait until it works. One that finds another at work ends again."""
    said = settings.replace(state_dir=state).model_dump_json()
    with open(state / LOG, "ab") as log:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", _DETACH, sys.executable, "-m", "saggar.worker"],
            env={**os.environ, SETTINGS: said},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            check=True,
        )


def take(state: Path, patience: float = LEAVING) -> int | None:
    """
    The right to be the one worker of this directory. None: somebody has it, and keeps it.

    One that is about to end lets go of it within this time.
    """
    end = monotonic() + patience
    while True:
        try:
            return _lock(state / WORKER, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() > end:
                return None
        sleep(0.2)


@contextmanager
def deserted(state: Path) -> Iterator[bool]:
    """Whether no client is left. None can come before the block ends."""
    try:
        held = _lock(state / CLIENTS, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(held)


def _lock(path: Path, kind: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, kind)
    except BaseException:
        os.close(fd)
        raise
    return fd
