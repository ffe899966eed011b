"""
Load: one client on a fixed clock, clients one run after the other.

On a fixed clock a latency counts from when the run was due, not from when the client got to it:
a slow run makes those behind it late, and that belongs to the answer.
"""

from collections.abc import Awaitable, Callable
from time import perf_counter

import anyio
from anyio.lowlevel import checkpoint

Work = Callable[[], Awaitable[None]]
# The event loop rounds a sleep up to a whole millisecond; what is left is waited out awake.
_AWAKE = 0.002


async def paced(work: Work, n: int, per_second: float) -> list[float]:
    """Latencies of `n` runs, due at equal distances."""
    times = []
    start = perf_counter() + 0.05
    for number in range(n):
        due = start + number / per_second
        await _until(due)
        await work()
        times.append(perf_counter() - due)
    return times


async def repeated(work: Work, n: int) -> list[float]:
    """Latencies of `n` runs, each begun when the one before is done."""
    times = []
    for _ in range(n):
        start = perf_counter()
        await work()
        times.append(perf_counter() - start)
    return times


async def sustained(work: Work, clients: int, seconds: float) -> float:
    """Runs per second of clients that never pause."""
    done = 0
    start = perf_counter()

    async def client() -> None:
        nonlocal done
        while perf_counter() - start < seconds:
            await work()
            done += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(client)
    return done / (perf_counter() - start)


async def _until(due: float) -> None:
    await anyio.sleep(max(0.0, due - perf_counter() - _AWAKE))
    while perf_counter() < due:
        await checkpoint()
