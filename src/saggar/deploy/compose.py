"""
A compose file: N instances, the manager in front of them, and the manager's list of them.

From a `Plan` to two documents, and nothing else happens here but what `write` does. Every container
is closed as far as a file can say it: read-only, without capabilities, limits on memory, cores and
processes, ports on the loopback only.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from saggar.errors import PlatformError, UsageError
from saggar.model.value import Value

INSTANCE_PORT: Final = 8432
MANAGER_PORT: Final = 5000
MANAGER_IMAGE: Final = "saggar/manager"
CODE: Final = "/code"
SUBMISSION: Final = "/submission"
CONFIG: Final = "/config/container_config.json"
STATE: Final = "/state"
MOST: Final = 1000
"""As many instances as a manager has connections."""
LIMITS: Final = {"MEM_LIMIT": "256M", "CPUS": "0.25", "MEM_RESERVATION": ""}
"""What of --env is about the container; the rest is for the program in it."""
SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)([bkmg]?)b?", re.IGNORECASE)
TYPE: Final = re.compile(r"[a-z0-9][a-z0-9._/:@-]*")
GPU: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:/_-]*")
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CLOSED: Final[Mapping[str, Any]] = {
    "restart": "unless-stopped",
    "init": True,
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
"""What holds for every container."""


class Plan(Value):
    """What is to be generated."""

    types: tuple[str, ...]
    """The type of each instance, in order; a type names its image."""
    folder: str = ""
    """A folder whose code every instance loads."""
    saveto: str = ""
    """A folder in which each instance has one of its own to write to."""
    start_port: int = 60000
    """Where the first of them is published, on this machine's loopback."""
    env: Mapping[str, str] = {}
    gpus: tuple[str, ...] = ()
    config: str
    """Where the manager's list is kept."""


def types(said: str, wanted: int) -> list[str]:
    """
    The type of each of `wanted` instances, from `python:2,node:1`.

    Raises:
        UsageError: A count is missing or none, a type stands there twice, or they do not add up.
    """
    counts: dict[str, int] = {}
    for part in filter(None, (word.strip() for word in said.split(","))):
        # From the right: the name of an image may have a tag.
        kind, colon, count = part.rpartition(":")
        if not colon or not TYPE.fullmatch(kind):
            raise UsageError(f"--types: wanted TYPE:COUNT such as python:2, found {part!r:.60}")
        if not count.isdecimal() or int(count) < 1:
            raise UsageError(f"--types: wanted a count of at least 1 in {part!r:.60}")
        if kind in counts:
            raise UsageError(f"--types: {kind!r:.60} stands there twice")
        counts[kind] = int(count)
    if (total := sum(counts.values())) != wanted:
        raise UsageError(f"--types: the counts add up to {total}, --num-containers is {wanted}")
    return [kind for kind, count in counts.items() for _ in range(count)]


