"""The strikers that all attacks share."""

from collections.abc import Iterator

import pytest
from tests.escape.striking import ATTACKS, Strikers


@pytest.fixture(scope="session")
def strikers(request: pytest.FixtureRequest) -> Iterator[Strikers]:
    found = Strikers(request, ATTACKS)
    yield found
    found.dismiss()
