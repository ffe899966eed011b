"""What holds for whoever runs the tests holds for users with less power."""

import pytest
from tests.escape.striking import CONFORMANCE, Case, Strikers, accounts

from saggar import registry
from saggar.testing.conformance import CHECKS, name

OTHERS = [account for account in accounts() if account != "ours"]
CASES = [
    Case(CONFORMANCE, account, driver, name(check))
    for account in OTHERS
    for driver in registry.drivers()
    if driver != "docker"  # whoever may ask an engine has all the power there is
    for check in CHECKS
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_conforms_for_them_too(strikers: Strikers, case: Case):
    report = strikers.report(case)

    assert report["good"], report["said"]
