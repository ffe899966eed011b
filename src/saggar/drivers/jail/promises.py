"""What a jail promises on this machine: each limit with what keeps it, or why nothing does."""

import math
import os
import platform
from collections.abc import Mapping

from saggar.drivers.jail import landlock
from saggar.drivers.jail.hierarchies import Finding
from saggar.model.limits import Limits
from saggar.model.plan import Support
from saggar.model.policy import Network, Rung

MACHINES = ("x86_64", "aarch64")
SCOPED = 6
"""The version of Landlock from which a guest signals nobody outside."""
ALWAYS = {
    "wall": "the host's clock: SIGINT, then SIGKILL",
    "grace": "the host's clock: SIGKILL",
    "cpu": "the host's look at the whole tree every 50 ms; RLIMIT_CPU for each process",
    "open_files": "RLIMIT_NOFILE",
    "file_size": "RLIMIT_FSIZE",
    "output": "the host counts, then SIGKILL",
}
SPACE = "the size of the one tmpfs that holds all writable folders"
NO_SPACE = "without a mount namespace the work folder is one of the host's"
WATCHDOG = "a look at the tree's Pss every 50 ms, then SIGKILL; RLIMIT_DATA for each process"


def unsupported() -> str:
    """Why there are no such walls on this machine at all; empty if there may be."""
    if platform.system() != "Linux":
        return f"its walls are the Linux kernel's, and this is {platform.system()}"
    if platform.machine() not in MACHINES:
        return f"its filters are written for {' and '.join(MACHINES)}, not {platform.machine()}"
    return ""


def unconfined(network: Network) -> str:
    """Why Landlock alone would not hold a guest here; empty if it does."""
    if network is Network.LOOPBACK:
        return "a loopback of its own takes a network namespace"
    version = landlock.abi()
    if not version:
        return "Landlock is off or missing in this kernel"
    if version < SCOPED and os.geteuid() != 0:
        return f"Landlock {version} lets a guest signal this user's processes; it takes {SCOPED}"
    return ""


def shared_proc() -> str:
    """Why a GPU, which takes a /proc to write to, is not for guests that share ours; or nothing."""
    if os.geteuid() == 0:
        return ""  # each has a user id of its own, whose files there are its own
    return "a GPU takes write access to /proc, where this user's other processes would be as well"


def supports(rung: Rung, limits: Limits, cgroups: Mapping[str, Finding]) -> dict[str, Support]:
    """Every limit, and what keeps it on `rung`; a cgroup wherever there is one."""
    found = {name: Support(enforced=True, how=how) for name, how in ALWAYS.items()}
    jail = rung is Rung.JAIL
    for name in ("disk", "inodes"):
        found[name] = (
            Support(enforced=True, how=SPACE) if jail else Support(enforced=False, why_not=NO_SPACE)
        )
    for name, finding in cgroups.items():
        if name != "cpu" and finding.enforced:
            found[name] = Support(enforced=True, how=finding.how)
    found.setdefault("memory", Support(enforced=True, how=WATCHDOG))
    found.setdefault("processes", _processes(jail=jail))
    found.setdefault("cpu_share", _share(limits.cpu_share, cgroups["cpu_share"].why_not))
    return found


def _processes(*, jail: bool) -> Support:
    if jail or os.geteuid() == 0:
        return Support(enforced=True, how="RLIMIT_NPROC of a user id of its own")
    return Support(
        enforced=False,
        why_not="RLIMIT_NPROC counts every process of this user, and no pids cgroup is writable",
    )


def _share(cores: float, why: str) -> Support:
    available = len(os.sched_getaffinity(0))
    if cores >= available or cores == math.ceil(cores):
        return Support(enforced=True, how="a fixed set of cores")
    return Support(enforced=False, why_not=f"a part of a core takes a cgroup: {why}")
