"""
Jobs, beside what a queue costs that runs nothing: Celery's own no-op, and rq's.

Both workers stand on one broker at the same time, and take turns. What is drained was queued while
its worker stood still, so that the time of whoever submits is not part of it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, Final, Self

from saggar.cli.bench.processes import descendants, proportional
from saggar.cli.bench.row import Effort, Row, median, timed
from saggar.config import Settings
from saggar.errors import PlatformError
from saggar.jobs.broker import Embedded, celery_url
from saggar.jobs.job import HEAVY, STANDARD
from saggar.jobs.submission import SyncDesk
from saggar.model.task import Task

MB: Final = 1e6
PACE: Final = 20.0
WORKERS: Final = 2
PATIENCE: Final = 120.0
BUSY: Final = 0.9
"""What counts as all processors in use."""
PRINT: Final = Task.of("print(1)")


class Scene:
    """A broker and the workers on it, in a folder that is gone afterwards."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.state = Path(stack.enter_context(_folder()))
        self.broker = Embedded(self.state).start()
        stack.callback(self.broker.close)
        self.settings = Settings(broker_url=self.broker.url(0), result_backend=self.broker.url(1))
        self.desk = SyncDesk(self.settings)
        stack.callback(self.desk.close)
        # Read by the no-op's module, here and in its worker.
        os.environ["BENCH_BROKER"] = celery_url(self.broker.url(2))
        os.environ["BENCH_RESULTS"] = celery_url(self.broker.url(3))

    def worker(self, app: str, *words: str) -> "Worker":
        """A Celery worker, ready for work."""
        argv = [sys.executable, "-W", "ignore", "-m", "celery", "-A", app, "worker"]
        return self.started([*argv, "--loglevel=info", "-c", str(WORKERS), *words], " ready.")

    def started(self, argv: list[str], ready: str) -> "Worker":
        """A worker, once its log says so."""
        worker = Worker(argv, self.state / f"{len(argv)}-{monotonic()}.log", self.settings)
        self._stack.callback(worker.end)
        worker.await_word(ready)
        return worker


