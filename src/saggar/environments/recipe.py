"""
Recipes: what the store has to know of a kind of dependency to build, keep and show a layer of it.

What is wished for is looked up once and written down as a lock; a lock is built as often as it
takes. Python packages, system packages and models differ in nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from saggar.errors import PrepareFailed
from saggar.model.plan import Layer

Progress = Callable[[str], None]
"""Is called with one line of text for people at a time."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a build happens, and who hears of it."""

    folder: Path
    turn: int
    """The lock of this build. The installer keeps it, too: killed, we may leave it behind
    at work, and nobody must sweep its folder or start over before it has ended."""
    progress: Progress
    timeout: float
    """Seconds that one installer may take."""


class Stale(PrepareFailed):
    """What a lock names is not to be had any more."""


class Recipe(Protocol):
    """One wish of one kind."""

    @property
    def kind(self) -> str:
        """What sort of thing it is for: "python", "system" or "models"."""

    @property
    def names(self) -> tuple[str, ...]:
        """What is wished for, in the one form that all who mean it share."""

    @property
    def surroundings(self) -> str:
        """What the lock depends on beside the names."""

    @property
    def made_for(self) -> str:
        """For people as well: what the layer depends on beside names and lock."""

    async def resolve(self, at: Workshop) -> str:
        """
        The lock; an empty one where there is nothing to build.

        Raises:
            PrepareFailed: What was wished for cannot be had.
        """

    async def install(self, lock: str, at: Workshop) -> None:
        """
        Put what a lock names into `site` in the workshop's folder.

        Raises:
            Stale: Something of it has gone; resolved anew it may be had.
            PrepareFailed: It cannot be fetched or built.
        """

    def layer(self, site: Path, digest: str) -> Layer:
        """What a sandbox sees of a finished folder."""
