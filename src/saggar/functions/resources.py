"""
Resources as RunPod's SDK has them: a number of workers, and what GPUs they have.

Here a worker is a sandbox of this machine. What `@remote` is told in these words is translated to
ours, once and at one place; two words for one thing are refused where they are said.
"""

import logging
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, model_validator

from saggar.config import load
from saggar.drivers import gpu
from saggar.errors import DriverUnavailable, InvalidTask
from saggar.model.environment import Environment
from saggar.model.limits import Limits
from saggar.model.plan import Warmth
from saggar.model.policy import Policy
from saggar.model.value import Value

log = logging.getLogger(__name__)

WORKER: Final = {"memory": "4GiB", "processes": 512, "open_files": 4096, "disk": "1GiB"}
"""What one call may use, unless `limits` or `policy` say: a worker is a machine, not a snippet."""
WORDS: Final = {
    "dependencies": "environment",
    "system_dependencies": "environment",
    "hf_models_to_cache": "models",
}
"""Their words for what is around a function, and ours for the same."""
_ELSEWHERE: Final = frozenset(
    {
        *("cudaVersions", "datacenter", "flashboot", "gpuIds", "imageName", "instanceIds"),
        *("locations", "networkVolume", "networkVolumeId", "scalerType", "scalerValue"),
        *("template", "templateId", "type", "workersPFBTarget"),
    }
)
"""What a cloud is told."""


class GpuGroup(StrEnum):
    """Kinds of GPUs, as RunPod groups them."""

    ANY = "any"
    ADA_24 = "ADA_24"
    ADA_32_PRO = "ADA_32_PRO"
    ADA_48_PRO = "ADA_48_PRO"
    ADA_80_PRO = "ADA_80_PRO"
    AMPERE_16 = "AMPERE_16"
    AMPERE_24 = "AMPERE_24"
    AMPERE_48 = "AMPERE_48"
    AMPERE_80 = "AMPERE_80"
    HOPPER_141 = "HOPPER_141"

    @classmethod
    def all(cls) -> list["GpuGroup"]:
        """Every group that names something."""
        return [group for group in cls if group is not cls.ANY]


MODELS: Final[Mapping[GpuGroup, tuple[str, ...]]] = {
    GpuGroup.ADA_24: ("NVIDIA GeForce RTX 4090",),
    GpuGroup.ADA_32_PRO: ("NVIDIA GeForce RTX 5090",),
    GpuGroup.ADA_48_PRO: ("NVIDIA RTX 6000 Ada Generation", "NVIDIA L40", "NVIDIA L40S"),
    GpuGroup.ADA_80_PRO: ("NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL"),
    GpuGroup.AMPERE_16: (
        "NVIDIA RTX A4000",
        "NVIDIA RTX A4500",
        "NVIDIA RTX 4000 Ada Generation",
        "NVIDIA RTX 2000 Ada Generation",
    ),
    GpuGroup.AMPERE_24: ("NVIDIA RTX A5000", "NVIDIA L4", "NVIDIA GeForce RTX 3090"),
    GpuGroup.AMPERE_48: ("NVIDIA A40", "NVIDIA RTX A6000"),
    GpuGroup.AMPERE_80: ("NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB"),
    GpuGroup.HOPPER_141: ("NVIDIA H200",),
}
"""What a group's GPUs are called by their driver."""


def _groups(groups: tuple[GpuGroup, ...] | None) -> tuple[GpuGroup, ...]:
    return tuple(dict.fromkeys(groups or ()))


def _named(name: str) -> str:
    if not name.strip():
        raise ValueError("wanted a name such as 'my-endpoint', found an empty one")
    return name


