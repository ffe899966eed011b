"""
One controller of one control group: its limit and its meters, in version 1 and in version 2.

Each part that meters answers `settle`: start from zero now that the group is empty, and say
whether the group can serve once more.
"""

import errno
import os
from typing import Protocol

RESIDUE = 1 << 20
"""Bytes that may stay charged to an empty group; with more it is not used again."""

PERIOD = 100_000
"""Microseconds over which a share of the processor is dealt out; the kernel's default."""

# Asked once: libc reads a file for it, which is half the cost of limits that do not change.
_CORES = os.cpu_count() or 1


class File:
    """A control file, opened at its first use and kept open where `keep` says so."""

    __slots__ = ("_fd", "_flags", "_keep", "_path")

    def __init__(self, path: str, flags: int = os.O_RDONLY, *, keep: bool) -> None:
        self._path, self._flags, self._keep, self._fd = path, flags | os.O_CLOEXEC, keep, -1

    def read(self, offset: int = 0) -> bytes:
        """What it says now; the kernel hands long ones out a page at a time."""
        fd = self._open()
        try:
            return os.pread(fd, 8192, offset)
        finally:
            self._done(fd)

    def write(self, text: bytes) -> None:
        """Give a command."""
        fd = self._open()
        try:
            os.write(fd, text)
        finally:
            self._done(fd)

    def close(self) -> None:
        """Close it; used again, it opens again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        if self._fd >= 0:
            return self._fd
        fd = os.open(self._path, self._flags)
        if self._keep:
            self._fd = fd
        return fd

    def _done(self, fd: int) -> None:
        if fd != self._fd:
            os.close(fd)


class Limit:
    """A number the kernel holds something to; written only when it changes."""

    def __init__(self, *paths: str) -> None:
        self._files = [File(path, os.O_WRONLY, keep=False) for path in paths]
        self._held: int | None = None

    def set(self, most: int) -> None:
        """Hold it to `most`. Several files are lowered in their order and raised from the end."""
        held, self._held = self._held, None
        if most != held:
            raising = held is not None and most > held
            for file in reversed(self._files) if raising else self._files:
                file.write(b"%d" % most)
        self._held = most


class Part(Protocol):
    """What every controller that meters can do."""

    def settle(self) -> bool:
        """Meters to zero; whether the group may be used again."""

    def close(self) -> None:
        """Close its files."""


class MemoryV1:
    """Memory as version 1 counts it; the kernel kills within the group when it is spent."""

    def __init__(self, folder: str, *, keep: bool) -> None:
        # Memory alone may never exceed memory plus swap: lower it first, raise it last.
        memsw = f"{folder}/memory.memsw.limit_in_bytes"
        both = (memsw,) if os.path.exists(memsw) else ()
        self._limit = Limit(f"{folder}/memory.limit_in_bytes", *both)
        File(f"{folder}/memory.swappiness", os.O_WRONLY, keep=False).write(b"0")
        self._peak = File(f"{folder}/memory.max_usage_in_bytes", os.O_RDWR, keep=keep)
        self._usage = File(f"{folder}/memory.usage_in_bytes", keep=keep)
        self._oom = File(f"{folder}/memory.oom_control", keep=keep)
        self._stat = File(f"{folder}/memory.stat", keep=keep)
        self._kernel = File(f"{folder}/memory.kmem.usage_in_bytes", keep=keep)
        self._killed = 0

    def limit(self, most: int) -> None:
        """Bytes of memory, and no swap beside them."""
        self._limit.set(most)

    def peak(self) -> int:
        """The most there was at once."""
        return int(self._peak.read())

    def current(self) -> int:
        """Bytes now."""
        return int(self._usage.read())

    def kills(self) -> int:
        """Processes the kernel killed for want of memory."""
        return _after(b"\noom_kill ", self._oom.read()) - self._killed

    def settle(self) -> bool:
        """Meters to zero, if what stays charged is little."""
        # Usage includes what is charged ahead for each core; only beyond the bound does it matter
        # what is really there.
        if self.current() > RESIDUE and self._real() > RESIDUE:
            return False
        self._peak.write(b"0")
        self._killed += self.kills()
        return True

    def close(self) -> None:
        """Close its files."""
        for file in (self._peak, self._usage, self._oom, self._stat, self._kernel):
            file.close()

    def _real(self) -> int:
        text = b"\n" + self._stat.read()
        return _after(b"\ncache ", text) + _after(b"\nrss ", text) + int(self._kernel.read())


class MemoryV2:
    """Memory as version 2 counts it; when it is spent the kernel kills the whole group."""

    def __init__(self, folder: str, *, keep: bool) -> None:
        self._limit = Limit(f"{folder}/memory.max")
        File(f"{folder}/memory.oom.group", os.O_WRONLY, keep=False).write(b"1")
        if os.path.exists(f"{folder}/memory.swap.max"):
            File(f"{folder}/memory.swap.max", os.O_WRONLY, keep=False).write(b"0")
        # Since 6.12 a write starts the peak anew, for reads through the same descriptor only.
        self._resets = keep and os.access(f"{folder}/memory.peak", os.W_OK)
        has_peak = os.path.exists(f"{folder}/memory.peak")
        flags = os.O_RDWR if self._resets else os.O_RDONLY
        self._peak = File(f"{folder}/memory.peak", flags, keep=keep) if has_peak else None
        self._usage = File(f"{folder}/memory.current", keep=keep)
        self._events = File(f"{folder}/memory.events", keep=keep)
        self._stat = File(f"{folder}/memory.stat", keep=keep)
        self._killed = 0
        self._seen = 0

    def limit(self, most: int) -> None:
        """Bytes of memory; there is no swap."""
        self._limit.set(most)

    def peak(self) -> int:
        """The most there was at once; before Linux 5.19 the most that was seen by looking."""
        self._seen = max(self._seen, int(self._peak.read()) if self._peak else self.current())
        return self._seen

    def current(self) -> int:
        """Bytes now."""
        return int(self._usage.read())

    def kills(self) -> int:
        """Processes the kernel killed for want of memory."""
        return _after(b"\noom_kill ", self._events.read()) - self._killed

    def settle(self) -> bool:
        """Meters to zero, if what stays charged is little and the peak can be started anew."""
        if self._peak and not self._started_anew():
            return False
        if self.current() > RESIDUE and self._real() > RESIDUE:
            return False
        self._killed += self.kills()
        self._seen = 0
        return True

    def close(self) -> None:
        """Close its files."""
        for file in (self._peak, self._usage, self._events, self._stat):
            if file:
                file.close()

    def _started_anew(self) -> bool:
        if not (self._resets and self._peak):
            return False
        try:
            self._peak.write(b"0")
        except OSError:
            # Root may open what has no way to be written.
            self._resets = False
        return self._resets

    def _real(self) -> int:
        text = b"\n" + self._stat.read()
        return sum(_after(label, text) for label in (b"\nanon ", b"\nfile ", b"\nkernel "))


class Pids:
    """Processes and threads; a fork too many is refused. The same in both versions."""

    def __init__(self, folder: str, *, keep: bool) -> None:
        self._limit = Limit(f"{folder}/pids.max")
        self._current = File(f"{folder}/pids.current", keep=keep)
        self._events = File(f"{folder}/pids.events", keep=keep)
        self._refused = 0

    def limit(self, most: int) -> None:
        """How many there may be at once, dead ones that nobody has waited for included."""
        self._limit.set(most)

    def current(self) -> int:
        """How many there are."""
        return int(self._current.read())

    def refused(self) -> int:
        """Forks that were refused."""
        return _after(b"max ", self._events.read()) - self._refused

    def settle(self) -> bool:
        """Meters to zero, once nobody is left."""
        self._refused += self.refused()
        return self.current() == 0

    def close(self) -> None:
        """Close its files."""
        self._current.close()
        self._events.close()


class ShareV1:
    """The part of the processors that may be used, in version 1."""

    def __init__(self, folder: str) -> None:
        self._limit = Limit(f"{folder}/cpu.cfs_quota_us")

    def limit(self, cores: float) -> None:
        """So many cores' worth of time; as many as there are is no limit at all."""
        try:
            self._limit.set(_quota(cores))
        except OSError as exc:
            # More than the group above has: then that one's limit holds, and is the stricter one.
            if exc.errno != errno.EINVAL:
                raise
            self._limit.set(-1)


