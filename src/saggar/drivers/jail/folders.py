"""
The host's folders that children of the landlock rung work in, for want of a mount namespace.

One for each fork server, locked while it lives, with one inside for each child.
"""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "saggar-work-"


@contextmanager
def held() -> Iterator[str]:
    """A folder that nobody sweeps for the length of a block."""
    folder = tempfile.mkdtemp(prefix=PREFIX)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        # Children with ids of their own pass through it to their folders.
        os.chmod(folder, 0o711)  # noqa: S103
        yield folder
    finally:
        os.close(lock)
        remove(folder)


def sweep() -> int:
    """Remove what dead processes of this user left; how many folders."""
    found = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Anybody may make a file of that name: not ours, not a folder, or in use is passed over.
        with suppress(OSError):
            found += _remove_unheld(folder)
    return found


def _remove_unheld(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(folder)
        return True
    finally:
        os.close(fd)


def remove(folder: str | Path) -> None:
    """Delete a folder a guest has filled: a thousand levels are too deep for rmtree."""
    subprocess.run(["rm", "-rf", "--", folder], check=False)
