"""
Files that a guest made, on their way into the caller's current folder.

Names and contents are the guest's. Nothing is followed: not a link among the folders, not one
in the place of the file. A hidden name is written only if a pattern spells one out: `**` was
not meant to bring home a `.git/hooks`.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from saggar.model.result import Skipped
from saggar.model.task import File

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a fifo that lies there would wait for its reader.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REASONS = {
    errno.ELOOP: "a link is in the way",
    errno.ENOTDIR: "a file or a link is in the way",
    errno.EISDIR: "a folder is in the way",
    errno.ENXIO: "a fifo or a device is in the way",
}


def hidden(files: Sequence[File], patterns: Sequence[str]) -> list[Skipped]:
    """The files that nobody asked for by the dot in their names."""
    if any(_hidden(pattern) for pattern in patterns):
        return []
    reason = "its name is hidden, and no pattern spells that out"
    return [Skipped(path=file.path, reason=reason) for file in files if _hidden(file.path)]


def write(files: Sequence[File], folder: str = ".") -> list[Skipped]:
    """Write each file below `folder`, over those of the same name; what could not be, and why."""
    root = os.open(folder, _FOLDER & ~os.O_NOFOLLOW)
    try:
        reasons = [(file.path, _write(root, file)) for file in files]
    finally:
        os.close(root)
    return [Skipped(path=path, reason=reason) for path, reason in reasons if reason]


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _write(root: int, file: File) -> str | None:
    *folders, name = file.path.split("/")
    try:
        with _entered(root, folders) as parent:
            _fill(os.open(name, _NEW, file.mode, dir_fd=parent), file.content)
    except OSError as exc:
        return _REASONS.get(exc.errno or 0) or os.strerror(exc.errno or 0).lower()
    return None


@contextmanager
def _entered(root: int, folders: Sequence[str]) -> Iterator[int]:
    """A descriptor of the folder below `root`; folders that are missing are made."""
    here = os.dup(root)
    try:
        for name in folders:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=here)
            here, left = os.open(name, _FOLDER, dir_fd=here), here
            os.close(left)
        yield here
    finally:
        os.close(here)


def _fill(fd: int, content: bytes) -> None:
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ENXIO, "not a regular file")
        os.truncate(fd, 0)
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)
