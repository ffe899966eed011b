"""
From a policy to a wall plan: the mount table, the filters and the ids, compiled on the host.

Whatever is decided about the walls of a jail is decided here; the inside only executes it.
"""

import itertools
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saggar.boundary.wallplan import INNER_UID, Entry, Landlock, WallPlan
from saggar.drivers.interpreter import OPTIONS, Interpreter, bootstrap
from saggar.drivers.jail import landlock, seccomp
from saggar.drivers.jail.rlimits import FIXED
from saggar.errors import InvalidTask
from saggar.model.limits import Limits
from saggar.model.plan import Layer, WarmKey, around
from saggar.model.policy import Network

if TYPE_CHECKING:
    from saggar.drivers.gpu import Passage

WORK = "/work"
CAP_SYS_ADMIN = 21
DEVICES = ("null", "zero", "full", "random", "urandom")
ROOT_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
SHARED_ETC = (
    "ssl/certs",
    "ssl/openssl.cnf",
    "ca-certificates",
    "pki",
    "ld.so.cache",
    "alternatives",
)
"""What programs need of the host's /etc and what tells nothing about the host."""
NAMES = ("hosts", "host.conf", "nsswitch.conf", "resolv.conf", "gai.conf")
"""What resolving a name takes where there is no /etc of our own."""
ETC = {
    "passwd": (
        f"root:x:0:0:root:/:/usr/sbin/nologin\nsandbox:x:{INNER_UID}:{INNER_UID}::{WORK}:/bin/sh\n"
    ),
    "group": f"root:x:0:\nsandbox:x:{INNER_UID}:\n",
    "hosts": "127.0.0.1 localhost saggar\n::1 localhost saggar\n",
    "hostname": "saggar\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
CHILD_MOUNTS = ("/tmp", WORK, "/dev", "/proc", "/mnt")
"""Covered by a child's own mounts: nothing of the host can be shown at these places."""
RELOCATED = "/opt/python"
STAGING = "/sys"
"""
Where the root is put together, in a mount namespace of its own: a directory that every machine has,
that everybody may walk through, and that nothing is ever bound from.
"""


@dataclass(frozen=True, slots=True)
class Ids:
    """The host ids behind the walls: a leased block for root, his own for anybody else."""

    uid: int
    gid: int
    count: int


def environment_variables(interpreter: str, ground: "Ground | None" = None) -> dict[str, str]:
    """What every program finds in its environment, before the task's own variables."""
    path = [os.path.dirname(interpreter), "/usr/local/bin", "/usr/bin", "/bin"]
    gpu = ground.gpu if ground else None
    return {
        **(gpu.variables(inside=ground is not None and ground.rung == "jail") if gpu else {}),
        "HOME": WORK,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "PATH": ":".join(dict.fromkeys(path)),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TMPDIR": "/tmp",
    }


@dataclass(frozen=True, slots=True)
class Ground:
    """What this host offers to build the walls on."""

    rung: str
    staging: str
    ids: Ids
    memory_enforced: bool
    """Whether a cgroup counts memory; without one, what cannot be seen is refused."""
    entrances: int
    """How many cgroups each child enters."""
    gpu: "Passage | None" = None
    """What is shown of GPUs; None where there are none to be seen."""


def compile_plan(
    key: WarmKey,
    limits: Limits,
    layers: Sequence[Layer],
    interpreter: Interpreter,
    ground: Ground,
) -> WallPlan:
    """The walls of one fork server and of all its children."""
    machine, network = platform.machine(), key.network.value
    jail = ground.rung == "jail"
    inside = executable_inside(interpreter) if jail else interpreter.executable
    variables = environment_variables(inside, ground)
    return WallPlan(
        rung=ground.rung,
        argv=(inside, *OPTIONS, "-c", bootstrap()),
        entries=tuple(entries(key, layers, interpreter, ground.gpu)),
        staging=ground.staging,
        uid=ground.ids.uid,
        gid=ground.ids.gid,
        uids=ground.ids.count,
        assemble_outside=may_mount(),
        network=network,
        outer_filter=seccomp.outer_filter(machine),
        inner_filter=seccomp.inner_filter(
            machine,
            network,
            ground.rung,
            memory_enforced=ground.memory_enforced,
            shares=not all(read_only for _, _, read_only in key.mounts),
        ),
        landlock=_landlock(key, layers, interpreter, ground),
        disk=limits.disk,
        inodes=limits.inodes,
        rlimits=FIXED,
        entrances=ground.entrances,
        environment=tuple(around(variables, layers, inside=jail).items()),
        preload=key.preload,
        site=tuple((x.target if jail else x.path) for x in layers if x.python_path),
        names_threads=ground.gpu is not None,
    )


def may_mount() -> bool:
    """
    Whether we can mount here, and not only in a user namespace of our own.

    The root of a container usually cannot: he has user ids to give, but no CAP_SYS_ADMIN.
    """
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> CAP_SYS_ADMIN & 1)


