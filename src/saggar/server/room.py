"""
Room in memory: so many bytes at once for all callers together; whoever comes later waits for some.

What lies in a caller's uploads is cheap to name: a few hundred bytes of a request may ask for
hundreds of megabytes to be put together, and held for as long as a run takes.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from saggar.errors import Overloaded


class Room:
    """Of one event loop."""

    def __init__(self, most: int, patience: float) -> None:
        self._most, self._patience = most, patience
        self._taken = 0
        self._changed = anyio.Event()

    @asynccontextmanager
    async def held(self, size: int) -> AsyncGenerator[None]:
        """So much of it, for a block; alone it may be more than there is. Overloaded."""
        try:
            with anyio.fail_after(self._patience):
                while self._taken and self._taken + size > self._most:
                    await self._changed.wait()
        except TimeoutError:
            raise Overloaded(
                "the inputs of other runs take all the memory there is for them",
                retry_after=self._patience,
            ) from None
        self._taken += size
        try:
            yield
        finally:
            self._taken -= size
            changed, self._changed = self._changed, anyio.Event()
            changed.set()
