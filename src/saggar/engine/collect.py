"""
Collecting files that a guest wrote, out of a tree it may have laid as a trap.

Called only when every process of the run is dead: nothing moves any more, but everything
that lies there was put there by an enemy. So the kernel resolves every path, refusing links
and ways out (openat2), nothing recurses, and whatever can be made large is capped: bytes,
files, depth, and the names looked at.
"""

import ctypes
import errno
import functools
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice, pairwise
from typing import Final

from saggar.errors import InvalidTask, SandboxBroken
from saggar.model.paths import relative
from saggar.model.quantity import format_bytes
from saggar.model.result import Skipped
from saggar.model.task import File

MAX_PARTS: Final = 256
"""Parts of all patterns with wildcards together; every name is held against each of them."""
MAX_SKIPPED: Final = 100
"""Refusals kept with their reasons; a million links must not become a million lines."""

Place = tuple[str, tuple[str, ...]]
"""A pattern, and what is left of it below the folder one stands in."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Files sorted by path, and what was asked for but not taken, with the reason."""

    files: tuple[File, ...]
    skipped: tuple[Skipped, ...]


def collect(  # noqa: PLR0913 (the caps have names, and defaults that fit)
    work_fd: int,
    patterns: Sequence[str],
    *,
    max_bytes: int,
    max_files: int = 1000,
    max_depth: int = 32,
    max_names: int = 20_000,
) -> Collected:
    """
    Read the regular files under a directory whose relative path matches a pattern.

    In a pattern `*`, `?` and `[...]` stay within one name and `**` stands for any number of
    folders; names that begin with a dot are names like any other. A pattern without any of
    these is opened directly, without looking around. A cap that is met leaves standing what
    has been collected so far; a file that fits no more is skipped, smaller ones still come.
    `max_names` caps the names looked at, so that a million of them cost no more.

    Raises:
        InvalidTask: A pattern is absolute or climbs out, or there are too many.
        SandboxBroken: The kernel cannot open files safely (before Linux 5.6).
    """
    places = {pattern: _parts(pattern) for pattern in patterns}
    globs = frozenset(place for place in places.items() if not _is_literal(place[1]))
    if sum(len(parts) for _, parts in globs) > MAX_PARTS:
        raise InvalidTask(f"the patterns to collect have more than {MAX_PARTS} parts together")
    collection = _Collection(work_fd, max_bytes, max_files, max_depth, max_names)
    try:
        for pattern, parts in places.items():
            if _is_literal(parts):
                collection.take_literal(pattern, parts)
        collection.walk(globs)
    except _EnoughError as stop:
        collection.stopped = str(stop)
    return collection.close(places)


class _EnoughError(Exception):
    """A cap was met that ends the whole collection."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder still to be visited."""

    # The parent's path is shared by all its folders: twenty thousand of them at the end of a
    # long path must not cost its length each.
    parent: str
    name: str
    depth: int
    places: frozenset[Place]

    @property
    def path(self) -> str:
        return _join(self.parent, self.name)


@dataclass(slots=True)
class _Collection:
    """One collection under way: what it may still take, and what it has."""

    work: int
    bytes_left: int
    max_files: int
    max_depth: int
    names_left: int
    stopped: str | None = None
    unmentioned: int = 0
    files: dict[str, File] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    matched: set[str] = field(default_factory=set)

    def take_literal(self, pattern: str, parts: tuple[str, ...]) -> None:
        """Take the one file that a pattern without wildcards names, if there is one."""
        if len(parts) > self.max_depth:
            self.skip(pattern, f"lies deeper than {self.max_depth} levels")
            self.matched.add(pattern)
        elif self.take("/".join(parts)):
            self.matched.add(pattern)

    def walk(self, places: frozenset[Place]) -> None:
        """Visit every folder in which a pattern may still match, without recursion."""
        pending = [_Folder("", "", 0, places)] if places else []
        while pending:
            pending += reversed(self.visit(pending.pop()))

    def visit(self, folder: _Folder) -> list[_Folder]:
        """Take what matches in one folder; the folders in it that are worth a visit."""
        path, subfolders = folder.path, []
        for name, is_folder in self.names(path):
            below = frozenset(left for place in folder.places for left in _step(place, name))
            goes_on = frozenset(place for place in below if place[1])
            ends = {pattern for pattern, left in below if not left}
            if is_folder and goes_on:
                subfolders.append(_Folder(path, name, folder.depth + 1, goes_on))
            elif ends and not is_folder:
                self.matched |= ends
                self.take(_join(path, name))
        return self.not_too_deep(subfolders)

    def not_too_deep(self, folders: list[_Folder]) -> list[_Folder]:
        if not folders or folders[0].depth < self.max_depth:
            return folders
        for folder in folders:
            self.skip(folder.path, f"lies deeper than {self.max_depth} levels")
        return []

    def names(self, folder: str) -> list[tuple[str, bool]]:
        """The names in a folder, sorted, each with whether it is a folder itself."""
        try:
            with _opened(self.work, folder or ".", os.O_RDONLY | os.O_DIRECTORY) as fd:
                return sorted(self.listed(folder, fd))
        except OSError as exc:
            self.skip(folder or ".", _reason(exc))
            return []

    def listed(self, folder: str, fd: int) -> Iterator[tuple[str, bool]]:
        with os.scandir(fd) as entries:
            for entry in islice(entries, self.names_left + 1):
                if not self.names_left:
                    raise _EnoughError("stopped: too many names to look at")
                self.names_left -= 1
                try:
                    yield os.fsencode(entry.name).decode(), entry.is_dir(follow_symlinks=False)
                except UnicodeDecodeError:
                    self.skip(_join(folder, entry.name), "its name is not UTF-8")

    def take(self, path: str) -> bool:
        """Keep one file, or say why not; False when there is nothing of that name."""
        if path in self.files:
            return True
        try:
            refusal = self.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as exc:
            refusal = _reason(exc)
        if refusal is not None:
            self.skip(path, refusal)
        return True

    def read(self, path: str) -> str | None:
        """Keep a file's content, or return the reason against it."""
        # Looked at before it is opened for reading: opening a device may already do something.
        with _opened(self.work, path, os.O_PATH) as fd:
            if refusal := _kind(os.fstat(fd)):
                return refusal
        if len(self.files) >= self.max_files:
            raise _EnoughError(f"stopped after {self.max_files} files")
        # O_NONBLOCK: were it a fifo after all, opening it would wait for ever.
        with _opened(self.work, path, os.O_RDONLY | os.O_NONBLOCK) as fd:
            found = os.fstat(fd)
            return _kind(found) or self.keep(path, fd, found)

    def keep(self, path: str, fd: int, found: os.stat_result) -> str | None:
        size, content = found.st_size, b""
        if size <= self.bytes_left:
            # A size is a claim like any other: the cap holds while reading, too.
            content = _read(fd, self.bytes_left + 1)
            size = len(content)
        if size > self.bytes_left:
            return f"is too large: {format_bytes(size)}, room for {format_bytes(self.bytes_left)}"
        try:
            # Permission bits only: a set-uid bit that a guest set goes nowhere.
            self.files[path] = File(path=path, content=content, mode=found.st_mode & 0o777)
        except ValueError:
            return "has a name that no file can have outside"
        self.bytes_left -= size
        return None

    def skip(self, path: str, reason: str) -> None:
        if len(self.skipped) < MAX_SKIPPED:
            self.skipped.append(_skipped(path, reason))
        else:
            self.unmentioned += 1

    def close(self, patterns: Iterable[str]) -> Collected:
        """What was taken, with the last words about what was not."""
        notes = list(self.skipped)
        if self.unmentioned:
            notes.append(_skipped(".", f"{self.unmentioned} more were skipped"))
        if self.stopped:
            notes.append(_skipped(".", self.stopped))
        nothing = "matched nothing before that" if self.stopped else "matched nothing"
        notes += [_skipped(p, nothing) for p in patterns if p not in self.matched]
        return Collected(tuple(self.files[path] for path in sorted(self.files)), tuple(notes))


