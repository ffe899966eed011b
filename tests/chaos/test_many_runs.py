"""Two hundred at once, a thousand after each other: everybody is served, and nothing is left."""

import os
import time

import anyio
from tests.chaos.family import Family

from saggar import Platform


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_two_hundred_runs_at_once_all_get_their_own_answer(family: Family):
    found: dict[int, str] = {}

    async def one(platform: Platform, number: int) -> None:
        result = await platform.run(f"import time; time.sleep(0.05); print({number})")
        found[number] = result.stdout

    async with Platform() as platform, anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(one, platform, number)

    assert {number: f"{number}\n" for number in range(200)} == found
    assert [] == family.left()


async def test_a_thousand_runs_leave_nothing_behind(family: Family):
    """Neither while the platform is open nor after it, in less than ten seconds."""
    before = descriptors()
    async with Platform() as platform:
        for _ in range(50):
            await platform.run("pass")
        warm, present, start = descriptors(), len(family.new()), time.monotonic()
        for _ in range(1000):
            await platform.run("pass")
        took, grown = time.monotonic() - start, descriptors() - warm
        more = len(family.new()) - present

    assert 10 > took
    assert 40 > grown
    assert 8 > more  # a child or two in their last moments, each with its init
    assert [] == family.left()
    assert before == descriptors()


async def test_a_thousand_runs_keep_no_memory(family: Family):
    """What the host keeps of a run is its result, and that is gone as well."""
    import gc

    async with Platform() as platform:
        for _ in range(100):
            await platform.run("print('x' * 100_000)")
        gc.collect()
        before = resident()
        for _ in range(300):
            await platform.run("print('x' * 100_000)")
        gc.collect()

        assert 8 << 20 > resident() - before


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


async def test_platforms_may_come_and_go(family: Family):
    before = descriptors()
    for number in range(10):
        async with Platform() as platform:
            assert f"{number}\n" == (await platform.run(f"print({number})")).stdout

    assert [] == family.left()
    assert before == descriptors()


async def test_platforms_may_live_side_by_side(family: Family):
    """Two in one process share neither walls nor fates."""
    async with Platform() as first:
        async with Platform() as second:
            assert "1\n" == (await first.run("print(1)")).stdout
            assert "2\n" == (await second.run("print(2)")).stdout
        assert "3\n" == (await first.run("print(3)")).stdout

    assert [] == family.left()
