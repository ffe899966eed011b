"""
What a run may touch. `Policy()` is the closed one: no network, no mounts, everything finite.

Whatever a task or a caller can ask for is governed here, and nowhere else.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PlainSerializer

from saggar.errors import PolicyDenied
from saggar.model.environment import USER, Environment
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.paths import absolute, is_inside, printable
from saggar.model.program import ALL_KINDS, CodeKind
from saggar.model.task import Task
from saggar.model.value import Value


class _Ladder(StrEnum):
    """Names in an order: the later, the higher. Compared by place, not by letters."""

    def __init__(self, _name: str) -> None:
        self._place = len(type(self).__members__)

    def __lt__(self, other: str) -> bool:
        return self._place < type(self)(other)._place

    def __le__(self, other: str) -> bool:
        return self._place <= type(self)(other)._place

    def __gt__(self, other: str) -> bool:
        return self._place > type(self)(other)._place

    def __ge__(self, other: str) -> bool:
        return self._place >= type(self)(other)._place


class Rung(_Ladder):
    """How strong a wall is, weakest first."""

    PROCESS = "process"
    LANDLOCK = "landlock"
    JAIL = "jail"
    CONTAINER = "container"
    GVISOR = "gvisor"


class Network(_Ladder):
    """What of the network there is, least first: none, a loopback of its own, the host's."""

    NONE = "none"
    LOOPBACK = "loopback"
    HOST = "host"


