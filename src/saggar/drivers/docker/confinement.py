"""
What the child takes from itself on top of the engine's walls: the jail's filter, and Landlock.

An engine's own profile is made for everybody's containers and allows a good deal more. Neither of
these needs a privilege, and both hold where the engine's profile has been switched off. Whether an
engine lets containers have Landlock is tried once and remembered; where it does, no child stands
without it.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from saggar.drivers.docker.spec import SHARED_MEMORY, SPACE
from saggar.drivers.jail import landlock, seccomp
from saggar.errors import DriverUnavailable
from saggar.model.plan import WarmKey

NONE = "none in this kernel"
_DECIDES = ("ID", "Version", "KernelVersion", "SecurityOptions")
"""What an engine says of itself that another answer may come with."""
DEVICES = ("null", "zero", "full", "random", "urandom")
GPUS = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", *(f"nvidia{n}" for n in range(64)))
"""What an engine may make in a container that asks for GPUs; which of them is its own choice."""


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
    return {"filter": inner, "landlock": _landlock(network, writable, gpu=key.gpu > 0)}


def _landlock(network: str, writable: list[str], *, gpu: bool) -> tuple[Any, ...] | None:
    """A read-only mount keeps nobody from writing into a fifo that lies there; this does."""
    version = landlock.abi()
    if not version:
        return None
    rules = landlock.ruleset(
        version,
        read=("/",),
        write=writable,
        devices=tuple(f"/dev/{name}" for name in DEVICES),
        steered=tuple(f"/dev/{name}" for name in GPUS) if gpu else (),
        filled=("/proc",) if gpu else (),
        network=network,
    )
    return (*rules[:3], list(rules.rules), rules.size, rules.flags)


class Landlocked:
    """What is known of Landlock in the containers of one engine and one runtime."""

    def __init__(self, memory: Path, about: Mapping[str, Any], runtime: str) -> None:
        decides = [about.get(word) for word in _DECIDES]
        told = json.dumps([decides, runtime, landlock.abi()], default=str)
        self._file = memory / hashlib.sha256(told.encode()).hexdigest()[:32]
        self._refusal: str | None = None if landlock.abi() else NONE

    @property
    def refusal(self) -> str | None:
        """Why there is none; empty where it holds, None where nobody has tried."""
        if self._refusal is None:
            with suppress(OSError):
                self._refusal = self._file.read_text(encoding="utf-8")
        return self._refusal

    def learn(self, refusal: str) -> None:
        """How the trial went, for everybody after us; empty if it holds."""
        self._refusal = refusal
        with suppress(OSError):  # tried again, then
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new = self._file.with_suffix(f".{os.getpid()}")
            new.write_text(refusal, encoding="utf-8")
            new.replace(self._file)

    def fact(self) -> str:
        """The same in words, for the probe."""
        return self.refusal or f"version {landlock.abi()}, in every container"
