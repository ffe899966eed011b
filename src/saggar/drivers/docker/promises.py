"""What a container promises on this machine: each limit with what keeps it, or why nothing does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saggar.drivers import gpu
from saggar.drivers.docker.engine import SEEN
from saggar.errors import DriverUnavailable
from saggar.model.plan import Support
from saggar.model.policy import Policy, Rung

ALWAYS = {
    "wall": "the host's clock: SIGINT, then SIGKILL",
    "grace": "the host's clock: SIGKILL",
    "cpu": "the host's look at the container's cgroup every 50 ms; RLIMIT_CPU for each process",
    "open_files": "RLIMIT_NOFILE",
    "file_size": "RLIMIT_FSIZE",
    "output": "the host counts, then SIGKILL",
    "disk": "the sizes of two tmpfs: seven eighths for /tmp with the work folder, one for /dev/shm",
    "inodes": "the numbers of files of the same two tmpfs",
}
COUNTED = {"memory": "MemoryLimit", "processes": "PidsLimit", "cpu_share": "CpuCfsQuota"}
"""Limits that the engine keeps with a cgroup, by what it calls being able to."""
GVISOR = "runsc"


def rung_of(runtime: str) -> Rung:
    """How strong the wall is that a runtime of the engine's builds."""
    return Rung.GVISOR if runtime.startswith(GVISOR) else Rung.CONTAINER


@dataclass(frozen=True, slots=True)
class Promises:
    """What holds in every container of one engine and one runtime."""

    rung: Rung
    limits: Mapping[str, Support]

    def admit(self, policy: Policy) -> None:
        """
        Let a policy pass that asks for no more than holds here.

        Raises:
            DriverUnavailable: It does; says for what.
        """
        if policy.isolation > self.rung:
            raise DriverUnavailable(
                f"docker reaches {self.rung.value!r} at most, not {policy.isolation.value!r}"
            )
        for name, support in self.limits.items():
            if not support.enforced and name not in policy.best_effort:
                raise DriverUnavailable(
                    f"docker cannot enforce {name} here: {support.why_not};"
                    f" Policy(best_effort={{{name!r}}}) would do without"
                )


def promises(about: Mapping[str, Any], runtime: str) -> Promises:
    """What an engine that says this of itself can keep."""
    version = about.get("CgroupVersion") or "?"
    found = {name: Support(enforced=True, how=how) for name, how in ALWAYS.items()}
    for name, word in COUNTED.items():
        found[name] = (
            Support(enforced=True, how=f"the container's cgroup, version {version}")
            if about.get(word)
            else Support(enforced=False, why_not=f"the engine says that it has no {word}")
        )
    if not about.get(SEEN, True):
        found["cpu"] = Support(
            enforced=False,
            why_not="the engine is in another pid namespace, so no cgroup of its is found here",
        )
    return Promises(rung_of(runtime), found)


def without_gpu(about: Mapping[str, Any]) -> str:
    """Why an engine can give no GPU to a container; empty if it may, which only a start tells."""
    said = [*(about.get("Runtimes") or ()), *(about.get("DiscoveredDevices") or ())]
    if any("nvidia" in str(one) for one in said) or gpu.CONTROL in gpu.look().nodes:
        return ""
    return (
        f"there is no {gpu.CONTROL} on this machine, and the engine names neither a runtime"
        " 'nvidia' nor a device of nvidia.com/gpu; NVIDIA's driver and nvidia-container-toolkit"
        " give it them"
    )


def facts(about: Mapping[str, Any]) -> dict[str, str]:
    """What is worth knowing of an engine."""
    security = [str(one) for one in about.get("SecurityOptions") or ()]
    return {
        "engine": str(about.get("Version", "?")),
        "kernel": str(about.get("KernelVersion", "?")),
        "rootless": "yes" if any("rootless" in one for one in security) else "no",
        "security": ", ".join(one.removeprefix("name=") for one in security) or "none",
        "cgroups": f"version {about.get('CgroupVersion') or '?'}",
        "runtimes": ", ".join(sorted(about.get("Runtimes") or ())) or "?",
        "storage": str(about.get("Driver", "?")),
        "gpu": f"none: {reason}" if (reason := without_gpu(about)) else "left to the engine",
    }
