"""
What comes in from a container first: descriptors, none of which is taken for what it claims to be.

Pid 1 is the image's own Python, so its word is not enough. That a process is the container's, and
that a mounted place is the one that was meant, is asked of the kernel.
"""

import array
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from saggar.boundary import control as ctl
from saggar.boundary.syscalls import RESOLVE_NO_SYMLINKS, openat2
from saggar.errors import InvalidTask, SandboxBroken

DESCRIPTORS = 7
"""channel, stdin, stdout, stderr, work, the first process, pid 1; then one for each mount"""
HERE = -100
MOST_MOUNTS = 200
"""The kernel lets 253 descriptors travel together."""
Mounts = Sequence[tuple[str, str, bool]]


class Unconfined(SandboxBroken):
    """A child that could not put up, inside, the walls that it was told to."""


def check(mounts: Mounts) -> None:
    """InvalidTask unless every source is there, by a path without a link in it."""
    if len(mounts) > MOST_MOUNTS:
        raise InvalidTask(f"a container takes {MOST_MOUNTS} mounts at most, not {len(mounts)}")
    with held(mounts):
        pass


@contextmanager
def held(mounts: Mounts) -> Iterator[list[int]]:
    """The sources, opened without following a link: what is open stays what it was."""
    with ExitStack() as kept:
        opened = []
        for source, _, _ in mounts:
            if os.path.realpath(source) != source:
                raise InvalidTask(f"mount {source!r} leads through a link; name its real path")
            try:
                fd = openat2(HERE, os.fsencode(source), os.O_PATH, RESOLVE_NO_SYMLINKS)
            except OSError as exc:
                raise InvalidTask(f"mount {source!r} cannot be opened: {exc}") from exc
            kept.callback(os.close, fd)
            opened.append(fd)
        yield opened


def hear(
    control: socket.socket, mounts: Mounts = (), sources: Sequence[int] = ()
) -> tuple[ctl.Record, list[int]]:
    """
    What pid 1 or its child had to say first, and the descriptors of a child that stands.

    Raises:
        SandboxBroken: None stands, or what was sent is not what it should be.
        Unconfined: It says that a wall of its own is refused where it is.
    """
    count = DESCRIPTORS + len(mounts)
    data, ancillary, _, _ = control.recvmsg(ctl.MAX_RECORD, socket.CMSG_SPACE(4 * (count + 1)))
    rights = array.array("i")
    for _, _, packed in ancillary:
        rights.frombytes(packed)
    descriptors = list(rights)
    try:
        record = ctl.unpack(data) if len(data) >= ctl.RECORD.size else None
        if record is None:
            raise SandboxBroken("the container ended before its child stood")
        if record.text.startswith(f"{Unconfined.__name__}: ") and record.kind == ctl.FAILED:
            raise Unconfined(record.text)
        if record.kind != ctl.PARKED or len(descriptors) != count:
            raise SandboxBroken(record.text or "this process has no descriptors left for a child's")
        vouch(control, *descriptors[DESCRIPTORS - 2 : DESCRIPTORS])
        compare(mounts, sources, descriptors[DESCRIPTORS:])
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise
    for fd in descriptors[DESCRIPTORS:]:
        os.close(fd)
    return record, descriptors[:DESCRIPTORS]


def vouch(control: socket.socket, first: int, init: int) -> None:
    """
    SandboxBroken unless both are processes of the container that came in by `control`.

    They will be killed: one that is not the container's must never be among them.
    """
    who = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    came = struct.unpack("3i", who)[0]
    number, other = number_of(init), number_of(first)
    if number is None or other is None:
        raise SandboxBroken("pid 1 sent something that is no process")
    if number < 0:
        raise SandboxBroken("the container ended before its child stood")
    if number != came or os.getpid() in {number, other}:
        raise SandboxBroken("pid 1 sent somebody else's process as its own")
    if number == 0:  # counted elsewhere, as all of the container's are; none that we count
        if other > 0:
            raise SandboxBroken("pid 1 sent somebody else's process as its first")
        return
    if _status(number, "NSpid")[1:][-1:] != ["1"]:
        raise SandboxBroken("who came in is not pid 1 of a container")
    # Below zero it is dead, and without a status gone since: nobody else is behind it then.
    if other == 0 or (other > 0 and _status(other, "PPid") not in ([str(number)], [])):
        raise SandboxBroken("pid 1 sent somebody else's process as its first")


def compare(mounts: Mounts, sources: Sequence[int], found: Sequence[int]) -> None:
    """SandboxBroken unless what stands in the container is what was opened here."""
    for (source, target, _), meant, stands in zip(mounts, sources, found, strict=True):
        if not os.path.samestat(os.fstat(meant), os.fstat(stands)):
            raise SandboxBroken(
                f"at {target!r} the engine mounted something else than {source!r}: it was"
                " exchanged in the meantime, or the engine does not see the same files"
            )


def number_of(pidfd: int) -> int | None:
    """
    The number of a process here; 0 if it has none, below that if it is dead, None if it is none.

    The kernel's word, not the guest's.
    """
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return None


def _status(pid: int, word: str) -> list[str]:
    """What the kernel says of a process; nothing if there is none any more."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(f"{word}:"):
                    return line.split()[1:]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return []