class ShareV2:
    """The part of the processors that may be used, in version 2."""

    def __init__(self, folder: str) -> None:
        self._file = File(f"{folder}/cpu.max", os.O_WRONLY, keep=False)
        self._held = -1

    def limit(self, cores: float) -> None:
        """So many cores' worth of time; as many as there are is no limit at all."""
        quota = _quota(cores)
        if quota != self._held:
            self._file.write(b"max" if quota < 0 else b"%d" % quota)
            self._held = quota


class ClockV1:
    """Processor time, in version 1."""

    def __init__(self, folder: str, *, keep: bool) -> None:
        self._usage = File(f"{folder}/cpuacct.usage", keep=keep)
        self._spent = 0

    def seconds(self) -> float:
        """Spent by everything that is or was in the group."""
        return (self._nanoseconds() - self._spent) / 1e9

    def settle(self) -> bool:
        """Meter to zero."""
        self._spent = self._nanoseconds()
        return True

    def close(self) -> None:
        """Close its file."""
        self._usage.close()

    def _nanoseconds(self) -> int:
        return int(self._usage.read())


class ClockV2(ClockV1):
    """Processor time, in version 2, which meters it in every group without a controller."""

    def __init__(self, folder: str, *, keep: bool) -> None:
        self._usage = File(f"{folder}/cpu.stat", keep=keep)
        self._spent = 0

    def _nanoseconds(self) -> int:
        return _after(b"usage_usec ", self._usage.read()) * 1000


def _quota(cores: float) -> int:
    # The kernel takes no quota below a millisecond.
    return -1 if cores >= _CORES else max(1000, round(cores * PERIOD))


def _after(label: bytes, text: bytes) -> int:
    """The number behind a label; 0 where this kernel does not say it."""
    rest = text.partition(label)[2]
    return int(rest.split(None, 1)[0]) if rest else 0
