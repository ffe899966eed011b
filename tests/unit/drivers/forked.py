"""Real children for the tests of what watches, limits and kills processes."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator


class Forked:
    """A child that has done its work and waits, until it is told to end; head of its group."""

    def __init__(self, work: Callable[[], object], before: Callable[[], object]) -> None:
        ready, told = os.pipe()
        go, end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _lead(before, work, (ready, end), told, go)
        os.close(told)
        os.close(go)
        self._end: int | None = end
        self._ready = ready

    def ready(self) -> bytes:
        """Until its work is done, or it is dead; what the work returned, or nothing."""
        return os.read(self._ready, 4096)

    def end(self) -> int:
        """Until it is dead; its wait status."""
        self.let_go()
        return os.waitpid(self.pid, 0)[1]

    def let_go(self) -> None:
        """Let it end, without waiting."""
        if self._end is not None:
            os.close(self._end)
            self._end = None

    def kill(self) -> None:
        """It and all that it started, for the end of a test."""
        self.let_go()
        os.close(self._ready)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@contextlib.contextmanager
def forked(
    work: Callable[[], object] = bool, *, before: Callable[[], object] = bool
) -> Iterator[Forked]:
    """A child that runs `before` and `work`, reports the value of that, and waits."""
    child = Forked(work, before)
    try:
        yield child
    finally:
        child.kill()


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether it comes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        os.sched_yield()
    return True


def burn(seconds: float) -> None:
    """Use so much processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def touch(size: int) -> bytearray:
    """So many bytes that are really there."""
    block = bytearray(size)
    block[::4096] = b"x" * len(range(0, size, 4096))
    return block


def _lead(
    before: Callable[[], object],
    work: Callable[[], object],
    not_ours: tuple[int, ...],
    told: int,
    go: int,
) -> None:
    try:
        for fd in not_ours:
            os.close(fd)
        os.setpgid(0, 0)
        before()
        kept = work()
        os.write(told, str(kept).encode()[:100] if not isinstance(kept, bytearray) else b"there")
        os.read(go, 1)
        os._exit(0)
    finally:
        os._exit(1)