def _outermost(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """Sorted, without those that are inside another: one spelling for one meaning."""
    found: list[str] = []
    for prefix in sorted(set(prefixes), key=lambda path: path.split("/")):
        if not any(is_inside(prefix, other) for other in found):
            found.append(prefix)
    return tuple(found)


def _image(image: str) -> str:
    return printable(image, "an image")


def _limit_name(name: str) -> str:
    if name not in LIMIT_NAMES:
        raise ValueError(f"no limit named {name!r:.60}; there are: {', '.join(LIMIT_NAMES)}")
    return name


# A set has no order, and JSON that differs from one process to the next has no digest.
_Sorted: Final = PlainSerializer(sorted, return_type=list[str], when_used="json")
_SortedNumbers: Final = PlainSerializer(sorted, return_type=list[int], when_used="json")
_Prefix = Annotated[str, AfterValidator(absolute)]


OUR_IMAGES: Final = tuple(
    f"saggar/runner-{name}{tag}" for name in ("python", "node", "go") for tag in ("", ":latest")
)
"""Images that every policy allows: nothing is in them but what runs a program."""


class Policy(Value):
    """What a run may touch."""

    isolation: Rung = Rung.JAIL
    """The weakest wall that will do."""
    limits: Limits = Limits.model_construct()
    network: Network = Network.NONE
    mounts: Annotated[tuple[_Prefix, ...], AfterValidator(_outermost)] = ()
    """Paths of the host that an environment may use, with everything below them."""
    shares: Annotated[tuple[_Prefix, ...], AfterValidator(_outermost)] = ()
    """Those of them that it may have mounted writable."""
    images: tuple[Annotated[str, AfterValidator(_image)], ...] = ()
    """Images that an environment may name beside our own runners; what ends in * is a prefix."""
    users: Annotated[frozenset[int], _SortedNumbers] = frozenset({USER})
    """Whom a container may run as: whose files in what it sees it may read."""
    host_packages: bool = False
    accept: Annotated[frozenset[CodeKind], Field(min_length=1), _Sorted] = ALL_KINDS
    """The forms of code that may run; {"named"} is production mode."""
    gpu: Annotated[int, Field(ge=0, le=64)] = 0
    """How many GPUs of NVIDIA's it sees; exactly so many, or it is refused before it runs."""
    best_effort: Annotated[frozenset[Annotated[str, AfterValidator(_limit_name)]], _Sorted] = (
        frozenset()
    )
    """Limits that may go unenforced where a driver cannot enforce them."""

    def within(self, ceiling: "Policy") -> "Policy":
        """
        This policy, narrowed so that it allows nothing `ceiling` does not.

        Raises:
            PolicyDenied: A field asks for more and cannot be narrowed (code forms, network, GPUs).
        """
        if self.network > ceiling.network:
            raise PolicyDenied(
                f"policy.network: {self.network} was asked for, at most {ceiling.network}"
                f" is allowed; the ceiling would have to be Policy(network={self.network.value!r})"
            )
        if self.gpu > ceiling.gpu:
            # Not narrowed either: whoever asks for a GPU would compute without one, and not know.
            raise PolicyDenied(
                f"policy.gpu: {self.gpu} was asked for, at most {ceiling.gpu} is allowed; the"
                f" ceiling would have to be Policy(gpu={self.gpu}), and gpu=0 asks for none"
            )
        narrowed = {
            "isolation": max(self.isolation, ceiling.isolation),
            "limits": self.limits.within(ceiling.limits),
            "mounts": _common(self.mounts, ceiling.mounts),
            "shares": _common(self.shares, ceiling.shares),
            "images": _both(self.images, ceiling.images),
            "users": self.users & ceiling.users,
            "host_packages": self.host_packages and ceiling.host_packages,
            "accept": _accepted_by_both(self.accept, ceiling.accept),
            "best_effort": self.best_effort & ceiling.best_effort,
        }
        changes = {name: value for name, value in narrowed.items() if value != getattr(self, name)}
        return self.replace(**changes) if changes else self

    def admit(self, task: Task) -> None:
        """
        Let `task` pass, or say which of its wishes is refused.

        Raises:
            PolicyDenied: It asks for something that this policy does not allow.
        """
        kind = task.program.code.kind
        if kind not in self.accept:
            raise _denied("program.code.kind", kind, f"accept={{{kind.value!r}, ...}}", self.accept)
        self._admit_environment(task.program.environment)

    def _admit_environment(self, environment: Environment) -> None:
        if environment.host_packages and not self.host_packages:
            raise _denied("environment.host_packages", True, "host_packages=True")
        if (image := environment.image) and not _named(image, (*OUR_IMAGES, *self.images)):
            raise _denied("environment.image", image, f"images=({image!r},)", self.images)
        if environment.user not in self.users:
            raise _denied("environment.user", environment.user, f"users={{{environment.user}}}")
        for field, path in _host_paths(environment):
            if not any(is_inside(path, prefix) for prefix in self.mounts):
                remedy = f"mounts=({path!r},)"
                raise _denied(f"environment.{field}", path, remedy, self.mounts)
        for mount in environment.mounts:
            path = mount.source
            if not mount.read_only and not any(is_inside(path, one) for one in self.shares):
                remedy = f"shares=({path!r},)"
                raise _denied("environment.mounts, writable", path, remedy, self.shares)


def _named(image: str, allowed: tuple[str, ...]) -> bool:
    """Whether one of these references, or a prefix among them, is or covers `image`."""
    return any(image.startswith(one[:-1]) if one.endswith("*") else image == one for one in allowed)


def _both(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    """The images that both allow: of two prefixes the longer one, in the order of ours."""
    kept = [image for image in ours if _named(image, theirs)]
    kept += [image for image in theirs if _named(image, ours)]
    return tuple(dict.fromkeys(kept))


def _host_paths(environment: Environment) -> list[tuple[str, str]]:
    """Every path of the host that would become visible, with the field that names it."""
    paths = [("mounts", mount.source) for mount in environment.mounts]
    if environment.root is not None:
        paths.append(("root", environment.root))
    # An interpreter brings its whole prefix along. What is in /usr is visible anyway.
    python = environment.python or ""
    if python.startswith("/") and not is_inside(python, "/usr"):
        paths.append(("python", python))
    return paths


def _common(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    """The prefixes of the paths that both allow: of two, the one inside the other."""
    if not ours or not theirs:
        return ()
    inside = [path for path in ours if any(is_inside(path, other) for other in theirs)]
    around = [path for path in theirs if any(is_inside(path, other) for other in ours)]
    return _outermost((*inside, *around))


def _accepted_by_both(
    ours: frozenset[CodeKind], theirs: frozenset[CodeKind]
) -> frozenset[CodeKind]:
    if both := ours & theirs:
        return both
    raise PolicyDenied(
        f"policy.accept: {_listed(ours)} was asked for, only {_listed(theirs)} is allowed"
    )


def _denied(
    field: str, asked: object, remedy: str, allowed: frozenset[CodeKind] | tuple[str, ...] = ()
) -> PolicyDenied:
    return PolicyDenied(
        f"{field}: {asked} was asked for, the policy allows {_listed(allowed)};"
        f" allow it with Policy({remedy})"
    )


def _listed(names: frozenset[CodeKind] | tuple[str, ...]) -> str:
    return ", ".join(sorted(names)) or "none"
