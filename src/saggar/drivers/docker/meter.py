"""
What a container has used, from its cgroup's files on this machine, in version 1 or version 2.

The engine's own statistics take a second to come; these take microseconds. The files stay open:
an engine removes the cgroup of a dead container at once, and an open file says a little longer what
it was. Where they cannot be read nothing is made up.
"""

import os
from collections.abc import Mapping
from contextlib import suppress

from saggar.drivers.base import Reading

V2 = {
    "cpu": ("", "cpu.stat"),
    "peak": ("", "memory.peak"),
    "current": ("", "memory.current"),
    "oom": ("", "memory.events"),
    "processes": ("", "pids.current"),
    "forks": ("", "pids.events"),
}
V1 = {
    "cpu": ("cpuacct", "cpuacct.usage"),
    "peak": ("memory", "memory.max_usage_in_bytes"),
    "current": ("memory", "memory.usage_in_bytes"),
    "oom": ("memory", "memory.oom_control"),
    "processes": ("pids", "pids.current"),
    "forks": ("pids", "pids.events"),
}
"""What is read: the controller whose hierarchy it is in, and the name of the file."""


class Meter:
    """The open files of one container's cgroup."""

    def __init__(self, pid: int) -> None:
        """Of the container whose pid 1 is known here as `pid`; 0 where it is not known."""
        self._files: dict[str, int] = {}
        folders = _folders(pid) if pid > 0 else {}
        known = V2 if list(folders) == [""] else V1
        for what, (controller, name) in known.items():
            with suppress(OSError, KeyError):
                path = f"{folders[controller]}/{name}"
                self._files[what] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._nanoseconds = known is V1
        self._before = 0.0

    def start(self) -> None:
        """From here on processor time counts: what was spent on parking is nobody's."""
        self._before = self._seconds() or 0.0

    def reading(self) -> Reading:
        """What was used so far; None where that cannot be read."""
        spent = self._seconds()
        return Reading(
            cpu=None if spent is None else max(0.0, spent - self._before),
            memory=_number(self._text("peak")),
            current=_number(self._text("current")),
            processes=_less_one(_number(self._text("processes"))),
            oom_kills=_after(b"oom_kill ", self._text("oom")),
            refused_forks=_after(b"max ", self._text("forks")),
        )

    def close(self) -> None:
        """Close its files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def _seconds(self) -> float | None:
        text = self._text("cpu")
        if not text:
            return None
        return int(text) / 1e9 if self._nanoseconds else _after(b"usage_usec ", text) / 1e6

    def _text(self, what: str) -> bytes:
        if what not in self._files:
            return b""
        try:
            return os.pread(self._files[what], 4096, 0)
        except OSError:
            return b""  # the cgroup is gone


def _folders(pid: int) -> Mapping[str, str]:
    """A process's cgroup: a folder for each controller of version 1, or the one of version 2."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
        mounted = _mounted()
    except OSError:
        return {}
    inside = {name: path for _, names, path in lines for name in names.split(",")}
    shown = {name: _below(*mounted[name], path) for name, path in inside.items() if name in mounted}
    if set(shown) <= {"", "name=systemd"}:
        return {"": shown[""]} if "" in shown else {}
    return {name: path for name, path in shown.items() if name}


def _mounted() -> Mapping[str, tuple[str, str]]:
    """Where each hierarchy is mounted here: its root there, and the place."""
    found: dict[str, tuple[str, str]] = {}
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            root, place = before.split()[3:5]
            if kind == "cgroup2":
                found[""] = (root, place)
            elif kind == "cgroup":
                found.update(dict.fromkeys(options.split(","), (root, place)))
    return found


def _below(root: str, place: str, path: str) -> str:
    """Where a cgroup is seen whose hierarchy is mounted from `root` on."""
    return os.path.normpath(f"{place}/{os.path.relpath(path, root)}")


def _number(text: bytes) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _less_one(count: int | None) -> int | None:
    """Pid 1 is ours."""
    return None if count is None else max(0, count - 1)


def _after(label: bytes, text: bytes) -> int:
    """The number behind a label at the start of a line; 0 where this kernel does not say it."""
    for line in text.splitlines():
        if line.startswith(label):
            return int(line.removeprefix(label))
    return 0