class Worker:
    """A worker and all that belongs to it."""

    def __init__(self, argv: list[str], log: Path, settings: Settings) -> None:
        self.log = log
        env = {
            **os.environ,
            "CELERY_BROKER_URL": "",
            "SAGGAR_BROKER_URL": settings.broker_url,
            "SAGGAR_RESULT_BACKEND": settings.result_backend,
        }
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                argv, stdout=file, stderr=file, env=env, start_new_session=True
            )

    def await_word(self, word: str) -> None:
        """Until its log has it."""
        end = monotonic() + PATIENCE
        while word not in self.log.read_text():
            if self.process.poll() is not None or monotonic() > end:
                raise PlatformError(f"a worker does not start: {self.log.read_text()[-300:]}")
            sleep(0.05)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Nothing is taken meanwhile."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def memory(self) -> int:
        """Of all its processes."""
        return sum(map(proportional, [self.process.pid, *descendants(self.process.pid)]))

    def end(self) -> None:
        """As an operator ends it; not as a measurement that has to wait for it."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def jobs(effort: Effort) -> list[Row]:
    """All of it, on one broker."""
    with ExitStack() as stack:
        scene = Scene(stack)
        ours = scene.worker("saggar.worker", "-n", "ours@%h", "-Q", STANDARD)
        alone = scene.worker("saggar.worker", "-n", "alone@%h", "-Q", HEAVY, "-c", "1")
        bare = scene.worker("saggar.cli.bench.noop", "-n", "noop@%h")
        warm_up(scene)
        idle = ours.memory()
        return [
            *latency(scene, effort),
            *throughput(scene, ours, bare, effort),
            doubled(scene, ours, alone, effort),
            direct(effort),
            rq(scene, effort),
            cached(scene, effort),
            queued(scene, ours, effort),
            Row(
                title=f"idle worker, {WORKERS} processes and their warm sandboxes",
                command="celery -A saggar.worker worker -c 2; Pss of all its processes",
                n=1, amount=idle / MB, unit="MB", target="200 MB", met=idle <= 200 * MB,
            ),
        ]  # fmt: skip


def warm_up(scene: Scene) -> None:
    """Each child of the pool has run something."""
    for job in [scene.desk.submit(PRINT, queue=each) for each in (STANDARD, HEAVY) * 15]:
        job.result(PATIENCE)
    noop = _noop()
    for answer in [noop.delay() for _ in range(30)]:
        answer.get(timeout=PATIENCE)


def latency(scene: Scene, effort: Effort) -> list[Row]:
    """One at a time on a fixed clock, in turns."""
    noop = _noop()
    ours, bare, walls = [], [], []
    for _ in range(max(20, effort.paced // 4)):
        sleep(1 / PACE)
        start = perf_counter()
        job = scene.desk.submit(PRINT)
        result = job.result(PATIENCE)
        ours.append(perf_counter() - start)
        walls.append(result.usage.wall)
        _must(result.stdout == "1\n", "a job did not print what it should")
        sleep(1 / PACE)
        start = perf_counter()
        noop.delay().get(timeout=PATIENCE)
        bare.append(perf_counter() - start)
    row = timed("job: submit to result, print(1) in a fresh jail, paced", "submit().result()", ours)
    over = median(ours) - median(bare)
    note = f"{over * 1e3:+.2f} ms; the run itself {median(walls) * 1e3:.2f} ms"
    return [
        _with(row, target="Celery no-op + 2 ms", met=over <= 2e-3, note=note),
        timed("bare Celery no-op, the same pace", "noop.delay().get()", bare),
    ]


def throughput(scene: Scene, ours: Worker, bare: Worker, effort: Effort) -> list[Row]:
    """As many as they can, in turns."""
    number = max(60, effort.repeated)
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(2):
        rates["bare"].append(drained(bare, number, _noop().delay, _noops(scene)))
        rates["ours"].append(drained(ours, number, lambda: scene.desk.submit(PRINT), _done(scene)))
    mine, theirs = (sum(rates[name]) / 2 for name in ("ours", "bare"))
    part = mine / theirs
    return [
        Row(
            title=f"jobs, {WORKERS} workers, a fresh jail each",
            command="a queue of jobs drained", n=2 * number, rate=mine,
            target="45 % of Celery no-ops; stretch 60 %", met=part >= 0.45, note=f"{part:.0%}",
        ),
        Row(
            title=f"bare Celery no-ops, {WORKERS} workers",
            command="prefork, acks_late, prefetch 1, events on", n=2 * number, rate=theirs,
        ),
    ]  # fmt: skip


def drained(
    worker: Worker, number: int, submit: Callable[[], Any], done: Callable[[], int]
) -> float:
    """How many a second are worked off that were there before."""
    before = done()
    with worker.standing_still():
        for _ in range(number):
            submit()
    start, end = perf_counter(), monotonic() + PATIENCE
    while done() - before < number:
        _must(monotonic() < end, f"{done() - before} of {number} came")
        sleep(0.01)
    return number / (perf_counter() - start)


def doubled(scene: Scene, ours: Worker, alone: Worker, effort: Effort) -> Row:
    """What a second process of the pool brings, and how busy the machine is by then."""
    number, rates, busy = max(60, effort.repeated), {STANDARD: 0.0, HEAVY: 0.0}, 0.0
    for queue, worker in ((HEAVY, alone), (STANDARD, ours)) * 2:
        submit = partial(scene.desk.submit, PRINT, queue=queue)
        with Busy() as cores:
            rates[queue] += drained(worker, number, submit, _done(scene)) / 2
        busy = cores.share
    times = rates[STANDARD] / rates[HEAVY]
    return Row(
        title="jobs: 2 workers beside 1",
        command="the same queue of jobs, -c 1 and -c 2", n=2 * number, amount=times, unit="times",
        target="1.8 times, or both cores busy", met=times >= 1.8 or busy >= BUSY,
        note=f"1: {rates[HEAVY]:.0f}/s, 2: {rates[STANDARD]:.0f}/s; cores {busy:.0%} busy with 2",
    )  # fmt: skip


class Busy:
    """How much of the machine's processors is in use during a block."""

    def __enter__(self) -> Self:
        self._idle, self._all = _ticks()
        return self

    def __exit__(self, *_: object) -> None:
        idle, every = _ticks()
        self.share = 1 - (idle - self._idle) / max(1, every - self._all)


