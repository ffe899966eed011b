"""
Landlock: which paths a guest may open, for what, and whom outside it may signal or connect to.

The second wall behind the namespaces, and the first one where the kernel refuses them. Every right
that the running kernel knows is taken away; a few come back by path. What it does not see (chmod,
chown, stat, times, extended attributes) is the system call filter's.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from saggar.boundary import syscalls

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK = 1 << 6, 1 << 7, 1 << 8, 1 << 9
MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV, RESOLVE_UNIX = 1 << 13, 1 << 14, 1 << 15, 1 << 16

BIND_TCP, CONNECT_TCP, BIND_UDP, SEND_UDP = 1 << 0, 1 << 1, 1 << 2, 1 << 3
ABSTRACT_UNIX_SOCKET, SIGNAL = 1 << 0, 1 << 1

# What each version added, by the version. 7 and 8 added no right.
_FILES: Final = {1: (1 << 13) - 1, 2: REFER, 3: TRUNCATE, 5: IOCTL_DEV, 9: RESOLVE_UNIX}
_PORTS: Final = {4: BIND_TCP | CONNECT_TCP, 10: BIND_UDP | SEND_UDP}
_SCOPES: Final = {6: ABSTRACT_UNIX_SOCKET | SIGNAL}

_READ: Final = EXECUTE | READ_FILE | READ_DIR
# Not to make devices, which are a way around every mount. Not to reach the sockets that others have
# bound: those of the guest's own need no right.
_WITHHELD: Final = MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV | RESOLVE_UNIX
_WRITE: Final = sum(_FILES.values()) & ~_WITHHELD
_DEVICE: Final = READ_FILE | WRITE_FILE
_STEERED: Final = _DEVICE | IOCTL_DEV
_FILLED: Final = _READ | WRITE_FILE | TRUNCATE

# LOG_SAME_EXEC_OFF, LOG_SUBDOMAINS_OFF: a guest in a loop must not fill the host's audit log.
_QUIET: Final = 1 << 0 | 1 << 2
_VERSION_ONLY: Final = 1


class LandlockRules(NamedTuple):
    """What is taken away, and what some paths give back."""

    handled_fs: int
    handled_net: int
    scoped: int
    rules: tuple[tuple[str, int], ...]
    """Path, rights. On anything but a directory, only those that a file can have take effect."""
    size: int
    """How much of the ruleset's description this kernel reads, in bytes."""
    flags: int
    """For landlock_restrict_self."""


def abi() -> int:
    """Which version of Landlock this kernel speaks; 0 where it is off or missing."""
    try:
        return syscalls.call("landlock_create_ruleset", None, 0, _VERSION_ONLY)
    except OSError:
        return 0


def ruleset(  # noqa: PLR0913 - one for each kind of right
    abi: int,
    *,
    read: Iterable[str] = (),
    write: Iterable[str] = (),
    devices: Iterable[str] = (),
    steered: Iterable[str] = (),
    filled: Iterable[str] = (),
    network: str,
) -> LandlockRules:
    """
    The rules for a kernel that speaks version `abi`.

    `read` may be read and executed, in `write` everything may be done but making devices, and
    `devices` are opened but take no ioctl, those that are `steered` take them; in `filled` nothing
    is made, but what is there may be written to. Rights to ports are taken away only where
    `network` is none; a rule that allowed them all could not be written, since a rule names a port.
    """
    files = _known(_FILES, abi)
    granted = (
        (read, _READ),
        (write, _WRITE),
        (devices, _DEVICE),
        (steered, _STEERED),
        (filled, _FILLED),
    )
    rules = ((path, rights & files) for paths, rights in granted for path in paths)
    return LandlockRules(
        handled_fs=files,
        handled_net=_known(_PORTS, abi) if network == "none" else 0,
        scoped=_known(_SCOPES, abi),
        rules=tuple(rules),
        size=8 if abi < 4 else 16 if abi < 6 else 24,
        flags=_QUIET if abi >= 7 else 0,
    )


def _known(added: dict[int, int], abi: int) -> int:
    return sum(rights for version, rights in added.items() if version <= abi)
