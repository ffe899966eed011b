"""The container engine of these tests, with an image that it must have."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import missing

from saggar.drivers.docker.engine import Engine, address
from saggar.errors import PlatformError


@contextmanager
def engine_with(image: str) -> Iterator[Engine]:
    """The engine, or the test is left with the reason."""
    try:
        found = Engine(address())
        found.image(image)
    except PlatformError as exc:
        missing(str(exc))
    yield found
    found.close()
