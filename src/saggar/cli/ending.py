"""How a run ended, as an exit code and as one line for people."""

from collections.abc import Sequence
from typing import Any, Final

from saggar.model.limits import Limits
from saggar.model.quantity import format_bytes, format_seconds
from saggar.model.result import Outcome, Skipped, Status

# As a shell has them: 124 from `timeout`, 128 and the number of the signal for what was killed.
# A run that passed its output cap was killed as well.
_CODES: Final = {
    Status.TIMEOUT: 124,
    Status.MEMORY: 137,
    Status.OUTPUT: 137,
    Status.KILLED: 137,
    Status.CANCELLED: 130,
    Status.FAULT: 70,
}
_SIZES: Final = frozenset({"memory", "file_size", "disk", "output"})
_TIMES: Final = frozenset({"wall", "grace", "cpu"})


def exit_code(outcome: Outcome) -> int:
    """The program's own exit code, unless something else ended it."""
    if outcome.status in _CODES:
        return _CODES[outcome.status]
    return outcome.exit_code or (0 if outcome.status is Status.OK else 1)


def verdict(outcome: Outcome, limits: Limits, written: Sequence[str] = ()) -> str:
    """One line: "ok · 12.3 ms · peak 8.4 MiB · jail"."""
    usage = outcome.usage
    parts = [
        str(outcome.status),
        outcome.limit and f"limit {outcome.limit} ({shown(outcome.limit, limits)})",
        outcome.signal,
        outcome.status is Status.ERROR and outcome.exit_code and f"exit code {outcome.exit_code}",
        outcome.status is Status.FAULT and outcome.error and outcome.error.message,
        "output truncated" if outcome.truncated and outcome.limit != "output" else "",
        format_seconds(usage.wall),
        usage.memory is not None and f"peak {format_bytes(usage.memory)}",
        outcome.isolation,
        f"wrote {listed(written)}" if written else "",
    ]
    return " · ".join(part for part in parts if part)


def shown(limit: str, limits: Limits) -> str:
    """The limit's value, as it would be typed."""
    value: Any = getattr(limits, limit, "")
    if limit in _SIZES:
        return format_bytes(value)
    return format_seconds(value) if limit in _TIMES else str(value)


def listed(names: Sequence[str]) -> str:
    """A few names, or how many."""
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} files"


def not_collected(skipped: Sequence[Skipped]) -> list[str]:
    """A line for each file that was asked for and is not there."""
    return [f"not collected: {each.path}: {each.reason}" for each in skipped]
