"""
The worker that is there when nobody started one: for a broker of our own only.

It runs in the background, one for each state directory, and ends by itself when no client is left
and nothing waits. Whoever submits holds a shared lock while he lives; that is how it knows.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from saggar.config import Settings
from saggar.jobs import keeper
from saggar.jobs.job import HEAVY, STANDARD
from saggar.model.quantity import MiB

QUEUES: Final = (STANDARD, HEAVY)
"""What it reads; whoever has a queue of his own has a worker of his own."""
CLIENTS: Final = "clients.lock"
WORKER: Final = "worker.lock"
LOG: Final = "worker.log"
LONGEST_LOG: Final = 8 * MiB
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
    trim(state)
    # Without his ceiling: it held when the job was submitted, and others have others.
    said = settings.replace(state_dir=state, ceiling=None).model_dump_json()
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


def trim(state: Path) -> None:
    """Keep the logs of a worker and a broker from growing without end; what goes is kept once."""
    for name in (LOG, keeper.LOG):
        with suppress(FileNotFoundError):
            path = state / name
            if path.stat().st_size > LONGEST_LOG:
                shutil.copyfile(path, f"{path}.1")
                os.truncate(path, 0)  # whoever writes there appends


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
