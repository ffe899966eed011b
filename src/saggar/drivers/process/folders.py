"""
The folders that programs without walls work in: one for each host, and in it one for each child.

A living host holds a lock on its own, so that what a dead one left can be told apart.
"""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "saggar-process-"
REMOVE = 'rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwx -- "$1"; exec rm -rf -- "$1"; }'
"""In a process of its own: neither a thousand levels nor folders that cannot be listed stop it."""


@contextmanager
def own_folder() -> Iterator[str]:
    """A folder that only this user can enter, for the length of a block."""
    folder = os.path.realpath(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder
    finally:
        os.close(lock)
        try:
            os.rmdir(folder)
        except OSError:
            remove(folder)  # a child that was never born left something


def make_child_folder(folder: str) -> tuple[str, str]:
    """The two places in it where a program finds it may write: to work, and for what passes."""
    places = os.path.join(folder, "work"), os.path.join(folder, "tmp")
    for path in (folder, *places):
        os.mkdir(path, 0o700)
    return places


def remove(folder: str) -> None:
    """Delete a folder that a program has filled with whatever it liked; a sweep may have to."""
    with suppress(OSError):  # no process to be had for it
        subprocess.run(
            ["/bin/sh", "-c", REMOVE, "sh", folder],
            env={"PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


def sweep_folders() -> int:
    """Remove the folders of hosts that are dead; how many there were."""
    return sum(map(_sweep, Path(tempfile.gettempdir()).glob(f"{PREFIX}*")))


def _sweep(folder: Path) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # another user's, or gone meanwhile
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(str(folder))
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
