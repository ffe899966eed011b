"""
Which control group hierarchies there are here, and below which folder of each we may work.

Version 1, version 2 and mixtures of both. Finding is reading two files of /proc; using is
another matter: in version 2 a group that hands controllers down may hold no processes itself, so
ours must step aside into a leaf, and that is done only in a subtree that is ours.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

CONTROLLERS = ("pids", "memory", "cpu", "cpuacct")
LEAF = "saggar-host"
"""Where what runs in our own group steps aside to."""

RECIPES = MappingProxyType(
    {
        "systemd": "systemd-run --user --scope -p Delegate=yes COMMAND (as root without --user); "
        "for a service: Delegate=yes in its unit",
        "systemd user": "systemctl edit user@.service: [Service] Delegate=cpu memory pids",
        "docker": "docker run --security-opt writable-cgroups=true (Docker 28), or before that "
        "--cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw",
        "kubernetes": "cgroup_writable = true for the pod's runtime in containerd's configuration "
        "(containerd 2.1), or securityContext: {privileged: true}",
        "root": "run as root: a version 1 hierarchy is not handed to ordinary users",
        "boot": "kernel command line: cgroup_enable=memory systemd.unified_cgroup_hierarchy=1",
    }
)

_SYSTEMD = "/run/systemd/system"
_UNIFIED = ""
_CONTAINER = ("docker", "kubernetes")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of one hierarchy below which we may make groups."""

    base: str
    version: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether something can be enforced here and how; if not, why not and what would help."""

    enforced: bool
    how: str = ""
    why_not: str = ""
    recipes: tuple[str, ...] = ()
    """Keys of RECIPES."""


class _Mount(NamedTuple):
    kind: str
    options: frozenset[str]
    root: str
    point: str


def find(own: Path | None = None, *, proc: Path = Path("/proc/self")) -> dict[str, Place | Finding]:
    """
    For each of CONTROLLERS a place that looks usable, or why there is none.

    `own` names a version 2 group that was delegated to us, to be used instead of the one we are
    in. The controllers of version 2 are enabled by this call, where that is ours to do.
    """
    found = locate(_text(proc / "cgroup"), _text(proc / "mountinfo")) if own is None else {}
    if all(controller in found for controller in CONTROLLERS):
        return {controller: found[controller] for controller in CONTROLLERS}
    handed = _handed_down(found, own)
    return {name: found[name] if name in found else handed[name] for name in CONTROLLERS}


def locate(groups: str, mounts: str) -> dict[str, Place | Finding]:
    """
    Our own group in each hierarchy, from the text of /proc/<pid>/cgroup and mountinfo.

    Keys are controllers of version 1, and the empty name for the one hierarchy of version 2.
    """
    mounted = list(_mounts(mounts))
    return {
        name: _visible(name, path, mounted)
        for _, names, path in (line.split(":", 2) for line in groups.splitlines())
        for name in names.split(",")
    }


def refusal(exc: OSError, place: Place) -> Finding:
    """What the kernel's no means, for whoever reads `doctor`."""
    recipes: tuple[str, ...] = ()
    match exc.errno:
        case errno.EROFS:
            why_not, recipes = f"{place.base} is mounted read-only", _CONTAINER
        case errno.EACCES | errno.EPERM:
            why_not = f"{place.base} is not ours to write"
            recipes = ("systemd",) if place.version == 2 else ("root", "boot")
        case _:
            why_not = f"{place.base} cannot be used: {exc.strerror}"
    return Finding(enforced=False, why_not=why_not, recipes=recipes)


def _handed_down(found: dict[str, Place | Finding], own: Path | None) -> dict[str, Place | Finding]:
    """The controllers that no version 1 hierarchy has."""
    place = Place(str(own), 2) if own else found.get(_UNIFIED, _NOWHERE)
    if isinstance(place, Finding):
        return dict.fromkeys(CONTROLLERS, place)
    if os.path.basename(place.base) == LEAF:
        place = Place(os.path.dirname(place.base), 2)
    if own is None and not _ours(place.base):
        why_not = f"{place.base} belongs to systemd, which did not delegate it"
        finding = Finding(enforced=False, why_not=why_not, recipes=("systemd",))
        return dict.fromkeys(CONTROLLERS, finding)
    try:
        refused = _enable(place.base, set(CONTROLLERS) - found.keys())
    except OSError as exc:
        return dict.fromkeys(CONTROLLERS, refusal(exc, place))
    return dict.fromkeys(CONTROLLERS, place) | refused


