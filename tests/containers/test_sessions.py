"""The main path of sandboxes and sessions in containers."""

import pytest
from tests.containers.engines import engine_with
from tests.integration.session_path import walk

IMAGE = "saggar/runner-python:latest"


@pytest.fixture(scope="module", autouse=True)
def engine():
    with engine_with(IMAGE) as found:
        yield found


async def test_sandboxes_and_sessions_work_in_a_container():
    await walk(driver="docker")