def _parts(pattern: str) -> tuple[str, ...]:
    try:
        parts = relative(pattern).split("/")
    except ValueError as exc:
        raise InvalidTask(f"a pattern to collect {exc}") from None
    # Folders are never collected, so `**` at the end means the files below.
    parts += ["*"] if parts[-1] == "**" else []
    once = (part for part, after in pairwise(parts) if not part == after == "**")
    return (*once, parts[-1])


def _is_literal(parts: tuple[str, ...]) -> bool:
    return not any(sign in part for part in parts for sign in "*?[")


def _step(place: Place, name: str) -> Iterator[Place]:
    """What is left of a pattern after one more name; nothing when it cannot match."""
    pattern, (first, *rest) = place
    if first == "**":
        yield place
        yield from _step((pattern, tuple(rest)), name)
    elif fnmatchcase(name, first):
        yield pattern, tuple(rest)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _skipped(path: str, reason: str) -> Skipped:
    # Shown on terminals and sent as JSON: neither escape sequences nor lone surrogates.
    return Skipped(path=path if path.isprintable() else ascii(path), reason=reason)


_REFUSED_OPENING: Final = {
    errno.ELOOP: "lies behind a symbolic link",
    errno.EXDEV: "lies on another file system",
    errno.EACCES: "cannot be read: permission denied",
    errno.EPERM: "cannot be read: permission denied",
    errno.ENAMETOOLONG: "has too long a path",
}
_REFUSED_KIND: Final = {
    stat.S_IFLNK: "is a symbolic link",
    stat.S_IFIFO: "is a fifo",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
    stat.S_IFDIR: "is a directory; /** behind it means the files in it",
}


def _reason(exc: OSError) -> str:
    number = exc.errno or 0
    return _REFUSED_OPENING.get(number, f"cannot be read: {os.strerror(number).lower()}")


def _kind(found: os.stat_result) -> str | None:
    """Why this is no regular file; None if it is one."""
    # More than one link does no harm: nothing outside the work folder's own file system can
    # be linked into it.
    return _REFUSED_KIND.get(stat.S_IFMT(found.st_mode))


def _read(fd: int, most: int) -> bytes:
    pieces, left = [], most
    while left and (piece := os.read(fd, min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_OPENAT2: Final = 437  # on every architecture: it came after their tables were united
# RESOLVE_NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_RESOLVE: Final = 0x01 | 0x02 | 0x04 | 0x08


@contextmanager
def _opened(work: int, path: str, flags: int) -> Iterator[int]:
    """A path of the guest's, opened below `work` without a link or another mount on the way."""
    how = _OpenHow(flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE)
    fd = _syscall()(_OPENAT2, work, path.encode(), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            raise SandboxBroken("files cannot be collected safely here; openat2 needs Linux 5.6")
        raise OSError(number, os.strerror(number))
    try:
        yield fd
    finally:
        os.close(fd)


@functools.cache
def _syscall() -> Callable[..., int]:
    if sys.platform != "linux":
        raise SandboxBroken("files can be collected on Linux only; openat2 is missing here")
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.POINTER(_OpenHow),
        ctypes.c_size_t,
    )
    return call
