"""
What can be promised of a process without walls, and to whom.

A policy must name all that it does without: nothing here is a fallback for a wall.
"""

import os

from saggar.drivers.process.child import lists_children
from saggar.errors import DriverUnavailable
from saggar.model.plan import Support
from saggar.model.policy import Network, Policy, Rung

KEPT = {
    "wall": "the host's clock: SIGINT, then SIGKILL",
    "grace": "the host's clock: SIGKILL",
    "open_files": "RLIMIT_NOFILE",
    "file_size": "RLIMIT_FSIZE",
    "output": "the host counts, then SIGKILL",
}
UNKEPT = {
    "cpu_share": "only a control group can, and this driver makes none",
    "memory": "a look at the tree every 50 ms and RLIMIT_DATA for each process stop an accident;"
    " memory that no process maps is not seen",
    "processes": "RLIMIT_NPROC counts all that the user runs, and what forks faster than it is"
    " killed may outlive its run",
    "disk": "the work folder is one of the host's",
    "inodes": "the work folder is one of the host's",
}
CPU = Support(
    enforced=True,
    how="the host's look at the whole tree every 50 ms; RLIMIT_CPU for each process",
)
NO_WALLS = (
    "it builds no walls: a program can read, change, signal and reach all that this user can,"
    " Saggar and what keeps its end included"
)
NO_FAMILIES = (
    "this kernel does not list the children of a process: one that starts a session of its own"
    " outlives the run"
)
NO_PIDFD = (
    "this kernel does not tell of the host's death: a killed host's runs go on as long as"
    " processes live that were forked from it"
)


def supports() -> dict[str, Support]:
    """What is enforced, by what, and what is not."""
    found = {name: Support(enforced=True, how=how) for name, how in KEPT.items()}
    found |= {name: Support(enforced=False, why_not=why) for name, why in UNKEPT.items()}
    alone = Support(enforced=False, why_not="RLIMIT_CPU counts each process by itself")
    return found | {"cpu": CPU if lists_children() else alone}


def shortcomings() -> list[str]:
    """What a user of this driver should have read."""
    told = {
        NO_WALLS: True,
        NO_FAMILIES: not lists_children(),
        NO_PIDFD: not hasattr(os, "pidfd_open"),
    }
    return [reason for reason, holds in told.items() if holds]


def sufficient() -> Policy:
    """A policy that asks for no more than is kept here."""
    missing = frozenset(name for name, support in supports().items() if not support.enforced)
    return Policy(isolation=Rung.PROCESS, network=Network.HOST, best_effort=missing)


def admit(policy: Policy) -> None:
    """
    Let a policy pass that asks for no more than is kept here.

    Raises:
        DriverUnavailable: It does; says for what, all at once, and which policy would not.
    """
    enough = sufficient()
    wanted = []
    if policy.isolation > enough.isolation:
        wanted.append(f"isolation {policy.isolation.value!r}")
    if policy.network < enough.network:
        wanted.append(f"network {policy.network.value!r}")
    if unkept := sorted(enough.best_effort - policy.best_effort):
        wanted.append(f"limits on {', '.join(unkept)}")
    if wanted:
        names = ", ".join(map(repr, sorted(enough.best_effort)))
        raise DriverUnavailable(
            f"process builds no walls, so it cannot keep {'; '.join(wanted)}; code you trust may"
            f" run with Policy(isolation='process', network='host', best_effort={{{names}}})"
        )
