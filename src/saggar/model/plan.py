"""What languages, environments and drivers tell each other: plans, layers, capabilities."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saggar.model.environment import USER
from saggar.model.limits import Limits
from saggar.model.policy import Network, Rung
from saggar.model.task import File
from saggar.model.value import Value


class Runtime(Value):
    """A program that a language needs and does not bring; the first word of a plan names it."""

    name: str
    least: tuple[int, ...] = ()
    """The oldest version that will do."""
    purpose: str = ""
    """What takes that version, for whoever has an older one."""
    image: str | None = None
    """The image that has it, for containers of which none is named."""


class Compile(Value):
    """What makes a program out of sources: executed once, in a sandbox of its own."""

    argv: tuple[str, ...]
    files: tuple[File, ...]
    env: Mapping[str, str] = {}
    output: str = "program"
    """The file of the work folder that is the program afterwards."""
    libraries: tuple[str, ...] = ()
    """What of the runtime's own library it uses: compiled before, once for everybody."""


class Plan(Value):
    """How a language runs a task."""

    files: tuple[File, ...] = ()
    argv: tuple[str, ...] | None = None
    """
    What to execute. None: the guest's own runner runs it. Empty: what its image starts by itself.
    """
    runtime: Runtime | None = None
    """What is to be found before, and where: its name in `argv` becomes the path of it."""
    compile: Compile | None = None
    """What to execute first, if anything; the first word of `argv` is what comes of it."""
    env: Mapping[str, str] = {}
    """Variables that the program finds, unless the task says otherwise."""
    reserves: int = 0
    """Bytes of writable memory that the runtime maps and does not use; no limit counts them."""
    answers: bool = False
    """Whether it speaks the container protocol: its stdin is a request, its stdout an answer."""
    stdin: bytes | None = None
    """The request. None: what the task has."""
    guest: Mapping[str, Any] = {}
    """What the guest's runner is told; JSON, and bytes for a body of ours."""
    preload: tuple[str, ...] = ()
    """Modules of ours that the sandbox's server has imported already."""
    largest: int = 0
    """Bytes that one value may have. 0: what the output may have."""


class Layer(Value):
    """A folder of the host that a sandbox sees, read-only."""

    path: str
    """Where it is on the host."""
    target: str
    """Where it appears inside."""
    python_path: bool = False
    """Whether Python looks for modules in it."""
    search: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """
    Variables that list folders of it, before what they list without it: PATH and the like. A
    folder that does not start at the root is inside the layer; "" is the layer itself.
    """
    system: bool = False
    """Whether its `usr` and `etc` are also seen where the system's are, where walls can do that."""
    env: tuple[tuple[str, str], ...] = ()
    """Variables that every program finds, unless its task says otherwise."""
    any_python: bool = False
    """Whether nothing in it was compiled for one version of Python."""


def around(
    variables: Mapping[str, str], layers: Sequence[Layer], *, inside: bool = True
) -> dict[str, str]:
    """These variables and those of the layers: at their targets inside, or where they lie."""
    found = dict(variables)
    for layer in layers:
        found |= dict(layer.env)
        root = layer.target if inside else layer.path
        for name, folders in layer.search:
            listed = [posixpath.join(root, folder).rstrip("/") for folder in folders]
            before = [found[name]] if found.get(name) else []
            found[name] = ":".join(dict.fromkeys([*listed, *before]))
    return found


class Support(Value):
    """Whether a limit is enforced here, by what, and if not, why."""

    enforced: bool
    how: str = ""
    why_not: str = ""


class Capabilities(Value):
    """What a driver can do on this machine, found by trying."""

    driver: str
    available: bool
    rung: Rung | None = None
    """The strongest wall it can build here."""
    limits: Mapping[str, Support] = {}
    reasons: tuple[str, ...] = ()
    """Why it is not available, or why its rung is not a higher one."""
    recipes: Mapping[str, str] = {}
    """What to do about it, by the name of the surroundings (docker, kubernetes, ubuntu)."""
    warm: bool = False
    """Whether it can keep children parked."""
    facts: Mapping[str, str] = {}
    """What else is worth knowing about these walls here, by name."""

    def enforces(self, limit: str) -> bool:
        """Whether `limit` holds here."""
        return limit in self.limits and self.limits[limit].enforced

    def why(self, limit: str) -> str:
        """Why `limit` is not enforced here; empty if it is."""
        if limit not in self.limits:
            return f"{self.driver} has no way to limit {limit}"
        support = self.limits[limit]
        return "" if support.enforced else support.why_not


@dataclass(frozen=True, slots=True)
class Warmth:
    """How warm children are kept, where whoever asks for them has a say in it."""

    name: str
    """Whose they are: children of two names are kept apart."""
    least: int
    """Parked as long as there is a platform, once somebody has asked."""
    most: int
    """Parked at most, however many are asked for."""
    idle: float
    """Seconds without anybody who asks, after which no more than the least stay parked."""


@dataclass(frozen=True, slots=True)
class WarmKey:
    """What a parked child was made for; a run takes only a child of exactly its own key."""

    @property
    def of_containers(self) -> str:
        """What in it only a container has, by name; empty where there is nothing of the kind."""
        said = {
            "image": self.image,
            "user": self.user != USER,
            "workdir": self.workdir,
            "writable_root": self.writable_root,
        }
        return ", ".join(name for name, is_said in said.items() if is_said)

    interpreter: str
    environment: str
    """The environment's digest."""
    preload: tuple[str, ...] = ()
    network: Network = Network.NONE
    mounts: tuple[tuple[str, str, bool], ...] = ()
    """Source, target, whether it is read-only."""
    places: tuple[tuple[int, int], ...] = ()
    """Device and inode of what these, and another root, are now: a path may be renamed over."""
    root: str | None = None
    rung: Rung = Rung.JAIL
    host_packages: bool = False
    tenant: str = ""
    image: str = ""
    """The container image; empty where there is none, or the operator's own."""
    user: int = USER
    workdir: str = ""
    writable_root: bool = False
    """What can be said of a container beside its image; see `Environment`."""
    limits: Limits | None = None
    """Those that a child is made with, where a driver cannot narrow it later."""
    gpu: int = 0
    """How many GPUs it sees."""
    warmth: Warmth | None = None
    """None: as warm as the load makes it."""
