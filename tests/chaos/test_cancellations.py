"""Giving up, at every moment and in crowds, leaves nothing running and nothing broken."""

import random
import time

import anyio
import pytest
from tests.chaos.family import Family

from saggar import Platform, Status

FOREVER = "import os, time\nos.fork()\nwhile True: time.sleep(60)"


async def test_a_storm_of_cancellations_leaves_the_platform_working(family: Family):
    """Three hundred runs, each given up after a moment of its own."""
    dice = random.Random(20)

    async def one(platform: Platform) -> None:
        with anyio.move_on_after(dice.random() / 20):
            await platform.run(dice.choice([FOREVER, "print(1)", "print('x' * 10**6)"]))

    async with Platform() as platform:
        for _ in range(6):
            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(one, platform)
        parked = len(family.new())
        start = time.monotonic()

        assert "well\n" == (await platform.run("print('well')")).stdout
        assert 2 > time.monotonic() - start
        assert 100 > parked

    assert [] == family.left()


async def test_a_group_that_fails_takes_its_runs_along(family: Family):
    """An exception beside twenty runs: all of them end at once."""
    async with Platform() as platform:
        start = time.monotonic()
        with pytest.raises(ExceptionGroup):
            await fail_beside(platform)

        assert 5 > time.monotonic() - start
        assert "well\n" == (await platform.run("print('well')")).stdout

    assert [] == family.left()


async def fail_beside(platform: Platform) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(platform.run, FOREVER)
        await platform.run("pass")
        raise ValueError


async def test_a_platform_that_is_left_takes_its_runs_along(family: Family):
    """Nothing outlives the block that it was started in."""
    with anyio.move_on_after(0.5):
        async with Platform() as platform, anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(platform.run, FOREVER)

    assert [] == family.left()


async def test_an_abandoned_stream_of_events_ends_its_run(family: Family):
    """Breaking out of the loop is giving up."""
    from contextlib import aclosing

    async with Platform() as platform:
        async with aclosing(platform.events(FOREVER)) as events:
            async for _ in events:
                break
        result = await platform.run("print('well')")

        assert (Status.OK, "well\n") == (result.status, result.stdout)

    assert [] == family.left()


async def test_a_deadline_shorter_than_the_walls_take_to_build_is_kept(family: Family):
    """The first run of a platform, given up before its fork server stands."""
    for moment in (1, 5, 10, 20, 30):
        async with Platform() as platform:
            with anyio.move_on_after(moment / 1000):
                await platform.run("print(1)")

            assert "2\n" == (await platform.run("print(2)")).stdout

    assert [] == family.left()
