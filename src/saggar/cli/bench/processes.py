"""Our descendants, and the memory that is theirs."""

import os
from collections.abc import Iterator

from saggar.errors import PlatformError

INIT = "saggar-init"


def descendants(root: int | None = None) -> list[int]:
    """Every living process below `root`, which is ourselves if not said otherwise; sorted."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found, pending = [], [root or os.getpid()]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return sorted(found)


def proportional(pid: int) -> int:
    """
    Bytes of a process, its share of what it shares counted (Pss).

    Nothing for pid 1 of a sandbox: it runs in its fork server's memory, which is counted there.
    """
    if _name(pid) == INIT:
        return 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            sizes = [line.split()[1] for line in file if line.startswith("Pss:")]
    except FileNotFoundError:
        return 0
    except PermissionError:
        raise PlatformError(
            f"process {pid} does not let us read its memory map; run the bench as root"
        ) from None
    return int(sizes[0]) * 1024 if sizes else 0


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _parents() -> Iterator[tuple[int, int]]:
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name of the program stands in brackets, and may hold anything.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != b"Z":
            yield int(name), int(parent)
