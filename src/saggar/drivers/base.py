"""
What a driver offers the engine: the sockets that walls are plugged into.

Protocols only, and the values they share. A driver knows no language; the engine knows no driver.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from saggar.model.limits import Limits
from saggar.model.plan import Capabilities, Layer, WarmKey
from saggar.model.policy import Policy


@dataclass(frozen=True, slots=True)
class Exit:
    """How the first process of a tree ended, once the whole tree is dead."""

    code: int | None
    signal: int | None
    cpu: float | None = None
    """Seconds, of it and of the children it waited for."""
    memory: int | None = None
    """Peak resident bytes of the largest one of them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tree has used so far, measured from outside; None where it cannot be measured."""

    cpu: float | None = None
    memory: int | None = None
    """Peak bytes."""
    current: int | None = None
    """Bytes now."""
    processes: int | None = None
    oom_kills: int = 0
    refused_forks: int = 0


def space_of(folder: int) -> tuple[int, int]:
    """Bytes and inodes used on the file system that an open folder is on."""
    found = os.fstatvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree


class Process(Protocol):
    """
    A tree behind finished walls: parked, it waits for its one task; released, it is dead.

    It serves once. Whoever parks it either claims and runs it, or releases it at once.
    """

    isolation: str
    """The rung that holds."""
    channel: socket.socket
    stdin: int
    stdout: int
    stderr: int
    work: int
    """A descriptor of the work folder; readable even after the tree is dead."""
    exited: int
    """A descriptor that becomes readable when the first process is dead."""
    cwd: str
    """The work folder, as the inside calls it."""
    environment: Mapping[str, str]
    """What every program finds in its environment, before its own variables."""
    site: tuple[str, ...]
    """The folders of its layers in which Python looks for modules, as the inside calls them."""
    entrypoint: tuple[tuple[str, ...], str] | None
    """What it starts by itself, and in which folder; None where there is nothing of the kind."""
    rlimits: tuple[tuple[int, int, int], ...]
    """Resource limits the runner sets on itself: number, soft, hard."""

    def claim(self, limits: Limits) -> None:
        """Narrow it to `limits`, before its task is sent."""

    def close_stdin(self) -> None:
        """The end of the input."""

    def interrupt(self) -> None:
        """SIGINT to the first process."""

    def kill(self) -> None:
        """End the whole tree; may be called again."""

    def read(self) -> Reading:
        """What it has used so far."""

    def first_read(self) -> Reading:
        """The same as cheaply as possible, for a tree about to be killed."""

    def disk_full(self) -> bool:
        """Whether the writable space has no free block or inode left."""

    def space(self) -> tuple[int | None, int | None]:
        """Bytes and inodes used of the writable space; None where it is not its own."""

    def pause(self) -> None:
        """Stop every process of it where it is. OSError when that is not ours to do."""

    def resume(self) -> None:
        """Let them go on."""

    async def wait(self) -> Exit:
        """Until every process is dead. Kill it first, or wait as long as it lives."""

    def release(self) -> None:
        """Kill what is left, and give back all it had; returns at once."""


class Nursery(Protocol):
    """A warm server behind walls, which parks children."""

    @property
    def alive(self) -> bool:
        """Whether it can park another one."""

    @property
    def born(self) -> int:
        """How many children it has had."""

    def admit(self, policy: Policy) -> None:
        """
        Let a policy pass all of whose limits hold here; its numbers are no part of a warm key.

        Raises:
            DriverUnavailable: One of them cannot be enforced, and is not best effort.
        """

    async def park(self, *, hurried: bool = False) -> Process:
        """
        One more child behind finished walls, not yet narrowed to anybody's limits.

        `hurried`: its run is waiting already, so whatever only makes a later start shorter is left.

        Raises:
            SandboxBroken: The walls could not be built.
        """


class Driver(Protocol):
    """How a wall is built on this machine."""

    name: str
    warm: bool
    """Whether children may be kept parked."""
    images: bool
    """Whether what a program finds comes from an image, and not from this machine."""
    fixed: frozenset[str]
    """The limits that a child is made with and that no claim changes: they are part of its key."""

    async def probe(self) -> Capabilities:
        """What it can enforce here, found by trying; asked again it answers from memory."""

    def close(self) -> None:
        """Give back what is kept between nurseries; none is open any more."""

    def sweep(self) -> Mapping[str, int]:
        """Remove what dead processes of ours left on this machine; how many of what."""

    def nursery(
        self, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> AbstractAsyncContextManager[Nursery]:
        """
        A server whose children stand behind what `policy` asks for.

        Raises:
            DriverUnavailable: A wall or a limit cannot be had here.
        """
