"""
The watch on a worker's own consumer: messages lie there, hands are free, and nothing is taken.

After a broken connection Celery's consumer sometimes answers pings and takes no message any more.
Nobody outside can tell that from having nothing to do; the worker itself can. Pure, but for its
clock: what is done about it is in `timer`.
"""

from collections.abc import Callable
from enum import StrEnum
from time import monotonic
from typing import Final

PATIENCE: Final = 30.0
"""Seconds for which a message may lie before free hands; one that listens takes it at once."""
GAP: Final = 5.0
"""Seconds between two looks after which it was we who stood still."""


class Advice(StrEnum):
    """What to do about it."""

    NOTHING = "nothing"
    RECONNECT = "reconnect"
    END = "end"


class Watch:
    """What one worker took, and what it left lying."""

    def __init__(
        self, *, patience: float | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._patience = PATIENCE if patience is None else patience
        self._clock = clock
        self._taken = -1
        self._since: float | None = None
        self._looked = clock()
        self._tried = False

    @property
    def stuck(self) -> float:
        """Seconds for which it has left lying what it could take."""
        return 0.0 if self._since is None else self._clock() - self._since

    def look(self, lying: int, free: int, taken: int) -> Advice:
        """
        How it stands: messages in its queues, hands that are free, jobs that it ever took.

        A new connection comes first. If that helped not, the worker ends: whoever started it
        starts it again, and its successor has nothing of its state.
        """
        now = self._clock()
        if taken != self._taken:
            self._taken, self._since, self._tried = taken, None, False
        idle = not lying or free <= 0
        if idle or now - self._looked > GAP:
            self._since = None
        self._looked = now
        if idle:
            return Advice.NOTHING
        if self._since is None:
            self._since = now
        if now - self._since < self._patience:
            return Advice.NOTHING
        self._since = now
        if self._tried:
            return Advice.END
        self._tried = True
        return Advice.RECONNECT
