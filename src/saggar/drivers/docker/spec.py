"""
From a policy to a container, as the engine's API wants it told. Pure: nothing is asked or started.

Closed by default, and every line of it on purpose: no network, a root that cannot be written, an
ordinary user without a single capability, and a number for everything that can be used up.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saggar.drivers.docker.engine import LABEL, Image
from saggar.drivers.docker.interior import USUAL_PATH, Interior
from saggar.drivers.interpreter import OPTIONS, bootstrap
from saggar.model.limits import Limits
from saggar.model.plan import Layer, WarmKey, around
from saggar.model.policy import Network

SPACE = "/tmp"
WORK = f"{SPACE}/work"
"""Below the one file system that can be written to: so its size is one number."""
DOOR = "/run/saggar"
"""Where the container finds the socket that leads to us."""
SOCKET = "control"
SHARED_MEMORY = "/dev/shm"
SHARED_PART = 8
"""Of the disk limit, one part in so many is shared memory's: two file systems, one sum."""
SHARED_FILES = 32
"""At most so many of the files: shared memory has few, and large ones."""
STEERING = ("LD_", "GLIBC_TUNABLES", "PYTHON")
"""Variables of an image that would have a say in what pid 1 does; the program gets them."""
LEAST_SHARE = 0.01
"""Of a core: the engine takes no less."""

PRELUDE = f"""
import _socket, sys
control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
control.connect("{DOOR}/{SOCKET}")
data, ancillary, _, _ = control.recvmsg(1 << 17, 64)
bundle, host = memoryview(ancillary[0][2]).cast("i")
words = ["saggar.guest.container", str(bundle), str(control.detach()), str(host), data.hex()]
sys.argv[1:] = words
"""
"""What pid 1 does first: it fetches the rest of itself from the host."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What the containers of one nursery have in common."""

    image: Image
    interior: Interior
    key: WarmKey
    limits: Limits
    layers: tuple[Layer, ...]
    owner: str
    runtime: str
    cores: int
    """How many the engine has."""

    @property
    def site(self) -> tuple[str, ...]:
        """The folders of its layers in which Python looks for modules."""
        return tuple(layer.target for layer in self.layers if layer.python_path)

    def environment(self) -> dict[str, str]:
        """What every program finds in its environment, before its task's own variables."""
        variables = {
            "PATH": USUAL_PATH,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            **self.image.environment,
            "HOME": WORK,
            "USER": "sandbox",
            "LOGNAME": "sandbox",
            "TMPDIR": SPACE,
        }
        return around(variables, self.layers)

    def container(self, door: str) -> dict[str, Any]:
        """One container, with the folder of the host that is its way to us."""
        return {
            "Image": self.image.id,
            "Entrypoint": [],
            "Cmd": [*self.interior.argv, *OPTIONS, "-c", PRELUDE + bootstrap()],
            "Env": [
                # Empty, not left out: the engine would fill in what the image says.
                f"{name}=" if name.startswith(STEERING) else f"{name}={value}"
                for name, value in self.environment().items()
            ],
            "User": f"{self.key.user}:{self.key.user}",
            "WorkingDir": "/",
            "Hostname": "" if self.key.network is Network.HOST else "saggar",
            "Labels": {LABEL: self.owner},
            "StopSignal": "SIGKILL",
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": self._host(door),
        }

    def _host(self, door: str) -> dict[str, Any]:
        limits = self.limits
        named: dict[str, Any] = {"Runtime": self.runtime} if self.runtime else {}
        if self.key.gpu:
            named["DeviceRequests"] = [gpus(self.key.gpu)]
        return named | {
            "NetworkMode": "host" if self.key.network is Network.HOST else "none",
            "ReadonlyRootfs": not self.key.writable_root,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "IpcMode": "private",
            "Init": False,
            "AutoRemove": True,
            "LogConfig": {"Type": "none"},
            "Memory": limits.memory,
            "MemorySwap": limits.memory,
            "NanoCpus": round(1e9 * max(LEAST_SHARE, min(limits.cpu_share, self.cores))),
            "PidsLimit": limits.processes + 1,  # pid 1 is ours
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            "Tmpfs": writable(limits),
            "Mounts": list(self._mounts(door)),
        }

    def _mounts(self, door: str) -> Sequence[Mapping[str, Any]]:
        found = [(door, DOOR, True), *((*pair, True) for pair in self.interior.mounts)]
        found += [(os.path.realpath(one.path), one.target, True) for one in self.layers]
        found += self.key.mounts
        return [
            {
                "Type": "bind",
                "Source": source,
                "Target": target,
                "ReadOnly": read_only,
                # What is mounted below it would stay writable: older engines make the top
                # read-only and nothing else.
                "BindOptions": {"Propagation": "rprivate", "NonRecursive": read_only},
            }
            for source, target, read_only in found
        ]


def gpus(count: int) -> dict[str, Any]:
    """So many GPUs, as the engine is asked for them: to compute and to be looked at, no more."""
    return {
        "Driver": "nvidia",
        "Count": count,
        "Capabilities": [["gpu", "compute", "utility"]],
    }


def writable(limits: Limits) -> dict[str, str]:
    """The places that can be written to, with the options they are mounted with."""
    size = limits.disk // SHARED_PART
    inodes = min(SHARED_FILES, max(1, limits.inodes // SHARED_PART))
    parts = {
        SPACE: (limits.disk - size, limits.inodes - inodes),
        SHARED_MEMORY: (size, inodes),
    }
    return {
        place: f"rw,exec,nosuid,nodev,mode=1777,size={size},nr_inodes={inodes}"
        for place, (size, inodes) in parts.items()
    }
