"""Environments: one that is built, and what one that is there already adds to a call."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from saggar.cli.bench.row import Effort, Row, median, timed
from saggar.config import Settings, load
from saggar.environments import tree
from saggar.errors import SaggarError
from saggar.model.environment import Environment
from saggar.platform import Platform

NUMPY = Environment(packages=("numpy",))
SMALL = Environment(packages=("six",))
"""What an environment costs a call, apart from what its packages cost to import."""
BUILT_WITHIN = 3.0
MORE = 1e-3


def rows(effort: Effort) -> list[Row]:
    """Both."""
    return [*built(effort), *called(effort)]


def built(effort: Effort) -> list[Row]:
    """numpy, whose wheel uv has in its cache, into a layer that is not there yet."""
    title = "environment with numpy, cached by uv, built"
    command = "await platform.prepare(Environment(packages=('numpy',)))"
    try:
        times = [asyncio.run(_build()) for _ in range(1 + max(3, effort.starts // 3))][1:]
    except SaggarError as exc:  # without an index, say
        return [Row(title=title, command=command, note=f"does not work here: {exc}"[:200])]
    row = timed(title, command, times)
    return [replace(row, target=f"{BUILT_WITHIN:g} s", met=median(times) <= BUILT_WITHIN)]


def called(effort: Effort) -> list[Row]:
    """The same call with an environment that is there and with none, in turns."""
    title = "run of a pass, environment built already"
    command = "await platform.run('pass', environment=Environment(packages=('six',)))"
    try:
        bare, inside = asyncio.run(_turns(effort.repeated))
    except SaggarError as exc:
        return [Row(title=title, command=command, note=f"does not work here: {exc}"[:200])]
    limit = median(bare) + MORE
    row = timed(title, command, inside)
    more = f"+ {1e6 * (median(inside) - median(bare)):.0f} us"
    return [
        timed("run of a pass, no environment", "await platform.run('pass')", bare),
        replace(row, target="none + 1 ms", met=median(inside) <= limit, note=more),
    ]


async def _build() -> float:
    with _elsewhere() as settings:
        async with Platform(settings) as platform:
            start = perf_counter()
            await platform.prepare(NUMPY)
            return perf_counter() - start


async def _turns(n: int) -> tuple[list[float], list[float]]:
    bare, inside = list[float](), list[float]()
    with _elsewhere() as settings:
        async with Platform(settings) as platform:
            for times, environment in [(bare, Environment()), (inside, SMALL)] * (3 + n):
                start = perf_counter()
                await platform.run("pass", environment=environment)
                times.append(perf_counter() - start)
                # Until the next one is parked: what is compared is a warm call with a warm call.
                await asyncio.sleep(5e-3)
    return bare[3:], inside[3:]


@contextmanager
def _elsewhere() -> Iterator[Settings]:
    """The settings of this machine, with layers in a folder of the bench's own."""
    settings = load()
    # Beside the cache, so that files are linked as they would be there.
    folder = Path(tempfile.mkdtemp(prefix="saggar-bench-", dir=Path.home()))
    try:
        yield settings.replace(cache_dir=folder)
    finally:
        tree.delete(folder)