def variables(said: Sequence[str]) -> dict[str, str]:
    """
    `K=V,K2=V2`, said once or more.

    Raises:
        UsageError: One has no =, no name that a variable can have, or stands there twice.
    """
    found: dict[str, str] = {}
    for part in filter(None, (one.strip() for group in said for one in group.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not VARIABLE.fullmatch(name):
            raise UsageError(
                f"--env: wanted NAME=VALUE, found {part!r:.60};"
                " a value with a comma in it goes into the image"
            )
        if name in found:
            raise UsageError(f"--env: {name} stands there twice")
        found[name] = value
    return found


def gpus(said: str, wanted: int) -> tuple[str, ...]:
    """
    One GPU for each instance, from `0,1,2`.

    Raises:
        UsageError: There are more or fewer of them, or one twice.
    """
    found = tuple(one.strip() for one in said.split(","))
    for one in found:
        if not GPU.fullmatch(one):
            raise UsageError(f"--gpu-ids: wanted numbers or names such as 0,1, found {one!r:.60}")
        if found.count(one) > 1:
            raise UsageError(f"--gpu-ids: {one} stands there twice; each instance has its own")
    if len(found) != wanted:
        raise UsageError(f"--gpu-ids: {len(found)} of them, --num-containers is {wanted}")
    return found


def check(plan: Plan) -> None:
    """
    What can be known to be wrong before anything is written.

    Raises:
        UsageError: Too many instances, ports that are none or the manager's, limits that are none.
    """
    count, first = len(plan.types), plan.start_port
    if not 1 <= count <= MOST:
        raise UsageError(f"--num-containers: wanted 1 to {MOST}, found {count}")
    last = first + count - 1
    if first < 1 or last > 65535:
        raise UsageError(f"--start-port: ports {first} to {last}, wanted 1 to 65535")
    if first <= MANAGER_PORT <= last:
        raise UsageError(
            f"--start-port: ports {first} to {last} take the manager's, {MANAGER_PORT}"
        )
    memory = _memory("MEM_LIMIT", _limit(plan, "MEM_LIMIT"))
    if (kept := _limit(plan, "MEM_RESERVATION")) and _memory("MEM_RESERVATION", kept) > memory:
        raise UsageError("--env: MEM_RESERVATION is more than MEM_LIMIT")
    _cores(_limit(plan, "CPUS"))


def document(plan: Plan) -> dict[str, Any]:
    """The compose file. UsageError as of `check`."""
    check(plan)
    services = {
        service(number): _instance(plan, number, kind) for number, kind in enumerate(plan.types)
    }
    services["manager"] = _manager(plan, list(services))
    return {"services": services, "volumes": {"manager-state": {}}}


def containers(plan: Plan) -> dict[str, dict[str, str]]:
    """The manager's list: as it sees the instances, by the names of their services."""
    return {
        str(number): {"url": f"http://{service(number)}:{INSTANCE_PORT}", "type": kind}
        for number, kind in enumerate(plan.types)
    }


def service(number: int) -> str:
    """What an instance is called among the others."""
    return f"executor-{number:03d}"


def saved(plan: Plan, number: int) -> str:
    """The folder that is one instance's own."""
    return f"{plan.saveto}/container_{number:03d}"


def write(plan: Plan, output: str) -> None:
    """
    Write the compose file and the manager's list, and make the folders that instances write to.

    Raises:
        UsageError: As of `check`; or what writes YAML is not installed.
        PlatformError: One of them cannot be written.
    """
    text = as_yaml(document(plan))
    listed = json.dumps(containers(plan), indent=2) + "\n"
    try:
        for number in range(len(plan.types) if plan.saveto else 0):
            _own_folder(saved(plan, number))
        Path(plan.config).write_text(listed, encoding="utf-8")
        Path(output).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise PlatformError(f"cannot write {exc.filename}: {(exc.strerror or '').lower()}") from exc


def as_yaml(made: Mapping[str, Any]) -> str:
    """A document as YAML, in its own order."""
    try:
        import yaml
    except ImportError as exc:
        raise UsageError("a compose file needs pyyaml: pip install 'saggar[deploy]'") from exc

    class Whole(yaml.SafeDumper):
        """Every value where it is used: an anchor saves lines, and costs whoever reads them."""

        def ignore_aliases(self, _data: object) -> bool:
            """Whatever it is."""
            return True

    return yaml.dump(_literal(made), Dumper=Whole, sort_keys=False, width=100)


def _instance(plan: Plan, number: int, kind: str) -> dict[str, Any]:
    port = plan.start_port + number
    environment = {
        "CONTAINER_ID": str(number),
        "HOST_PORT": str(port),
        "PORT": str(INSTANCE_PORT),
        "WORKSPACE_FOLDER": CODE,
        # Published on the loopback only, which is what this says somebody has seen to.
        "SAGGAR_INSECURE_BIND": "1",
        **({"SUBMISSION_DIR": SUBMISSION} if plan.saveto else {}),
        **{name: value for name, value in plan.env.items() if name not in LIMITS},
    }
    volumes = [f"{plan.folder}:{CODE}:ro"] if plan.folder else []
    volumes += [f"{saved(plan, number)}:{SUBMISSION}"] if plan.saveto else []
    made = {
        **_image(kind),
        **CLOSED,
        "tmpfs": ["/tmp:size=64m,mode=1777"],
        "pids_limit": 256,
        "mem_limit": _limit(plan, "MEM_LIMIT"),
        "cpus": _cores(_limit(plan, "CPUS")),
        "environment": environment,
        "ports": [f"127.0.0.1:{port}:{INSTANCE_PORT}"],
        "labels": {
            "container.id": str(number),
            "container.port": str(port),
            "container.type": kind,
        },
    }
    if kept := _limit(plan, "MEM_RESERVATION"):
        made["mem_reservation"] = kept
    if volumes:
        made["volumes"] = volumes
    if plan.gpus:
        device = {"driver": "nvidia", "device_ids": [plan.gpus[number]], "capabilities": ["gpu"]}
        made["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return made


def _manager(plan: Plan, services: Sequence[str]) -> dict[str, Any]:
    command = ["manager", "--host", "0.0.0.0", "--port", str(MANAGER_PORT)]  # noqa: S104 - of its container
    return {
        **_image(MANAGER_IMAGE),
        **CLOSED,
        "command": [*command, "--state", f"{STATE}/manager.sqlite"],
        "tmpfs": ["/tmp:size=16m,mode=1777"],
        "pids_limit": 128,
        "mem_limit": "512M",
        "environment": {
            "CONTAINER_CONFIG_PATH": CONFIG,
            "SAGGAR_INSECURE_BIND": "1",
            # As whoever starts it has it, if at all: a key does not belong into a file.
            "SAGGAR_KEY": None,
        },
        "ports": [f"127.0.0.1:{MANAGER_PORT}:{MANAGER_PORT}"],
        "volumes": [f"{plan.config}:{CONFIG}:ro", f"manager-state:{STATE}"],
        "depends_on": list(services),
    }


def _image(name: str) -> dict[str, str]:
    # A bare name is an image that was built here. A registry has others of these names: its
    # `python` is no instance, and anybody may put something there that is one.
    bare = "/" not in name or name == MANAGER_IMAGE
    return {"image": name, **({"pull_policy": "never"} if bare else {})}


def _limit(plan: Plan, name: str) -> str:
    return plan.env.get(name) or LIMITS[name]


def _memory(name: str, said: str) -> float:
    found = SIZE.fullmatch(said)
    if found is None or not float(found[1]):
        raise UsageError(f"--env: {name}: wanted a size such as 256M or 2G, found {said!r:.60}")
    return float(found[1]) * float(1024 ** "bkmg".index(found[2].lower() or "b"))


def _cores(said: str) -> float:
    try:
        cores = float(said)
    except ValueError:
        cores = math.nan
    if not 0 < cores < math.inf:
        raise UsageError(f"--env: CPUS: wanted a number of cores such as 0.25, found {said!r:.60}")
    return cores


def _own_folder(path: str) -> None:
    """A folder that the program in a container can write to, whoever that is there."""
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o777)  # noqa: S103 - it is another user, whom this machine may not know


def _literal(made: Any) -> Any:
    """The same, with every $ meant as it stands: compose would put a variable there."""
    match made:
        case str():
            return made.replace("$", "$$")
        case Mapping():
            return {name: _literal(value) for name, value in made.items()}
        case list() | tuple():
            return [_literal(value) for value in made]
    return made
