"""What an attack is, and what is known after one. Values only; nothing here runs anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypedDict, Unpack

from saggar.model.limits import Limits
from saggar.model.policy import Network, Rung
from saggar.model.result import Result
from saggar.testing.attacks.program import program

LIMITS = Limits(
    wall=3,
    grace=0.3,
    cpu=3,
    memory="128MiB",
    processes=32,
    open_files=128,
    file_size="8MiB",
    disk="16MiB",
    inodes=1000,
    output="1MiB",
)
"""What an attack runs under where it does not say otherwise: little, so that bombs are cheap."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A process of the attack as the host's own /proc shows it."""

    status: Mapping[str, str]
    """The lines of /proc/PID/status."""
    shared: frozenset[str]
    """The namespaces it has in common with the host."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on the host after an attack; nothing of it is the attack's word."""

    rung: Rung
    """The wall the attack was behind."""
    secret: str
    """What every planted file, environment and memory held."""
    elapsed: float
    """Seconds from the call to its return."""
    deadline: float
    """Seconds after which the call had to be back."""
    survivors: tuple[str, ...] = ()
    """Processes of the attack that still lived after its end."""
    harm: tuple[str, ...] = ()
    """What happened to the process that stood by."""
    visits: tuple[str, ...] = ()
    """Which of the host's sockets heard something."""
    marks: tuple[str, ...] = ()
    """Files of the attack's that appeared on the host."""
    changes: tuple[str, ...] = ()
    """What is different about the host."""
    descriptors: int = 0
    """How many more descriptors this process has open than before."""
    growth: int = 0
    """Bytes by which this process's memory grew at its peak."""
    effort: float = 0.0
    """Processor seconds that this process spent on the run."""
    seen: tuple[Seen, ...] = ()
    """Its processes as they were seen from outside, if it waited for that."""
    earlier: tuple[Result[Any], ...] = ()
    """Results of the runs before the last one."""


Check = Callable[[Result[Any], Facts], str | None]
"""What must be seen of an attack: None if it was, else a sentence saying what escaped."""
Guest = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One thing that hostile code tries, and what must be seen of it."""

    name: str
    family: str
    title: str
    """What it tries."""
    guest: Guest
    """The attack as a function; never called on this side."""
    check: Check
    stopped_from: Rung = Rung.LANDLOCK
    """The lowest rung that stops it."""
    shows: bool = False
    """Harmless on a host without walls, where it must then be seen to get out: it bites."""
    apart_from: Mapping[Rung, str] = field(default_factory=dict)
    """Rungs above that lack this one wall, and what stands there instead."""
    needs: frozenset[str] = frozenset()
    """Limits that must be enforced for it to be stopped."""
    counted: bool = False
    """A watchdog that looks from time to time is not enough for these limits: a cgroup must."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Where its limits differ from `LIMITS`."""
    network: Network = Network.NONE
    machines: frozenset[str] = frozenset({"x86_64", "aarch64"})
    task: Mapping[str, Any] = field(default_factory=dict)
    """What else its task says: files, stdin, collect, want_value."""
    first: Guest | None = None
    """What ran before this one, to its end; see `EARLIER`."""
    beside: Guest | None = None
    """A run that is under way, and waiting, while this one happens."""
    mounts: bool = False
    """Two folders of the host are mounted: `shared`, writable, and `fixed`, read-only."""
    session: bool = False
    """It is a cell of a session, and not a run; after it another cell is answered."""

    @cached_property
    def code(self) -> str:
        """The guest program."""
        return program(self.guest)

    def __str__(self) -> str:
        return self.name


class Options(TypedDict, total=False):
    """What an attack may say besides its program and its check; see `Attack`."""

    stopped_from: Rung
    shows: bool
    apart_from: Mapping[Rung, str]
    needs: frozenset[str]
    counted: bool
    limits: Mapping[str, Any]
    network: Network
    machines: frozenset[str]
    task: Mapping[str, Any]
    first: Guest | None
    beside: Guest | None
    mounts: bool
    session: bool


def everywhere(check: Check, **options: Unpack[Options]) -> Callable[[Guest], Attack]:
    """An attack on the host's own reading and judging, which holds behind no wall at all."""
    return attack(check, **({"stopped_from": Rung.PROCESS} | options))


def attack(check: Check, **options: Unpack[Options]) -> Callable[[Guest], Attack]:
    """Make an attack of a function: its name, its docstring as title, its module as family."""

    def made(guest: Guest) -> Attack:
        return Attack(
            name=guest.__name__.replace("_", "-"),
            family=guest.__module__.rpartition(".")[2],
            title=(guest.__doc__ or "").strip().splitlines()[0],
            guest=guest,
            check=check,
            **options,
        )

    return made
