"""
What the child takes from itself on top of the engine's walls: the jail's filter, and Landlock.

An engine's own profile is made for everybody's containers and allows a good deal more. Neither of
these needs a privilege, and both hold where the engine's profile has been switched off.
"""

import platform
from typing import Any

from saggar.drivers.docker.spec import SHARED_MEMORY, SPACE
from saggar.drivers.jail import landlock, seccomp
from saggar.errors import DriverUnavailable
from saggar.model.plan import WarmKey

DEVICES = ("null", "zero", "full", "random", "urandom")


def confinement(key: WarmKey) -> dict[str, Any]:
    """
    For the greeting: `filter`, and `landlock` (None where this kernel has none).

    Raises:
        DriverUnavailable: There is no filter for this machine.
    """
    shared = [target for _, target, read_only in key.mounts if not read_only]
    network = key.network.value
    machine = platform.machine()
    try:
        inner = seccomp.inner_filter(machine, network, "container", shares=bool(shared))
    except ValueError as exc:
        raise DriverUnavailable(f"docker cannot be had here: {exc}") from None
    # Where the root itself may be written to, Landlock cannot tell it from what is mounted there.
    writable = ["/"] if key.writable_root else [SPACE, SHARED_MEMORY, *shared]
    return {"filter": inner, "landlock": _landlock(network, writable)}


def _landlock(network: str, writable: list[str]) -> tuple[Any, ...] | None:
    """A read-only mount keeps nobody from writing into a fifo that lies there; this does."""
    version = landlock.abi()
    if not version:
        return None
    rules = landlock.ruleset(
        version,
        read=("/",),
        write=writable,
        devices=tuple(f"/dev/{name}" for name in DEVICES),
        network=network,
    )
    return (*rules[:3], list(rules.rules), rules.size, rules.flags)
