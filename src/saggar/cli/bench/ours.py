"""What Saggar is measured at: the rows of its own, each with its target."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import anyio

from saggar.cli.bench import loops
from saggar.cli.bench.processes import descendants, proportional
from saggar.cli.bench.programs import (
    ANSWER,
    FLOOD,
    PRINT,
    SYNCHRONOUS,
    lines,
    naked_rate,
    ourselves,
    timed_start,
)
from saggar.cli.bench.row import Effort, Row, back_to_back, median, timed
from saggar.config import Settings
from saggar.errors import PlatformError
from saggar.model.environment import Environment
from saggar.model.policy import Policy
from saggar.platform import Platform

PACE = 50.0
CLIENTS = 2
WARM_UP = 20
MB = 1e6
CALL = 'await platform.run("print(1)")'


def fresh(effort: Effort) -> list[Row]:
    """A fresh jail for one print, warm: on a clock, one after the other, and synchronously."""
    on_clock, in_turn = anyio.run(_fresh, effort)
    synchronous = lines([sys.executable, "-c", SYNCHRONOUS, str(effort.repeated // 2)])
    first = timed(f"fresh jail, print(1), warm; open loop, {PACE:g} runs/s", CALL, on_clock)
    return [
        judged(first, within=1.0e-3, p95=3.0e-3),
        back_to_back("the same, closed loop", CALL, in_turn),
        back_to_back("the same, synchronous", 'saggar.run("print(1)")', synchronous),
    ]


async def _fresh(effort: Effort) -> tuple[list[float], list[float]]:
    async with warmed() as work:
        return await _both_loops(work, effort)


async def _both_loops(work: loops.Work, effort: Effort) -> tuple[list[float], list[float]]:
    on_clock = await loops.paced(work, effort.paced, PACE)
    return on_clock, await loops.repeated(work, effort.repeated)


def with_numpy(effort: Effort) -> list[Row]:
    """The same where the fork server has imported numpy, and the program does as well."""
    on_clock, in_turn = anyio.run(_with_numpy, effort)
    call = 'await platform.run("import numpy; print(1)", environment=Environment(..., preload=...))'
    first = timed(f"numpy preloaded; open loop, {PACE:g} runs/s", call, on_clock)
    return [
        judged(first, within=1.5e-3),
        back_to_back("the same, closed loop", call, in_turn),
    ]


async def _with_numpy(effort: Effort) -> tuple[list[float], list[float]]:
    environment = numpy_environment()
    policy = Policy(host_packages=environment.host_packages)
    options = {"environment": environment, "policy": policy}
    async with warmed("import numpy; print(1)", **options) as work:
        return await _both_loops(work, effort)


def numpy_environment() -> Environment:
    """The numpy beside us where there is one, else one of its own, which is built once."""
    from importlib.util import find_spec

    if find_spec("numpy"):
        return Environment(host_packages=True, preload=("numpy",))
    return Environment(packages=("numpy==2.*",), preload=("numpy",))


def sustained(effort: Effort) -> list[Row]:
    """Two clients that never pause; in turns with naked forks, as both need the same machine."""
    naked, ours = [], []
    for _ in range(2):
        naked.append(naked_rate(CLIENTS, effort.seconds / 2, "os._exit"))
        ours.append(anyio.run(_sustained, effort))
    tidy = naked_rate(CLIENTS, effort.seconds / 2, "sys.exit")
    ours_rate, bare = sum(ours) / len(ours), sum(naked) / len(naked)
    part = ours_rate / bare
    return [
        Row(
            title=f"fresh jail, print(1), sustained, {CLIENTS} clients",
            command=CALL,
            n=round(sum(ours) * effort.seconds),
            rate=ours_rate,
            target="450/s and 45 % of naked fork; stretch 600/s",
            met=ours_rate >= 450 and part >= 0.45,
            note=f"{part:.0%} of naked fork",
        ),
        Row(
            title=f"naked os.fork, print(1), {CLIENTS} clients",
            command="os.fork, print(1) into a pipe, os._exit, waitpid; no walls at all",
            n=round(sum(naked) * effort.seconds / 2),
            rate=bare,
        ),
        Row(
            title="the same, ending as Python does",
            command="os.fork, print(1) into a pipe, sys.exit, waitpid",
            n=round(tidy * effort.seconds / 2),
            rate=tidy,
        ),
    ]


async def _sustained(effort: Effort) -> float:
    async with warmed() as work:
        # Until the number of parked children has followed the load.
        await loops.sustained(work, CLIENTS, effort.seconds / 4)
        return await loops.sustained(work, CLIENTS, effort.seconds)


def cold(effort: Effort) -> list[Row]:
    """A platform from nothing: no fork server yet."""
    times = [anyio.run(_cold) for _ in range(effort.starts)]
    row = timed("cold: no fork server yet", f"async with Platform(): {CALL}", times)
    return [judged(row, within=40e-3)]


async def _cold() -> float:
    start = perf_counter()
    async with Platform() as platform:
        check(await platform.run(PRINT))
        return perf_counter() - start


def memory(_: Effort) -> list[Row]:
    """The fork server and four parked children, without this process."""
    pss, processes = anyio.run(_memory)
    return [
        Row(
            title="fork server and 4 parked children, without the host process",
            command="Platform(Settings(warm=4)); Pss of all descendants, from smaps_rollup",
            n=1,
            amount=pss / MB,
            unit="MB",
            target="40 MB",
            met=pss <= 40 * MB,
            note=f"{processes} processes",
        )
    ]


async def _memory() -> tuple[int, int]:
    async with Platform(Settings(warm=4)) as platform:
        check(await platform.run(PRINT))
        processes = await _settled()
        return sum(map(proportional, processes)), len(processes)


async def _settled() -> list[int]:
    """Our descendants, once their number has not changed for half a second."""
    before, same = descendants(), 0
    with anyio.fail_after(10):
        while same < 10:
            await anyio.sleep(0.05)
            now = descendants()
            before, same = now, same + 1 if now == before else 0
    return before


def output(effort: Effort) -> list[Row]:
    """64 MiB through the walls."""
    times = anyio.run(_output, max(3, effort.starts // 3))
    speed = 64 * 2**20 / median(times) / MB
    return [
        Row(
            title='64 MiB of stdout, output="128MiB"',
            command='await platform.run(..., limits=Limits(output="128MiB"))',
            n=len(times),
            median=median(times),
            amount=speed,
            unit="MB/s",
            target="300 MB/s",
            met=speed >= 300,
        )
    ]


async def _output(n: int) -> list[float]:
    async with Platform() as platform:
        check(await platform.run(PRINT))

        async def flood() -> None:
            result = await platform.run(FLOOD, limits={"output": "128MiB"})
            if len(result.stdout_bytes) != 64 * 2**20:
                raise PlatformError(f"{len(result.stdout_bytes)} of 64 MiB came: {result.status}")

        return await loops.repeated(flood, n)


def imports(effort: Effort) -> list[Row]:
    """What `import saggar` adds to the start of Python, and what its first use does."""
    statements = ("pass", "import saggar", "import saggar; saggar.run")
    times: dict[str, list[float]] = {statement: [] for statement in statements}
    for turn in range(effort.starts + 1):
        for statement in statements:
            took = timed_start([sys.executable, "-c", statement])
            # The first time compiles what it imports.
            times[statement] += [took] if turn else []
    rows = [timed(f"python -c '{each}'", f"python -c '{each}'", times[each]) for each in statements]
    added = median(times["import saggar"]) - median(times["pass"])
    rows[1] = replace(
        rows[1], target="30 ms over pass", met=added <= 30e-3, note=f"{added * 1e3:+.1f} ms"
    )
    return rows


def process(effort: Effort) -> list[Row]:
    """The whole command, from exec to exit."""
    argv = [*ourselves(), "run", "-q", "-c", PRINT]
    times = [timed_start(argv, ANSWER) for _ in range(effort.starts + 1)][1:]
    row = timed("the whole process saggar run", "saggar run -q -c 'print(1)'", times)
    return [replace(judged(row, within=220e-3), target="220 ms; stretch 150 ms")]


@asynccontextmanager
async def warmed(code: str = PRINT, **options: Any) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """One run of `code` after another on a platform that has had some."""
    async with Platform() as platform:

        async def work() -> None:
            check(await platform.run(code, **options))

        await loops.repeated(work, WARM_UP)
        yield work


def check(result: Any) -> None:
    """A run that did not do its work has no time. PlatformError says what it did instead."""
    if not result.ok or result.stdout_bytes != ANSWER:
        said = result.error.message if result.error else result.stderr[-200:]
        raise PlatformError(f"a run ended with {result.status} and {result.stdout!r:.40}: {said}")


def judged(row: Row, *, within: float, p95: float | None = None) -> Row:
    """The row with its target: a median, and a 95th percentile where there is one."""
    target = f"{within * 1e3:g} ms" + (f", p95 {p95 * 1e3:g} ms" if p95 else "")
    met = (row.median or 0) <= within and (p95 is None or (row.p95 or 0) <= p95)
    return replace(row, target=target, met=met)