def executable_inside(interpreter: Interpreter) -> str:
    """Where the interpreter stands inside: where it does outside, unless a child mounts there."""
    below = os.path.relpath(interpreter.executable, interpreter.prefix)
    return os.path.join(prefix_inside(interpreter), below)


def prefix_inside(interpreter: Interpreter) -> str:
    """The same for its prefix."""
    taken = any(_is_below(interpreter.prefix, place) for place in CHILD_MOUNTS)
    return RELOCATED if taken else interpreter.prefix


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def entries(
    key: WarmKey, layers: Sequence[Layer], interpreter: Interpreter, gpu: "Passage | None" = None
) -> Iterator[Entry]:
    """The read-only root, in the order it is put together."""
    targets = [target for _, target, _ in key.mounts]
    for one, other in itertools.permutations(targets, 2):
        if _is_below(one, other):
            raise InvalidTask(f"mount target {one!r} is inside another one, {other!r}")
    yield from _system(Path(key.root or "/"))
    yield from _over(layers)
    yield from (Entry("device", f"/dev/{name}", f"/dev/{name}") for name in DEVICES)
    yield from _etc(key.network, Path(key.root or "/"))
    prefix = prefix_inside(interpreter)
    if not _is_below(prefix, "/usr"):
        yield Entry("bind", prefix, os.path.realpath(interpreter.prefix))
    yield from _configuration(layers)
    for folder in _third_party(interpreter):
        yield Entry("hide", folder)
    for layer in layers:
        yield Entry("bind", layer.target, os.path.realpath(layer.path))
    if gpu is not None:
        yield from _gpu(gpu)
    for source, target, read_only in key.mounts:
        if os.path.realpath(source) != source:
            raise InvalidTask(f"mount {source!r} leads through a link; name its real path")
        if not os.path.lexists(source):
            raise InvalidTask(f"mount {source!r} does not exist on this machine")
        yield Entry("bind" if read_only else "share", target, source)


def _system(root: Path) -> Iterator[Entry]:
    """/usr, and what stands beside it as the distribution has it: links or folders."""
    if os.path.realpath(root / "usr") != str(root / "usr"):
        raise InvalidTask(
            f"root {str(root)!r} is, or its usr leads, through a link; name real paths"
        )
    yield Entry("bind", "/usr", str(root / "usr"))
    for name in ROOT_FOLDERS:
        path = root / name
        if path.is_symlink():
            yield Entry("link", f"/{name}", os.readlink(path).lstrip("/"))
        elif path.is_dir():
            yield Entry("bind", f"/{name}", str(path))


def _over(layers: Sequence[Layer]) -> Iterator[Entry]:
    """What was unpacked for this system, seen where its programs expect to be."""
    found = [Path(os.path.realpath(layer.path), "usr") for layer in layers if layer.system]
    found = [usr for usr in found if usr.is_dir()]
    yield from (Entry("over", "/usr", str(usr)) for usr in found)
    if found:
        # Drivers of a GPU, say: one does not see through to what is mounted below it.
        yield from (Entry("bind", place, place) for place in _mounted_below("/usr"))


