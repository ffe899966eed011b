"""
Folder trees on our side: written to disk, sealed, searched, removed.

Without recursion anywhere: a package may hold a tree deeper than Python's stack.
"""

import ctypes
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

_MOST_LOOKED_AT: Final = 200_000


def write(path: Path, text: str) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> str:
    """The text of a file of ours."""
    return path.read_text("utf-8")


def sha256(path: str) -> str:
    """The digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(folder: Path) -> None:
    """Bring everything below a folder to disk: one call instead of one for each file."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder, a folder before what is in it, links as links."""
    pending = [folder]
    while pending:
        with suppress(PermissionError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                yield entry.path, found
                if stat.S_ISDIR(found.st_mode):
                    pending.append(entry.path)


def seal(site: Path) -> int:
    """
    Make a tree read-only and readable for every uid; its size in bytes.

    A file with further names is an installer's, too: it keeps its mode if everybody can read it.
    """
    size = 0
    (site / ".lock").unlink(missing_ok=True)  # uv's own, for the time of the installation
    for path, found in walk(str(site)):
        size += found.st_blocks * 512
        # chmod follows a link, and a wheel might hold one that leads out.
        if not stat.S_ISLNK(found.st_mode) and not _is_shared(found):
            executable = stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_IXUSR
            os.chmod(path, 0o555 if executable else 0o444)
    site.chmod(0o555)
    return size


def _is_shared(found: os.stat_result) -> bool:
    """Whether a file is one of an installer's cache that anybody may read and only we write."""
    wanted = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
    wanted |= stat.S_IXOTH if found.st_mode & stat.S_IXUSR else 0
    shut = not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID)
    is_file = stat.S_ISREG(found.st_mode) and found.st_nlink > 1
    return is_file and shut and found.st_mode & wanted == wanted


def delete(folder: Path) -> None:
    """Remove a tree, read-only or not; one that somebody else is removing too is fine."""
    if not folder.exists():
        return
    folder.chmod(0o700)
    found = list(walk(str(folder)))
    with suppress(FileNotFoundError):
        for path, about in found:
            if stat.S_ISDIR(about.st_mode):
                os.chmod(path, 0o700)
        for path, about in reversed(found):
            (os.rmdir if stat.S_ISDIR(about.st_mode) else os.unlink)(path)
        folder.rmdir()


def unreadable(folder: str) -> tuple[str, ...]:
    """What in a folder of the host a sandbox's user could not read, by relative name."""
    looked_at = islice(walk(folder), _MOST_LOOKED_AT)
    return tuple(
        os.path.relpath(path, folder) for path, found in looked_at if not _is_readable(path, found)
    )


def _is_readable(path: str, found: os.stat_result) -> bool:
    if stat.S_ISLNK(found.st_mode):
        return True
    if os.geteuid() != 0:
        # The sandbox's user is then our own.
        return os.access(path, os.R_OK)
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0)
    return found.st_mode & wanted == wanted
