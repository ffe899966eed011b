"""Remote functions: a call, a live instance's method, large arrays, many calls."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

from saggar.cli.bench.ours import PACE, WARM_UP, judged
from saggar.cli.bench.programs import PRINT
from saggar.cli.bench.row import Effort, Row, median, timed
from saggar.errors import PlatformError
from saggar.functions import bake
from saggar.functions.baked import Baked
from saggar.functions.manifest import Registry
from saggar.functions.remote import AHEAD, remote
from saggar.model.environment import Environment
from saggar.model.policy import Policy
from saggar.platform import background, run

ITEMS = 1000
ROUNDS = 3
CLIENTS = 2
BYTES = 100_000_000
GB = 1e9
ARRAYS: Any = {
    "environment": Environment(host_packages=True, preload=("numpy",)),
    "policy": Policy(host_packages=True),
    "limits": {"memory": "1GiB", "wall": 60},
}


SOURCE = """
def plus(x: int, y: dict[str, int]) -> int:
    return x + y["y"]


def nothing(_: int) -> None:
    pass


class Kept:
    def __init__(self, array=None):
        self.array = array

    def plus(self, x: int) -> int:
        return x + 1

    def take(self, array) -> int:
        return int(array.nbytes)

    def give(self):
        return self.array
"""
"""What is called, as a caller's own program would have it: a module of ours would not travel."""


def programs() -> dict[str, Any]:
    """The functions and the class that are called."""
    space: dict[str, Any] = {"__name__": "measured"}
    exec(SOURCE, space)  # noqa: S102 - it stands above
    return space


def remotes(effort: Effort) -> list[Row]:
    """Everything that is promised of remote functions."""
    return [
        *calls(effort),
        *baked(effort),
        *methods(effort),
        *arrays(effort),
        *many(effort),
    ]


def calls(effort: Effort) -> list[Row]:
    """One call after another, each in a jail of its own; and plain runs in turns with them."""
    function = remote(programs()["plus"])
    called, plain = [], []
    for turn in range(WARM_UP + effort.repeated):
        once = _timed(lambda: function(1, {"y": 2}), 3)
        beside = _timed(lambda: run(PRINT).stdout, "1\n")
        if turn >= WARM_UP:
            called.append(once)
            plain.append(beside)
    clocked = []
    for _ in range(effort.paced // 4):
        sleep(1 / PACE)
        clocked.append(_timed(lambda: function(1, {"y": 2}), 3))
    first = timed("remote function, small JSON, fresh jail, warm", "f(1, {'y': 2})", called)
    added = (median(called) - median(plain)) * 1e3
    return [
        replace(judged(first, within=2e-3), note=f"{added:+.2f} ms over the row below"),
        timed("the same moments: a plain run, synchronous", 'saggar.run("print(1)")', plain),
        timed(f"the remote function on a clock, {PACE:g} a second", "f(1, {'y': 2})", clocked),
    ]


def baked(effort: Effort) -> list[Row]:
    """A baked function by its name, and in turns with it the same function captured."""
    function = remote(programs()["plus"])
    said = {"format": "json", "args": [1, {"y": 2}], "kwargs": {}, "made_args": []}
    by_name, captured = [], []
    with TemporaryDirectory(prefix="saggar-bench-") as folder:
        resolved = Baked(_registry(Path(folder)))

        def call() -> bytes | None:
            return background().call(resolved.call, "plus", said)[0].json

        for turn in range(WARM_UP + effort.repeated):
            once = _timed(call, b"3")
            beside = _timed(lambda: function(1, {"y": 2}), 3)
            if turn >= WARM_UP:
                by_name.append(once)
                captured.append(beside)
    row = timed("baked function by its name, warm", "baked.call('plus', ...)", by_name)
    met = median(by_name) <= median(captured)
    return [
        replace(row, target="the row below", met=met),
        timed("the same moments: it captured, fresh jail", "f(1, {'y': 2})", captured),
    ]


def _registry(folder: Path) -> Registry:
    """What `saggar bake` makes of the function."""
    app, output = folder / "measured.py", folder / "baked_code"
    app.write_text(f"{SOURCE}\n__baked__ = ['plus']\n", encoding="utf-8")
    found, beside = bake.collect(app)
    bake.write(app, output, found, beside)
    bake.register(output, found, {})
    return Registry.load(output / "registry.json")


def methods(effort: Effort) -> list[Row]:
    """A method of one instance, again and again."""
    kind = remote(programs()["Kept"])
    with kind() as kept:
        times = [_timed(lambda: kept.plus(1), 2) for _ in range(WARM_UP + effort.repeated)]
    row = timed("method of a live instance, warm", "instance.plus(1)", times[WARM_UP:])
    return [judged(row, within=1e-3)]


def arrays(effort: Effort) -> list[Row]:
    """100 MB to an instance, and from it."""
    import numpy as np  # a measurement of it needs it

    kind = remote(**ARRAYS)(programs()["Kept"])
    array = np.arange(BYTES // 8, dtype="f8")
    with kind(array) as kept:
        turns = max(5, effort.starts)
        inward = [_timed(lambda: kept.take(array), BYTES) for _ in range(turns)]
        outward = [_timed(lambda: kept.give().nbytes, BYTES) for _ in range(turns)]
    return [
        _speed("100 MB of numpy in", "instance.take(array)", inward),
        _speed("100 MB of numpy out", "instance.give()", outward),
    ]


def _speed(title: str, command: str, times: list[float]) -> Row:
    rate = BYTES / median(times) / GB
    row = timed(title, command, times)
    return replace(row, amount=rate, unit="GB/s", target="1 GB/s", met=rate >= 1)


def many(effort: Effort) -> list[Row]:
    """`map`, in turns with as many plain runs from as many clients."""
    function = remote(programs()["nothing"])
    items = ITEMS if effort.repeated >= ITEMS else 2 * effort.repeated
    list(function.map(range(items // 4)))
    mapped, plain = [], []
    for _ in range(ROUNDS):
        plain.append(_sustained(items, CLIENTS))
        begun = perf_counter()
        if list(function.map(range(items))) != [None] * items:
            raise PlatformError("map did not answer with what it was to")
        mapped.append(items / (perf_counter() - begun))
    ours, theirs = median(mapped), median(plain)
    return [
        Row(
            title=f"map of {items:,} no-ops, {AHEAD} under way",
            command=f"list(f.map(range({items})))",
            n=ROUNDS * items,
            rate=ours,
            target="90 % of the row below",
            met=ours >= 0.9 * theirs,
            note=f"{ours / theirs:.0%}",
        ),
        Row(
            title=f"the same moments: plain runs, sustained, {CLIENTS} clients",
            command='await platform.run("print(1)")',
            n=ROUNDS * items,
            rate=theirs,
        ),
    ]


def _sustained(count: int, clients: int) -> float:
    """Plain runs in a second, from as many clients, on this process's own platform."""
    import anyio

    async def work() -> float:
        left = iter(range(count))
        begun = perf_counter()

        async def client() -> None:
            for _ in left:
                if (await background().platform.run(PRINT)).stdout_bytes != b"1\n":
                    raise PlatformError("a run did not print what it was to")

        async with anyio.create_task_group() as tasks:
            for _ in range(clients):
                tasks.start_soon(client)
        return count / (perf_counter() - begun)

    return background().call(work)


def _timed(work: Callable[[], object], wanted: object) -> float:
    begun = perf_counter()
    found = work()
    took = perf_counter() - begun
    if found != wanted:
        raise PlatformError(f"wanted {wanted!r:.60}, it came to {found!r:.60}; pid {os.getpid()}")
    return took
