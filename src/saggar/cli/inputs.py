"""
Files of the caller's, on their way into the work folder.

Links that are named are followed, as everywhere on a command line; links found inside a folder
are not: the folder was meant, not whatever it points to.
"""

import os
import stat
from collections.abc import Iterator, Sequence

from saggar.errors import InvalidTask, UsageError
from saggar.model.quantity import format_bytes
from saggar.model.task import LARGEST_TASK, File

MOST_FILES = 10_000


def gather(words: Sequence[str]) -> tuple[File, ...]:
    """
    The files that `--input` names, folders with everything in them.

    Raises:
        UsageError: One cannot be read, or all of them are more than a task carries.
    """
    files: list[File] = []
    room = LARGEST_TASK
    for word in words:
        for path, name in found(word):
            content = read(path, room)
            room -= len(content)
            files.append(File(path=name, content=content, mode=mode(path)))
            if len(files) > MOST_FILES:
                raise UsageError(f"--input: more than {MOST_FILES} files; pack them into one")
    return tuple(files)


def found(word: str) -> Iterator[tuple[str, str]]:
    """Each file that a word stands for, with its name in the work folder."""
    path, name = named(word)
    if not path:
        raise UsageError(f"--input: wanted PATH or PATH=NAME, found {word!r}")
    if not name:
        raise UsageError(f"--input: {path!r} has no name of its own; say which: {path}=NAME")
    if os.path.isdir(path):
        yield from below(path, name)
    else:
        yield path, name


def named(word: str) -> tuple[str, str]:
    """A path and the name it goes in under: its last part, or what follows `=`."""
    path, sign, name = word.rpartition("=")
    if not word or (sign and not os.path.lexists(word)):
        return path, name
    # Made absolute first, so that `.` has a name.
    return word, os.path.basename(os.path.abspath(word))


def below(folder: str, name: str) -> Iterator[tuple[str, str]]:
    """The regular files in a folder, in an order that is the same every time."""
    for path, folders, leaves in os.walk(folder, onerror=_unreadable):
        folders.sort()
        inside = os.path.join(name, os.path.relpath(path, folder))
        for leaf in sorted(leaves):
            full = os.path.join(path, leaf)
            if stat.S_ISREG(os.lstat(full).st_mode):
                yield full, os.path.normpath(os.path.join(inside, leaf))


def read(path: str, room: int) -> bytes:
    """A file's content. UsageError if it cannot be read or is larger than `room`."""
    try:
        with open(path, "rb") as file:
            content = file.read(room + 1)
    except OSError as exc:
        raise UsageError(f"cannot read {path!r}: {_reason(exc)}") from None
    if len(content) > room:
        raise InvalidTask(
            f"{path!r} does not fit: code and files may weigh {format_bytes(LARGEST_TASK)} together"
        )
    return content


def mode(path: str) -> int:
    """Its permissions, readable by their owner at least: inside, the program is somebody else."""
    return stat.S_IMODE(os.stat(path).st_mode) & 0o777 | stat.S_IRUSR


def _unreadable(exc: OSError) -> None:
    raise UsageError(f"cannot read {exc.filename!r}: {_reason(exc)}")


def _reason(exc: OSError) -> str:
    return (exc.strerror or str(exc)).lower()