class LiveServerless(Value):
    """
    Workers that functions and classes share: at most so many calls at once, the rest wait in order.

        gpu = LiveServerless(name="my-endpoint", gpus=[GpuGroup.ANY], workersMax=5)

        @saggar.remote(gpu, dependencies=["numpy"])
        def f(x): ...
    """

    if TYPE_CHECKING:
        # A list will do, and is what the document writes.
        def __init__(  # noqa: PLR0913 - one for each field
            self,
            *,
            name: str,
            gpus: Sequence[GpuGroup] | None = ...,
            gpuCount: int = ...,  # noqa: N803 - their names
            workersMax: int = ...,  # noqa: N803
            workersMin: int = ...,  # noqa: N803
            idleTimeout: float = ...,  # noqa: N803
            executionTimeoutMs: int = ...,  # noqa: N803
            env: Mapping[str, str] = ...,
        ) -> None: ...

    name: Annotated[str, Field(max_length=200), AfterValidator(_named)]
    gpus: Annotated[tuple[GpuGroup, ...] | None, AfterValidator(_groups)] = (GpuGroup.ANY,)
    """
    ANY: GPUs where there are some, else none. A group by its name: one of these, or the call is
    refused. None or empty: no GPU.
    """
    gpuCount: int = Field(default=1, ge=1, le=64)  # noqa: N815 - their name
    workersMax: int = Field(default=5, ge=1, le=1024)  # noqa: N815
    """Calls at once."""
    workersMin: int = Field(default=0, ge=0, le=256)  # noqa: N815
    """Sandboxes that stay warm for the next call, once there was a first one."""
    idleTimeout: float = Field(default=5, gt=0, le=7 * 24 * 60)  # noqa: N815
    """Minutes without a call after which no more than `workersMin` are kept."""
    executionTimeoutMs: int = Field(default=600_000, ge=1, le=7 * 86_400_000)  # noqa: N815
    """Milliseconds that one call may take."""
    env: Mapping[str, str] = {}
    """Variables that every call finds."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_cloud(cls, said: Any) -> Any:
        if isinstance(said, Mapping) and (cloud := sorted(said.keys() & _ELSEWHERE)):
            raise ValueError(
                f"{', '.join(cloud)}: a cloud is told so, and this machine has nothing of the kind;"
                " leave it out"
            )
        return said

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.workersMin > self.workersMax:
            raise ValueError(
                f"workersMin is {self.workersMin} and workersMax only {self.workersMax};"
                " the smaller one comes first"
            )
        return self

    def __hash__(self) -> int:
        return hash((self.name, self.workersMax, self.workersMin, self.idleTimeout))

    @property
    def warmth(self) -> Warmth:
        """How warm its sandboxes are kept."""
        return Warmth(self.name, self.workersMin, self.workersMax, 60 * self.idleTimeout)

    @property
    def idle(self) -> float:
        """Seconds after which an instance that nobody calls ends."""
        return 60 * self.idleTimeout

    @property
    def named(self) -> tuple[GpuGroup, ...]:
        """The groups of which it must be one; none where any will do."""
        return () if GpuGroup.ANY in (self.gpus or ()) else (self.gpus or ())

    def gpus_here(self, machine: gpu.Machine, ceiling: Policy | None = None) -> int:
        """How many GPUs a call is to have on this machine; ANY is a wish, a name is an order."""
        if self.named or not self.gpus:
            return self.gpuCount if self.named else 0
        reason = gpu.lacking(machine, self.gpuCount)
        if not reason and ceiling is not None and ceiling.gpu < self.gpuCount:
            reason = f"the operator's ceiling allows {ceiling.gpu}"
        if reason:
            log.info("%s runs without a GPU: %s", self.name, reason)
            return 0
        return self.gpuCount

    def refuse_others(self, machine: gpu.Machine) -> None:
        """DriverUnavailable where the GPUs a call would have are none of the groups it names."""
        models = {model for group in self.named for model in MODELS[group]}
        for card in machine.cards[: self.gpuCount] if models else ():
            if card.model not in models:
                raise DriverUnavailable(
                    f"{self.name}: wanted a GPU of {', '.join(self.named)}"
                    f" ({', '.join(sorted(models))}), found {card.model or 'an unknown one'};"
                    " gpus=[GpuGroup.ANY] takes what is there"
                )


def translated(said: Mapping[str, Any]) -> dict[str, Any]:
    """
    What was said in their words, in ours.

    Raises:
        InvalidTask: The same was said twice, or a word does not fit beside another.
    """
    found = {name: value for name, value in said.items() if name not in _THEIRS}
    _refuse_twice(said)
    if not isinstance(said.get("accelerate_downloads", True), bool):
        found_instead = said["accelerate_downloads"]
        raise InvalidTask(
            f"accelerate_downloads: wanted True or False, found {found_instead!r:.60}"
        )
    if said.keys() & {"dependencies", "system_dependencies"}:
        found["environment"] = Environment(
            packages=_listed(said, "dependencies"),
            system_packages=_listed(said, "system_dependencies"),
        )
    if "hf_models_to_cache" in said:
        found["models"] = _listed(said, "hf_models_to_cache")
    resource = said.get("resource_config")
    if resource is None:
        return found
    if not isinstance(resource, LiveServerless):
        raise InvalidTask(f"resource_config: wanted a LiveServerless, found {resource!r:.80}")
    return found | _of(resource, found)


_THEIRS: Final = frozenset({*WORDS, "accelerate_downloads", "resource_config"})


def _refuse_twice(said: Mapping[str, Any]) -> None:
    for theirs, ours in WORDS.items():
        if theirs in said and said.get(ours):
            raise InvalidTask(
                f"{theirs} and {ours} say the same in two vocabularies; say all of it in one"
            )


def _listed(said: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = said.get(name)
    if isinstance(value, str):
        raise InvalidTask(f"{name}: wanted a list such as [{value!r}], found {value!r:.80}")
    return tuple(value or ())


def _of(resource: LiveServerless, said: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from a resource, where nothing else was said of it."""
    explicit = resource.model_fields_set
    found: dict[str, Any] = {"resource": resource, "env": _variables(resource, said)}
    limits = said.get("limits")
    whole = isinstance(limits, Limits) or said.get("policy") is not None
    timed = said.get("timeout") is not None or whole or "wall" in (limits or {})
    if timed and "executionTimeoutMs" in explicit:
        raise InvalidTask(
            "executionTimeoutMs of the resource and timeout (or the limit of wall) both say how"
            " long a call may take; say one of them"
        )
    seconds = resource.executionTimeoutMs / 1000
    if not timed:
        found["timeout"] = seconds
    if not whole:
        share = float((limits or {}).get("cpu_share", 1))
        found["limits"] = {**WORKER, "cpu": seconds * max(1.0, share), **(limits or {})}
    if said.get("idle") is not None and "idleTimeout" in explicit:
        raise InvalidTask(
            "idleTimeout of the resource and idle both say when an instance ends; say one of them"
        )
    if said.get("idle") is None:
        found["idle"] = resource.idle
    policy = said.get("policy")
    asked = said.get("gpu", (policy.gpu or None) if policy is not None else None)
    found["gpu"] = _gpus(resource, asked)
    return found


def _variables(resource: LiveServerless, said: Mapping[str, Any]) -> dict[str, str]:
    """Those of the resource and those of the function; a name that both give must agree."""
    own = dict(said.get("env") or {})
    for name in sorted(own.keys() & resource.env.keys()):
        if own[name] != resource.env[name]:
            raise InvalidTask(f"env: the resource and the function give {name} different values")
    return {**resource.env, **own}


def _gpus(resource: LiveServerless, said: int | None) -> int:
    if said is None:
        machine = gpu.look()
        return resource.gpus_here(machine, load().ceiling if machine.nodes else None)
    if resource.named and not said:
        raise InvalidTask(
            f"gpu=0 and gpus=[{', '.join(resource.named)}] contradict each other; say one of them"
        )
    if not resource.gpus and said:
        raise InvalidTask(f"gpu={said} and a resource without gpus contradict each other")
    if "gpuCount" in resource.model_fields_set and said not in {0, resource.gpuCount}:
        raise InvalidTask(f"gpu={said} and gpuCount={resource.gpuCount}: say one of them")
    return said
