"""The strikers that all attacks share."""

from collections.abc import Iterator

import pytest
from tests.escape.striking import Strikers


@pytest.fixture(scope="session")
def strikers(request: pytest.FixtureRequest) -> Iterator[Strikers]:
    found = Strikers(request)
    yield found
    found.dismiss()
