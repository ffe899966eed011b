"""
What a session needs of an interpreter, whatever language it speaks with it.

One is the shell (`shell`), which speaks our frames; one is a Jupyter kernel (`kernel`), whose
messages are turned into them. So a cell, its ladder and its verdict are the same for both.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from saggar.boundary import frames
from saggar.engine.keeper import Exited
from saggar.engine.sandbox import Sandbox
from saggar.model.event import Output


@dataclass(frozen=True, slots=True)
class TooMuch:
    """Something was said that is longer than anything may be, and was dropped."""


Said = frames.Frame | Output | TooMuch


class Interpreter(Protocol):
    """One interpreter in a live sandbox, from its start to its end."""

    lost: bool
    """Nobody can speak to it any more, though it may live."""

    @property
    def alive(self) -> bool:
        """Whether it can be asked something."""

    @property
    def exited(self) -> Exited | None:
        """How it ended; None while it lives."""

    async def heard(self) -> None:
        """Wait until it has said something, or has ended."""

    def admit(self, env: Mapping[str, str]) -> None:
        """Let a cell with these variables pass. InvalidTask if there can be none."""

    def request(self, do: str, text: str = "", **head: object) -> None:
        """Ask for something; what comes of it is heard."""

    def hear(self) -> Iterator[Said]:
        """Everything that is there now, in order; the last frame of an answer is DONE."""

    def rest(self) -> Iterator[Said]:
        """What is left when it has ended, or its request is done."""

    async def signal(self, number: int) -> None:
        """To it and to what it has started."""

    async def ended(self, patience: float) -> bool:
        """Whether it is dead within so many seconds."""

    async def ask(
        self, do: str, text: str = "", *, patience: float = 10.0, **head: object
    ) -> dict[str, Any]:
        """Ask a question that runs no code of the user's. SandboxBroken if no answer comes."""

    def close(self) -> None:
        """Close what leads to it."""


Starter = Callable[[Sandbox], Awaitable[Interpreter]]
"""Starts one that takes requests. SandboxBroken if none comes up."""
