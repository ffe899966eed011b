"""What the suites of faults share."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.chaos.family import Family


@pytest.fixture
def family() -> Iterator[Family]:
    with Family() as found:
        yield found


@pytest.fixture(params=["ours", "ordinary"])
def account(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """An interpreter and what `subprocess` needs to start it: as ourselves, and with less power."""
    if request.param == "ours":
        return sys.executable, {}
    if os.geteuid() != 0:
        pytest.skip("whoever runs this is an ordinary user already")
    user = request.getfixturevalue("ordinary_user")
    return str(user.python), user.options