def _ticks() -> tuple[int, int]:
    """Of all processors: idle ones, and all, since the machine started."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def direct(effort: Effort) -> Row:
    """What is added to a run by its documented face, without a worker."""
    from saggar.functions.codetools import CodeTools

    times = []
    for _ in range(max(20, effort.paced // 10)):
        sleep(1 / PACE)
        start = perf_counter()
        answer = CodeTools.execute_code("print(1)")
        times.append(perf_counter() - start - answer["execution_time_ms"] / 1e3)
        _must(answer["stdout"] == "1\n", "a run did not print what it should")
    row = timed("CodeTools: beside the run itself", "CodeTools.execute_code", times)
    return _with(row, target="50 ms", met=median(times) <= 50e-3)


def rq(scene: Scene, effort: Effort) -> Row:
    """As rq does it: a process forked for each job."""
    title = f"rq no-ops, {WORKERS} workers, a fork each"
    try:
        import redis
        import rq as peer
    except ImportError:
        return Row(title=title, command="rq worker", note="not installed")
    url, number = scene.broker.url(4), max(20, effort.repeated // 10)
    client = redis.Redis.from_url(url)
    queue = peer.Queue("noop", connection=client)
    argv = [sys.executable, "-m", "rq.cli", "worker", "--url", url, "noop"]
    workers = [scene.started(argv, "Listening on") for _ in range(WORKERS)]
    for worker in workers:
        os.killpg(worker.process.pid, signal.SIGSTOP)
    sent = [queue.enqueue("time.monotonic") for _ in range(number)]
    start, end = perf_counter(), monotonic() + PATIENCE
    for worker in workers:
        os.killpg(worker.process.pid, signal.SIGCONT)
    while queue.finished_job_registry.count < len(sent) and monotonic() < end:
        sleep(0.01)
    rate = queue.finished_job_registry.count / (perf_counter() - start)
    client.close()
    return Row(title=title, command="rq worker, time.monotonic", n=number, rate=rate)


def cached(scene: Scene, effort: Effort) -> Row:
    """The same work again, within the hour."""
    scene.desk.submit(PRINT, cache=True).result(PATIENCE)
    times = []
    for _ in range(effort.repeated):
        start = perf_counter()
        job = scene.desk.submit(PRINT, cache=True)
        job.result(PATIENCE)
        times.append(perf_counter() - start)
        _must(job.came == "cached", "a run that was not needed")
    row = timed("job: served from the cache", "submit(cache=True).result()", times)
    return _with(row, target="1 ms", met=median(times) <= 1e-3)


def queued(scene: Scene, worker: Worker, effort: Effort) -> Row:
    """What the broker weighs for each job that waits, with 2 kB of code."""
    client, number = scene.desk.store.jobs, max(200, effort.repeated)
    with worker.standing_still():
        before = client.info("memory")["used_memory"]
        sent = [
            scene.desk.submit(Task.of(f"print({index})\n" + "#" * 2000)) for index in range(number)
        ]
        weight = (client.info("memory")["used_memory"] - before) / number
        for job in sent:
            job.cancel()
    return Row(
        title="broker's memory for a queued job, 2 kB of code",
        command="INFO memory, used_memory", n=number,
        amount=weight / 1000, unit="kB", target="10 kB", met=weight <= 10_000,
    )  # fmt: skip


def _done(scene: Scene) -> Callable[[], int]:
    return lambda: scene.desk.store.counts(()).totals.get("done:ok", 0)


def _noops(scene: Scene) -> Callable[[], int]:
    import redis

    client = redis.Redis.from_url(scene.broker.url(3))
    scene._stack.callback(client.close)  # noqa: SLF001 - one file
    succeeded = b'"SUCCESS"'

    def done() -> int:
        found = client.keys("celery-task-meta-*")
        if not found:
            return 0
        return sum(succeeded in (value or b"") for value in client.mget(found))

    return done


def _noop() -> Any:
    from saggar.cli.bench.noop import noop

    return noop


def _with(row: Row, **changes: Any) -> Row:
    from dataclasses import replace

    return replace(row, **changes)


def _must(good: bool, otherwise: str) -> None:  # noqa: FBT001 - as an assertion reads
    if not good:
        raise PlatformError(otherwise)


@contextmanager
def _folder() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="saggar-bench-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
