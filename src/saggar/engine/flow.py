"""
What is yielded, on its way to whoever takes it: so much waits for him, then its sender does.

Apart from the asking, whose clock goes on and whose limits hold while nobody takes. All of it
happens on one event loop.
"""

from collections import deque
from typing import Final

import anyio

from saggar.model.event import Yielded
from saggar.model.quantity import KiB

MOST: Final = 16
"""Items that wait; what is read at once may be a few more, if they are small."""
HEAVY: Final = 256 * KiB
"""Bytes of them; a single one may have more."""


class Flow:
    """Items in their order, and the end of them."""

    def __init__(self) -> None:
        self._items: deque[Yielded] = deque()
        self._weight = 0
        self._changed = anyio.Event()
        self._ended = self._dropped = False

    @property
    def full(self) -> bool:
        """Whether nothing more is to be read now."""
        return len(self._items) >= MOST or self._weight >= HEAVY

    def put(self, item: Yielded) -> None:
        """One more; nobody's, once nobody takes them."""
        if not self._dropped:
            self._items.append(item)
            self._weight += _weight(item)
            self._tell()

    def end(self) -> None:
        """No more come."""
        self._ended = True
        self._tell()

    def drop(self) -> None:
        """Nobody takes them any more: what comes is let go."""
        self._dropped = True
        self._items.clear()
        self._weight = 0
        self._tell()

    async def take(self) -> Yielded | None:
        """The next one; None after the last."""
        while not self._items:
            if self._ended or self._dropped:
                return None
            await self._changed.wait()
        item = self._items.popleft()
        self._weight -= _weight(item)
        self._tell()
        return item

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.full:
            await self._changed.wait()

    async def over(self) -> None:
        """Wait for the end, whatever is still to be taken."""
        while not self._ended:
            await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


def _weight(item: Yielded) -> int:
    return len(item.data) + (0 if item.beside is None else item.beside.nbytes)
