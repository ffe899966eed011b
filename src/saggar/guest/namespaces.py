"""
The namespaces a fork server leaves for its children and comes back from; those it keeps for them.

It is a member of its own namespaces all its life; for the moment of a fork it stands in new ones,
because children are born where their parent stands.
"""

import _socket
import fcntl
import os
import struct

from saggar.boundary import syscalls as sys_
from saggar.guest.script import Script

INNER = {
    "mnt": sys_.CLONE_NEWNS,
    "ipc": sys_.CLONE_NEWIPC,
    "uts": sys_.CLONE_NEWUTS,
    "pid": sys_.CLONE_NEWPID,
}
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


class Home:
    """The server's own namespaces, by descriptor, so that it can leave them and come back."""

    def __init__(self, network: str) -> None:
        self._away, self._back = Script(), Script()
        self._away.add("unshare", sum(INNER.values()))
        # The host's network namespace is not ours to come back to; nor is it ever left.
        doors = INNER if network == "host" else INNER | {"net": sys_.CLONE_NEWNET}
        for name, kind in doors.items():
            door = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            self._back.add("setns", door, kind)
        self._away.compile()
        self._back.compile()

    def leave(self) -> None:
        """New namespaces around us; children are born in a pid namespace without a pid 1 yet."""
        self._away.run()

    def come_back(self) -> None:
        """Home again, whichever of them we left."""
        self._back.run()


class Networks:
    """Empty network namespaces, made ahead in the outer user namespace; one live sandbox each."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._free: list[int] = []

    def take(self) -> int | None:
        """A namespace to join, or nothing to join where the host's network was asked for."""
        if self._kind == "host":
            return None
        return self._free.pop() if self._free else self._make()

    def give_back(self, fd: int | None) -> None:
        """
        Everything that lived in it is dead, and nobody had power over it: it is as new.

        Not so where there was a loopback, which remembers connections for a minute.
        """
        if fd is not None and self._kind == "none":
            self._free.append(fd)
        elif fd is not None:
            os.close(fd)

    def _make(self) -> int:
        sys_.unshare(sys_.CLONE_NEWNET)
        if self._kind == "loopback":
            bring_up_loopback()
        return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def bring_up_loopback() -> None:
    """What `ip link set lo up` does."""
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    request = struct.pack("16sH22x", b"lo", 0)
    flags = struct.unpack("16sH22x", fcntl.ioctl(probe.fileno(), SIOCGIFFLAGS, request))[1]
    fcntl.ioctl(probe.fileno(), SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))
    probe.close()
