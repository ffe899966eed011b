"""Turns: one at a time, the others wait in the order in which they came; those may be sent away."""

from collections import deque

import anyio


class Aborted(Exception):
    """It was sent away before its turn came."""


class Turns:
    """Whose turn it is. Whoever took one gives it back, from whichever task."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiter] = deque()
        self.taken = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def take(self) -> None:
        """Wait for it. Aborted if it will not come."""
        if not self.taken:
            self.taken = True
            return
        waiter = _Waiter()
        self._waiting.append(waiter)
        try:
            await waiter.called.wait()
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.aborted:
                self.give()  # it came just now, and nobody is there to use it
            raise
        if waiter.aborted:
            raise Aborted

    def give(self) -> None:
        """It is over: the next one's."""
        if self._waiting:
            self._waiting.popleft().called.set()
        else:
            self.taken = False

    def abort(self) -> int:
        """Send everybody away who waits; how many."""
        count = len(self._waiting)
        while self._waiting:
            waiter = self._waiting.popleft()
            waiter.aborted = True
            waiter.called.set()
        return count


class _Waiter:
    __slots__ = ("aborted", "called")

    def __init__(self) -> None:
        self.called = anyio.Event()
        self.aborted = False
