"""
Attacks: what hostile code tries, as data, for every driver to be tried on.

`ATTACKS` holds them all; `strike` carries one out against a driver, and looks outside, on the host,
at what came of it. An attack is a function that never runs on this side: its source goes in.
"""

from types import ModuleType

from saggar.testing.attacks import (
    bombs,
    channel,
    endings,
    files,
    kernel,
    leftovers,
    mounts,
    network,
    others,
    persistence,
    power,
    proc,
    sessions,
    values,
)
from saggar.testing.attacks.attack import Attack, Facts
from saggar.testing.attacks.strike import Outcome, expected_out, lacking, strike, unfair

FAMILIES: tuple[ModuleType, ...] = (
    files,
    proc,
    kernel,
    power,
    others,
    network,
    channel,
    sessions,
    bombs,
    leftovers,
    endings,
    values,
    persistence,
    mounts,
)

ATTACKS: tuple[Attack, ...] = tuple(
    thing for family in FAMILIES for thing in vars(family).values() if isinstance(thing, Attack)
)
"""Every attack, in the order it is written down in its family."""

__all__ = ["ATTACKS", "Attack", "Facts", "Outcome", "expected_out", "lacking", "strike", "unfair"]
