"""One line of the bench, and how much work goes into it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each thing is done."""

    paced: int
    """Runs on a fixed clock."""
    repeated: int
    """Runs one after the other."""
    seconds: float
    """Length of one round of a sustained load; there are two."""
    starts: int
    """Whole processes, and platforms from nothing."""
    others: int
    """Starts of what one would use instead."""


FULL = Effort(paced=1000, repeated=1000, seconds=3.0, starts=15, others=60)
SMOKE = Effort(paced=50, repeated=50, seconds=0.4, starts=3, others=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one thing took. Times are seconds."""

    title: str
    command: str
    n: int = 0
    median: float | None = None
    p95: float | None = None
    rate: float | None = None
    """Runs per second."""
    amount: float | None = None
    """What is neither a time nor a rate, in `unit`."""
    unit: str = ""
    target: str = ""
    met: bool | None = None
    note: str = ""
    failed: bool = False


def median(times: Sequence[float]) -> float:
    """The middle one."""
    return quantile(times, 0.5)


def quantile(times: Sequence[float], part: float) -> float:
    """The time that `part` of all times do not exceed; one that was measured, no mean of two."""
    return sorted(times)[max(0, math.ceil(part * len(times)) - 1)]


def timed(title: str, command: str, times: Sequence[float]) -> Row:
    """A row of times."""
    return Row(
        title=title,
        command=command,
        n=len(times),
        median=median(times),
        p95=quantile(times, 0.95),
    )


def back_to_back(title: str, command: str, times: Sequence[float]) -> Row:
    """A row of times that followed each other without a pause, with the rate they came to."""
    return replace(timed(title, command, times), rate=len(times) / sum(times))
