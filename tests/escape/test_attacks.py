"""Every attack against every driver: as whoever runs this, and as users with less."""

import pytest
from tests.escape.striking import ATTACKS as SUITE
from tests.escape.striking import Case, Strikers, accounts

from saggar import registry
from saggar.model.policy import Rung
from saggar.testing.attacks import ATTACKS, Attack


def applies(attack: Attack, driver: str) -> bool:
    """Without walls there is only what needs none, and what must be seen to get out."""
    return driver != "process" or attack.stopped_from is Rung.PROCESS or attack.shows


def cases() -> list[Case]:
    """A user without privileges changes nothing about a driver that builds no walls."""
    return [
        Case(SUITE, account, driver, attack.name)
        for account in accounts()
        for driver in registry.drivers()
        for attack in ATTACKS
        if applies(attack, driver) and (account == "ours" or driver == "jail")
    ]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_nothing_escapes_that_a_wall_should_stop(strikers: Strikers, case: Case):
    """
    Behind a wall that stops it: nothing in the result, nothing on the host. Below that wall, an
    attack that is harmless must be seen to get out, or it would prove nothing.
    """
    report = strikers.report(case)

    if report["skipped"]:
        pytest.skip(report["skipped"])
    assert report["good"], report["said"]
