"""
Quantities as people write them: "256MiB", "1.5 GB", "200ms".

Numbers are bytes and seconds; wherever a quantity is a field, the text form is accepted.
"""

import math
import re
from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator

N = TypeVar("N", int, float)

KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30
TiB: Final = 1 << 40

# A bare letter means the power of 1024, as it does to ulimit, docker and systemd.
_SIZES: Final = {
    "": 1, "b": 1,
    "k": KiB, "m": MiB, "g": GiB, "t": TiB,
    "kib": KiB, "mib": MiB, "gib": GiB, "tib": TiB,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
# Ticks of a microsecond, so that a text with a decimal point is computed in whole numbers.
_TIMES: Final = {
    "us": 1, "ms": 10**3, "": 10**6, "s": 10**6, "sec": 10**6,
    "m": 60 * 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6,
}  # fmt: skip
_NUMBER_AND_UNIT: Final = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?\s*([A-Za-z]{0,3})")

_COUNT: Final = re.compile(r"[0-9]+(?:_[0-9]+)*")
_LONGEST_COUNT: Final = 100

# Each with how many of it make one of the next.
_SHOWN_SIZES: Final = (
    ("B", 1024), ("KiB", 1024), ("MiB", 1024), ("GiB", 1024), ("TiB", math.inf),
)  # fmt: skip
_SHOWN_TIMES: Final = (
    ("us", 1000), ("ms", 1000), ("s", 60), ("min", 60), ("h", 24), ("d", math.inf),
)  # fmt: skip


def parse_bytes(size: object) -> int:
    """A number of bytes from "256MiB", "1.5 GB" or a number. Raises ValueError."""
    wanted = "a size such as '256MiB'"
    match size:
        case bool():
            raise ValueError(f"wanted {wanted}, found {size!r}")
        case int():
            return _not_negative(size, wanted)
        case float() if math.isfinite(size) and size.is_integer():
            return _not_negative(int(size), wanted)
        case str():
            return int(_scaled(size, _SIZES, wanted)[0])
    raise ValueError(f"wanted {wanted}, found {size!r:.60}")


def parse_seconds(time: object) -> float:
    """A number of seconds from "1.5s", "200ms", "2m" or a number. Raises ValueError."""
    wanted = "a time such as '1.5s'"
    match time:
        case bool():
            raise ValueError(f"wanted {wanted}, found {time!r}")
        case int() | float() if math.isfinite(time):
            return float(_not_negative(time, wanted))
        case str():
            ticks, rest = _scaled(time, _TIMES, wanted)
            return (ticks + rest) / 10**6
    raise ValueError(f"wanted {wanted}, found {time!r:.60}")


def parse_count(count: object) -> int:
    """A whole number, written "64" or "10_000" if it is text. Raises ValueError."""
    wanted = "a whole number such as 64"
    match count:
        case bool():
            raise ValueError(f"wanted {wanted}, found {count!r}")
        case int():
            return _not_negative(count, wanted)
        case str() if len(count) <= _LONGEST_COUNT and _COUNT.fullmatch(count):
            return int(count)
    raise ValueError(f"wanted {wanted}, found {count!r:.60}")


def format_bytes(size: float) -> str:
    """A size for people: "256 MiB", "1.5 GiB", "812 B"."""
    return _in_units(round(size), _SHOWN_SIZES)


def format_seconds(time: float) -> str:
    """A time for people: "1.5 s", "200 ms", "2 min"."""
    return _in_units(time * 1e6, _SHOWN_TIMES)


def _scaled(text: str, units: dict[str, int], wanted: str) -> tuple[int, float]:
    """The whole units of the smallest kind in `text`, and what is left of one."""
    found = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if found is None or found[3].lower() not in units:
        raise ValueError(f"wanted {wanted}, found {text!r:.60}")
    whole, fraction = found[1], found[2] or ""
    ones, rest = divmod(int(whole + fraction) * units[found[3].lower()], 10 ** len(fraction))
    return ones, rest / 10 ** len(fraction)


def _not_negative(number: N, wanted: str) -> N:
    if number < 0:
        raise ValueError(f"wanted {wanted}, found {number!r}")
    return number


def _in_units(number: float, units: tuple[tuple[str, float], ...]) -> str:
    for name, in_the_next in units:
        text = f"{_three_digits(number)} {name}"
        # What rounds up to one of the next unit is one of the next.
        if abs(round(number, 1 if abs(number) < 100 else 0)) < in_the_next:
            break
        number /= in_the_next
    return text


def _three_digits(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if abs(number) < 100 else f"{number:.0f}"


def _quantity(parse: Any) -> BeforeValidator:
    return BeforeValidator(parse, json_schema_input_type=int | float | str)


Bytes = Annotated[int, _quantity(parse_bytes)]
"""A number of bytes."""
Seconds = Annotated[float, _quantity(parse_seconds)]
"""A number of seconds."""
Count = Annotated[int, _quantity(parse_count)]
"""How many of something."""
