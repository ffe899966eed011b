"""
Behaviours that every driver shows: run them against yours before anybody relies on it.

    import pytest
    from saggar import Platform
    from saggar.testing.conformance import CHECKS, name

    @pytest.mark.parametrize("check", CHECKS, ids=name)
    async def test_my_driver_conforms(check):
        async with Platform() as platform:
            await check(platform, "my-driver")

A check is `async (platform, driver name) -> None` and raises AssertionError. A limit that the
driver says it cannot enforce must be refused; what needs a higher rung than it has is passed over.
"""

from types import ModuleType

from saggar.testing.conformance import (
    endings,
    files,
    lifetimes,
    limits,
    streams,
    surroundings,
    values,
)
from saggar.testing.conformance.driving import Check

_SUBJECTS: tuple[ModuleType, ...] = (
    streams,
    endings,
    surroundings,
    files,
    values,
    limits,
    lifetimes,
)

CHECKS: tuple[Check, ...] = tuple(
    thing
    for subject in _SUBJECTS
    for word, thing in vars(subject).items()
    if word.startswith("check_")
)
"""Every check, by subject."""


def name(check: Check) -> str:
    """A check's name as a sentence's id: `what-is-printed-comes-back`."""
    return check.__name__.removeprefix("check_").replace("_", "-")


__all__ = ["CHECKS", "Check", "name"]
