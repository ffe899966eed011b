"""Every driver that is found here shows every behaviour that is asked of one."""

from collections.abc import AsyncIterator

import pytest

from saggar import Platform, registry
from saggar.testing.conformance import CHECKS, Check, name


@pytest.fixture(scope="module")
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as opened:
        yield opened


@pytest.mark.parametrize("driver", registry.drivers())
@pytest.mark.parametrize("check", CHECKS, ids=name)
async def test_it_conforms(platform: Platform, driver: str, check: Check):
    found = (await platform.probe())[driver]
    if not found.available:
        pytest.skip("; ".join(found.reasons))

    await check(platform, driver)


def test_there_are_more_than_sixty_behaviours():
    assert 60 < len(CHECKS)
    assert len(CHECKS) == len({name(check) for check in CHECKS})


@pytest.mark.parametrize("check", CHECKS, ids=name)
def test_every_behaviour_says_what_it_is(check: Check):
    assert check.__doc__
