"""
User ids nobody else has, lent in blocks across every process of ours on the host.

As root each live sandbox runs under a host uid of its own: two that shared one would share the
kernel's counts per user (processes, keys) and could signal each other. A block is held by a lock
on an open file, so it ends with the last process that has the descriptor, however that one dies,
and never while one is left that may still use its uids.
"""

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from saggar.errors import Overloaded

BLOCK = 1024
"""Uids in a block: the unit of lending, and its alignment."""

SPAN = range(0x7800_0000, 0x8000_0000)
"""
Where blocks come from. Below lie the uids that systemd (to 0x6fffffff) and sssd (to 0x7738c540)
give out by default; above, the negative ones of programs that take a uid for a signed number.
"""


@dataclass(frozen=True, slots=True)
class Block:
    """Uids (and gids) from `base` on, ours until the last copy of `fd` is closed."""

    base: int
    count: int
    fd: int
    """
    Closed at exec. Let exactly one child inherit it (os.set_inheritable, pass_fds): the process
    without which nothing of the sandbox can live.
    """

    def close(self) -> None:
        """Let go of our own copy; the block is free when every other one is closed, too."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def lease(
    runtime: Path, count: int = BLOCK, *, span: range = SPAN, etc: Path = Path("/etc")
) -> Block:
    """
    A block of uids that no other living holder of a lease in `runtime` has.

    Never one that /etc/subuid or /etc/subgid lends to somebody, that holds a uid or gid of
    /etc/passwd or /etc/group, or that our own user namespace does not map.

    Raises:
        Overloaded: Every block is taken.
        PermissionError: We are not root, `runtime` can be written by others, or there is no such
            block at all (as in a container whose user namespace maps few uids).
    """
    if not 1 <= count <= BLOCK:
        raise ValueError(f"a block holds 1 to {BLOCK} uids, not {count}")
    if os.geteuid() != 0:
        raise PermissionError("only root can give a sandbox a uid of its own")
    folder = _folder(runtime)
    base = None
    for base in _bases(span, etc):
        fd = _lock(folder / f"{base}.lock")
        if fd is not None:
            return Block(base, count, fd)
    if base is None:
        raise PermissionError(
            f"uids {span.start}-{span.stop - 1} are lent to others or not mapped in our namespace"
        )
    raise Overloaded(f"every block of {BLOCK} uids in {folder} is taken", retry_after=1.0)


def sweep(runtime: Path) -> int:
    """Remove the lock files nobody holds; the number removed."""
    try:
        paths = [path for path in (runtime / "uids").iterdir() if path.suffix == ".lock"]
    except FileNotFoundError:
        return 0
    return sum(map(_remove_unheld, paths))


def _folder(runtime: Path) -> Path:
    folder = runtime / "uids"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    # Whoever can write here can take a lock away from under its holder.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise PermissionError(f"{folder} must be a folder that only root can write")
    return folder


def _bases(span: range, etc: Path) -> Iterator[int]:
    """The first uid of every block one may have, from a random one on, once around."""
    first = -(-span.start // BLOCK) * BLOCK
    blocks = max(0, (span.stop - first) // BLOCK)
    taken = [other for other in (*_lent(etc), *_named(etc)) if _meet(other, span)]
    mapped = [list(_mapped(name)) for name in ("uid_map", "gid_map")]
    # Two containers on one host see neither each other's locks nor, started in this way, often
    # each other's uids.
    start = int.from_bytes(os.urandom(4))
    for index in range(blocks):
        base = first + (start + index) % blocks * BLOCK
        block = range(base, base + BLOCK)
        if any(_meet(block, other) for other in taken):
            continue
        if all(any(_within(block, part) for part in parts) for parts in mapped):
            yield base


def _lent(etc: Path) -> Iterator[range]:
    for name in ("subuid", "subgid"):
        for fields in _rows(etc / name):
            if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
                yield range(int(fields[1]), int(fields[1]) + int(fields[2]))


def _named(etc: Path) -> Iterator[range]:
    # The files and not the name service: a directory server may take seconds, or list millions.
    for name in ("passwd", "group"):
        for fields in _rows(etc / name):
            if len(fields) > 2 and fields[2].isdecimal():
                yield range(int(fields[2]), int(fields[2]) + 1)


def _rows(path: Path) -> Iterable[list[str]]:
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip().split(":") for line in text.splitlines()]


def _mapped(name: str) -> Iterator[range]:
    for line in Path("/proc/self", name).read_text().splitlines():
        inside, _, length = map(int, line.split())
        yield range(inside, inside + length)


def _meet(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _within(one: range, other: range) -> bool:
    return other.start <= one.start and one.stop <= other.stop


def _lock(path: Path) -> int | None:
    """The locked file, or None when somebody else has it."""
    while True:  # each further round means that a sweep removed one more file
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        # Between our open and our lock a sweep may have removed the file, and a third process
        # made and locked a new one: only the lock on what the name leads to now counts.
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)


def _remove_unheld(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Unlinked while we hold it, and only if it is still the file of that name.
        if os.fstat(fd).st_nlink:
            path.unlink()
            return True
    except BlockingIOError:
        pass
    finally:
        os.close(fd)
    return False
