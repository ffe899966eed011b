"""Giving up, at every moment and in crowds, leaves nothing running and nothing broken."""

import os
import random
import signal
import time
from contextlib import aclosing, suppress

import anyio
import anyio.lowlevel
import pytest
from tests.chaos.family import Family

from saggar import Platform, PlatformError, Status

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


async def give_up_five_hundred(platform: Platform) -> None:
    """All of them have asked for a child when they are given up."""
    async with anyio.create_task_group() as group:
        for _ in range(500):
            group.start_soon(run_or_be_told, platform)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


async def run_or_be_told(platform: Platform) -> None:
    with suppress(PlatformError):
        await platform.run(FOREVER)


async def run_five(platform: Platform) -> list[str]:
    """More than are parked."""
    said: list[str] = []

    async def one() -> None:
        said.append((await platform.run("print('well')")).stdout)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(one)
    return said


async def test_whoever_comes_after_a_crowd_that_gave_up_does_not_wait_for_it(family: Family):
    """Nobody builds walls for those who are gone."""
    async with Platform() as platform:
        await platform.run("pass")
        await give_up_five_hundred(platform)
        start = time.monotonic()

        assert ["well\n"] * 5 == await run_five(platform)
        assert 0.3 > time.monotonic() - start

    assert [] == family.left()


async def test_whoever_comes_after_a_crowd_that_gave_up_is_not_turned_away(family: Family):
    """The same on a machine that was busy meanwhile: what stands behind the walls did not run."""
    async with Platform() as platform:
        await platform.run("pass")
        present = family.new()
        for pid in present:
            os.kill(pid, signal.SIGSTOP)
        await give_up_five_hundred(platform)
        for pid in present:
            os.kill(pid, signal.SIGCONT)

        assert ["well\n"] * 5 == await run_five(platform)

    assert [] == family.left()


async def test_five_hundred_runs_at_once_wait_for_their_turn(family: Family):
    """How many run at once is the caller's decision; how many start at once is ours."""
    said: list[str] = []

    async def one(platform: Platform) -> None:
        said.append((await platform.run("print('well')")).stdout)

    async with Platform() as platform:
        await platform.run("pass")
        async with anyio.create_task_group() as group:
            for _ in range(500):
                group.start_soon(one, platform)

    assert ["well\n"] * 500 == said
    assert [] == family.left()
