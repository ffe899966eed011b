from time import perf_counter

import anyio

from saggar.cli.bench import loops


async def idle() -> None:
    """Work that takes no time."""


async def test_on_a_fixed_clock_runs_begin_when_they_are_due():
    start = perf_counter()
    times = await loops.paced(idle, 10, 100)

    assert 10 == len(times)
    assert 0.09 <= perf_counter() - start
    assert 0 <= min(times)


async def test_a_slow_run_makes_those_behind_it_late():
    """A latency counts from when a run was due: else a stall would be measured only once."""
    runs = iter([0.05, 0, 0])

    async def work() -> None:
        await anyio.sleep(next(runs))

    first, second, third = await loops.paced(work, 3, 100)

    assert 0.05 <= first
    assert 0.03 <= second < first
    assert third < second


async def test_a_sustained_rate_counts_every_client():
    async def work() -> None:
        await anyio.sleep(0.01)

    rate = await loops.sustained(work, 4, 0.1)

    assert 100 < rate <= 400