def _mounted_below(folder: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        escaped = {line.split()[4] for line in file}
    places = {re.sub(r"\\([0-7]{3})", lambda one: chr(int(one[1], 8)), place) for place in escaped}
    return sorted(place for place in places if place != folder and _is_below(place, folder))


def _configuration(layers: Sequence[Layer]) -> Iterator[Entry]:
    """What such a layer has for /etc, where nothing of ours stands."""
    taken = {name.partition("/")[0] for name in (*ETC, *SHARED_ETC, "localtime", "resolv.conf")}
    for layer in layers:
        etc = Path(os.path.realpath(layer.path), "etc")
        if layer.system and etc.is_dir():
            names = sorted(set(os.listdir(etc)) - taken)
            yield from (
                Entry("bind", f"/etc/{name}", str(etc / name))
                for name in names
                if not (etc / name).is_symlink()
            )


def _etc(network: Network, root: Path) -> Iterator[Entry]:
    for name, content in ETC.items():
        yield Entry("file", f"/etc/{name}", content)
    yield Entry("link", "/etc/localtime", "/usr/share/zoneinfo/UTC")
    shared = [*SHARED_ETC, "resolv.conf"] if network is Network.HOST else SHARED_ETC
    for name in shared:
        path = (root / "etc" / name).resolve()
        if path.exists() and path.is_relative_to(root):
            yield Entry("bind", f"/etc/{name}", str(path))


def _gpu(gpu: "Passage") -> Iterator[Entry]:
    """
    Devices, the driver's own libraries, and what tells of both.

    The libraries at a place of ours: what the system's linker knows, another root does not.
    """
    yield from (Entry("device", path, path) for path in gpu.devices)
    yield from (Entry("bind", inside, path) for inside, path in gpu.libraries)
    yield from (Entry("bind", path, path) for path in gpu.folders)
    yield from (Entry("link", inside, said) for inside, said in gpu.links)


def _third_party(interpreter: Interpreter) -> Iterator[str]:
    """Folders of other people's packages that came along with the prefix or /usr."""
    inside = prefix_inside(interpreter)
    for folder in interpreter.site:
        yield folder.replace(interpreter.prefix, inside, 1)
    major, minor = interpreter.version[:2]
    yield "/usr/lib/python3/dist-packages"
    yield f"/usr/local/lib/python{major}.{minor}/dist-packages"
    yield f"/usr/local/lib/python{major}.{minor}/site-packages"


def _landlock(
    key: WarmKey, layers: Sequence[Layer], interpreter: Interpreter, ground: Ground
) -> Landlock | None:
    abi = landlock.abi()
    if not abi:
        return None
    if ground.rung == "jail":
        read: tuple[str, ...] = ("/",)
        shared = [target for _, target, read_only in key.mounts if not read_only]
        write: tuple[str, ...] = ("/tmp", WORK, "/dev/shm", *shared)
    else:
        names = [*SHARED_ETC, *NAMES] if key.network is Network.HOST else SHARED_ETC
        etc = [f"/etc/{name}" for name in names]
        read = ("/usr", *(f"/{name}" for name in ROOT_FOLDERS), *etc, interpreter.prefix)
        read += tuple(layer.path for layer in layers)
        read += ground.gpu.seen if ground.gpu else ()
        # Followed now, and by nobody later; a mount's source has no links to follow.
        read = tuple(map(os.path.realpath, read)) + tuple(mount[0] for mount in key.mounts)
        # Each child's own folder, in which it stands when the rules are made.
        write = (".", *(source for source, _, read_only in key.mounts if not read_only))
    devices = tuple(f"/dev/{name}" for name in DEVICES)
    network = key.network.value
    rules = landlock.ruleset(
        abi,
        read=read,
        write=write,
        devices=devices,
        # All that a GPU does it is told by ioctl. Of /proc a program writes what is its own.
        steered=ground.gpu.devices if ground.gpu else (),
        filled=("/proc",) if ground.gpu else (),
        network=network,
    )
    return Landlock(*rules[:3], list(rules.rules), rules.size, rules.flags)