def _enable(base: str, wanted: set[str]) -> dict[str, Place | Finding]:
    """Have these controllers in the groups below; those that cannot be had."""
    # The kernel asks for this right on the common ancestor when a process is moved below it.
    os.close(os.open(f"{base}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
    offered = _words(f"{base}/cgroup.controllers")
    missing = (wanted & offered) - _words(f"{base}/cgroup.subtree_control")
    if missing:
        _step_aside(base)
    refused: dict[str, Place | Finding] = {}
    for name in sorted(missing):
        try:
            _write(f"{base}/cgroup.subtree_control", f"+{name}")
        except OSError as exc:
            refused[name] = refusal(exc, Place(f"{base} {name}", 2))
    # Version 2 meters the processor in every group, without a controller.
    for name in wanted - offered - {"cpuacct"}:
        why_not = f"the {name} controller is not handed down to {base}"
        refused[name] = Finding(enforced=False, why_not=why_not, recipes=("systemd user", "boot"))
    return refused


def _step_aside(base: str) -> None:
    """Everything that runs in this group moves to a leaf below it."""
    if not os.path.exists(f"{base}/cgroup.type"):
        return  # the root of the hierarchy may have both processes and groups
    os.makedirs(f"{base}/{LEAF}", exist_ok=True)
    for _ in range(16):  # what forks while it is moved leaves a child behind
        pids = _words(f"{base}/cgroup.procs") - {"0"}
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                _write(f"{base}/{LEAF}/cgroup.procs", pid)


def _ours(base: str) -> bool:
    """Whether nobody else manages this group: systemd owns all it did not mark as delegated."""
    if not os.path.isdir(_SYSTEMD):
        return True
    unit = base
    while unit != "/" and not unit.endswith((".service", ".scope", ".slice")):
        unit = os.path.dirname(unit)
    if unit == "/":
        return os.path.exists(f"{base}/cgroup.type")  # made by hand beside systemd's, or the root
    return any(_marked(unit, name) for name in ("user.delegate", "trusted.delegate"))


def _marked(path: str, name: str) -> bool:
    try:
        return os.getxattr(path, name) == b"1"
    except OSError:
        return False


def _mounts(text: str) -> Iterator[_Mount]:
    for line in text.splitlines():
        mount, _, filesystem = line.partition(" - ")
        _, _, _, root, point, *_ = mount.split(" ")
        kind, _, options = filesystem.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield _Mount(kind, frozenset(options.split(",")), _plain(root), _plain(point))


def _visible(name: str, path: str, mounted: list[_Mount]) -> Place | Finding:
    if name == _UNIFIED:
        fitting = [mount for mount in mounted if mount.kind == "cgroup2"]
    else:
        fitting = [mount for mount in mounted if mount.kind == "cgroup" and name in mount.options]
    # Later mounts cover earlier ones.
    for mount in reversed(fitting):
        root = mount.root.rstrip("/")
        if f"{path}/".startswith(f"{root}/") and ".." not in path.split("/"):
            return Place((mount.point + path[len(root) :]).rstrip("/"), 2 - bool(name))
    what = f"our own group {path} lies outside what is" if fitting else "no cgroup file system is"
    why_not = f"{what} mounted for {name or 'version 2'}"
    return Finding(enforced=False, why_not=why_not, recipes=_CONTAINER)


def _plain(field: str) -> str:
    """A path without mountinfo's octal escapes."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), field)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # no Linux, or no /proc: then nothing is found, which is the truth


def _words(path: str) -> set[str]:
    return set(Path(path).read_text().split())


def _write(path: str, text: str) -> None:
    # One write and no buffer: each is a command.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


_NOWHERE = Finding(
    enforced=False, why_not="the kernel has no control groups for it", recipes=("boot",)
)
