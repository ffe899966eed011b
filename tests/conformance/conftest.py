"""What asks the shipped checks, here and as other users."""

from collections.abc import Iterator

import pytest
from tests.escape.striking import CONFORMANCE, Strikers

# Asserts in the shipped checks are to speak as those in tests do.
pytest.register_assert_rewrite(CONFORMANCE)


@pytest.fixture(scope="session")
def strikers(request: pytest.FixtureRequest) -> Iterator[Strikers]:
    found = Strikers(request, CONFORMANCE)
    yield found
    found.dismiss()
