"""
A queue that is drained while its workers are killed: what is lost, done twice, or left behind.

Each job prints its own number, so a result is not only there but the right one. A worker that was
killed is replaced, as a supervisor would; its jobs start again when their leases have run out.
"""

import ctypes
import os
import random
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic, perf_counter, sleep
from typing import Final

from saggar.cli.bench.jobs import Scene, Worker
from saggar.cli.bench.processes import descendants
from saggar.cli.bench.row import FULL, Effort, Row
from saggar.errors import PlatformError
from saggar.jobs import keys
from saggar.jobs.job import STANDARD
from saggar.model.task import Task

AT_ONCE: Final = 3
"""Workers, with one job each."""
STALLED: Final = 120.0
"""Seconds without any result after which there will be none."""
LEAVING: Final = 10.0
"""Seconds in which whatever belonged to a worker must be gone after its end."""
_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True)
class Came:
    """What came of them."""

    seconds: float
    right: int
    """Jobs whose result is theirs."""
    recorded: int
    """Results that were ever recorded."""
    stored: int
    """Results that lie there."""
    again: int
    """Starts beyond the first of a job."""
    orphans: int


def drain(effort: Effort) -> list[Row]:
    """One row; what it says of the speed is not its subject."""
    number, kills = (10_000, 3) if effort == FULL else (effort.repeated, 1)
    came = _drained(number, kills)
    good = (came.right, came.recorded, came.stored, came.orphans) == (number, number, number, 0)
    return [
        Row(
            title=f"jobs drained while {kills} of {AT_ONCE} workers are killed",
            command="print(n); SIGKILL to a worker and its pool at a random moment",
            n=number, rate=number / came.seconds, target="each result once, 0 orphans", met=good,
            note=f"{came.right} right, {came.recorded} recorded, {came.stored} stored,"
            f" {came.again} started again, {came.orphans} orphans",
        )
    ]  # fmt: skip


def _drained(number: int, kills: int) -> Came:
    with ExitStack() as stack:
        scene = Scene(stack)
        # Whoever loses his parent is ours from now on, and is found below us.
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        stack.callback(ctypes.CDLL(None).prctl, _SUBREAPER, 0, 0, 0, 0)
        before = set(descendants())
        ids = [scene.desk.submit(Task.of(f"print({n})")).id for n in range(number)]
        start = perf_counter()
        workers = [_worker(scene, place) for place in range(AT_ONCE)]
        _killed_at_random(scene, workers, number, kills)
        _await(scene, number)
        seconds = perf_counter() - start
        for worker in workers:
            worker.end()
        orphans = _left(before)
        found = [scene.desk.store.find(job_id) for job_id in ids]
        return Came(
            seconds=seconds,
            right=sum(
                job.result is not None and job.result.stdout == f"{n}\n"
                for n, job in enumerate(found)
            ),
            recorded=_ended(scene),
            stored=len(scene.desk.store.results.keys(keys.result("*", "*"))),
            again=sum(job.retries for job in found),
            orphans=orphans,
        )


def _worker(scene: Scene, place: int) -> Worker:
    argv = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "saggar.worker", "worker"]
    name = f"drain-{place}@%h"
    return scene.started([*argv, "--loglevel=info", "-c", "1", "-n", name], " ready.")


def _killed_at_random(scene: Scene, workers: list[Worker], number: int, kills: int) -> None:
    dice = random.Random(number)  # noqa: S311 - the same dice each time
    for nth in range(kills):
        # One in each part of the work, the last part left for what starts again.
        _await(scene, int(number * (nth + dice.random()) / (kills + 1)))
        place = dice.randrange(len(workers))
        os.killpg(workers[place].process.pid, signal.SIGKILL)
        workers[place].process.wait()
        workers[place] = _worker(scene, AT_ONCE + nth)


def _await(scene: Scene, number: int) -> None:
    """Until so many have ended well."""
    ended, end = _ended(scene), monotonic() + STALLED
    while ended < number:
        sleep(0.02)
        if (now := _ended(scene)) > ended:
            ended, end = now, monotonic() + STALLED
        if monotonic() > end:
            raise PlatformError(f"{ended} of {number} jobs ended, and no more for {STALLED:g} s")


def _ended(scene: Scene) -> int:
    return scene.desk.store.counts((STANDARD,)).totals.get("done:ok", 0)


def _left(before: set[int]) -> int:
    """Processes that outlive the workers they belonged to."""
    end = monotonic() + LEAVING
    while (found := set(descendants()) - before) and monotonic() < end:
        sleep(0.05)
    return len(found)
