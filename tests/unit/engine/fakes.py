"""A driver whose children are nothing but a number and a pipe: what warmth does with them shows."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from saggar.errors import SandboxBroken
from saggar.model.plan import Layer, WarmKey
from saggar.model.policy import Policy


class FakeChild:
    """Parked until it is released; `die` ends it before."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number = number
        self._log = log
        self.exited, self._lives = os.pipe()
        self.released = 0

    def die(self) -> None:
        """Its first process ends, for whatever reason."""
        if self._lives >= 0:
            os.close(self._lives)
            self._lives = -1

    def release(self) -> None:
        """As often as somebody likes; once should be enough."""
        self.released += 1
        self._log.append(f"release {self.number}")
        if self.released == 1:
            self.die()
            os.close(self.exited)


class FakeNursery:
    """Parks as long as it is alive; whoever holds the gate decides when."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.alive = True
        self.born = 0
        self.children: list[FakeChild] = []
        self.gate: anyio.Event | None = None
        self.hurried: list[bool] = []
        self.admitted: list[Policy] = []
        self.troubles: list[Exception] = []
        """What the next births end in instead."""
        self.refusal: Exception | None = None

    def admit(self, policy: Policy) -> None:
        """Remember who asked; refuse if there is a refusal."""
        self.admitted.append(policy)
        if self.refusal is not None:
            raise self.refusal

    async def park(self, *, hurried: bool = False) -> FakeChild:
        """One more, once the gate is open."""
        self.born += 1
        self.hurried.append(hurried)
        self.log.append(f"ask {self.born}")
        if self.gate is not None:
            await self.gate.wait()
        if self.troubles:
            raise self.troubles.pop(0)
        if not self.alive:
            raise SandboxBroken("the server is gone")
        child = FakeChild(self.born, self.log)
        self.children.append(child)
        return child

    @property
    def waiting(self) -> list[int]:
        """Children that nobody has released."""
        return [child.number for child in self.children if not child.released]


class FakeDriver:
    """Every nursery that it opened, and those that are still open."""

    name = "fake"
    warm = True
    fixed: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.log: list[str] = []
        self.nurseries: list[FakeNursery] = []
        self.open: list[FakeNursery] = []
        self.keys: list[WarmKey] = []
        self.troubles: list[Exception] = []
        """What opening the next ones ends in instead."""
        self.curses: list[Exception] = []
        """What every birth of theirs ends in."""
        self.opening: anyio.Event | None = None

    @asynccontextmanager
    async def nursery(
        self, key: WarmKey, _policy: Policy, _layers: Sequence[Layer]
    ) -> AsyncIterator[Any]:
        """A server, after a moment in which others can ask for the same."""
        self.keys.append(key)
        await anyio.lowlevel.checkpoint()
        if self.opening is not None:
            await self.opening.wait()
        if self.troubles:
            raise self.troubles.pop(0)
        made = FakeNursery(self.log)
        made.troubles = list(self.curses)
        self.nurseries.append(made)
        self.open.append(made)
        try:
            yield made
        finally:
            self.open.remove(made)
            made.alive = False


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def eventually(holds: Any) -> None:
    """Until it is so; everybody else runs meanwhile."""
    with anyio.fail_after(5):
        while not holds():
            await anyio.lowlevel.checkpoint()
