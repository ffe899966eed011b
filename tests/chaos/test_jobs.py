"""Workers and brokers die in the middle of it; nothing is lost, nothing is done twice."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.chaos.brokers import Worker
from tests.chaos.family import Family

from saggar import Task
from saggar.config import Settings
from saggar.errors import PlatformError, QueueUnavailable
from saggar.jobs import deadletters, keeper, message
from saggar.jobs.broker import Embedded, binary
from saggar.jobs.job import STANDARD, JobState
from saggar.jobs.submission import SyncDesk, SyncJob

SLEEPER = "print('up', flush=True)\nimport time\ntime.sleep({})\nprint('done')"


@pytest.fixture
def broker() -> Iterator[Embedded]:
    state = Path(tempfile.mkdtemp(prefix="saggar-chaos-"))
    found = Embedded(state).start()
    yield found
    found.close()
    await_that(lambda: not keeper.answers(str(found.socket)))
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out


@pytest.fixture
def settings(broker: Embedded) -> Settings:
    return Settings(broker_url=broker.url(), blobs=str(broker.state / "blobs"))


@pytest.fixture
def desk(settings: Settings) -> Iterator[SyncDesk]:
    found = SyncDesk(settings)
    yield found
    found.close()


def reached(job: SyncJob, attempt: int) -> bool:
    """That its attempt of this number is under way."""
    return job.job().attempt == attempt


def started(job: SyncJob) -> None:
    """Its run has printed something."""
    for event in job.events():
        if event.kind == "output":
            return


@pytest.mark.timeout(150)
def test_a_killed_workers_job_starts_again_elsewhere(
    family: Family, settings: Settings, broker: Embedded, desk: SyncDesk
):
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(settings, broker.state, "-c", "1", name=name))
            for name in ("one", "other")
        }
        job = desk.submit(Task.of(SLEEPER.format(4)))
        started(job)
        first = str(job.job().worker).partition("@")[0]
        killed = time.monotonic()
        workers[first].kill()
        await_that(lambda: job.job().attempt == 2, 20)
        again = time.monotonic() - killed
        result = job.result(20)

    assert again < 15
    assert "up\ndone\n" == result.stdout
    assert not str(job.job().worker).startswith(f"{first}@")
    assert 1 == ended(desk)
    assert [] == [line for line in family.left(5) if "valkey" not in line and "keeper" not in line]


@pytest.mark.timeout(150)
def test_a_pill_that_kills_every_worker_is_given_up(
    settings: Settings, broker: Embedded, desk: SyncDesk
):
    with Worker(settings, broker.state, "-c", "1") as worker:
        job = desk.submit(Task.of(SLEEPER.format(60)))
        for attempt in range(1, 5):
            await_that(partial(reached, job, attempt), 30)
            await_that(lambda: len(pool_of(worker)) >= 1)
            kill(*pool_of(worker))
        with pytest.raises(PlatformError, match="fell silent during attempt 4"):
            job.result(30)
        (letter,) = deadletters.ls(desk.store)
        fine = desk.submit(Task.of("print(1)")).result(30)

    assert (job.id, 4) == (letter["job_id"], letter["attempts"])
    assert JobState.DEAD is job.job().state
    assert "1\n" == fine.stdout


@pytest.mark.timeout(150)
def test_a_broker_that_is_killed_in_the_middle_loses_nothing(
    settings: Settings, broker: Embedded, desk: SyncDesk
):
    with Worker(settings, broker.state):
        jobs = [
            desk.submit(Task.of(f"import time\ntime.sleep(0.05)\nprint({n})")) for n in range(60)
        ]
        slow = desk.submit(Task.of(SLEEPER.format(3)), priority=0)
        started(slow)
        server = desk.store.jobs.info("server")["process_id"]
        await_that(lambda: desk.store.jobs.info("persistence")["aof_pending_bio_fsync"] == 0)
        kill(server)
        await_that(lambda: keeper.answers(str(broker.socket)))
        found = [patiently(lambda each=job: each.result(40)).stdout for job in jobs]

        assert [f"{n}\n" for n in range(60)] == found
        assert "up\ndone\n" == patiently(lambda: slow.result(40)).stdout
        assert 1 == slow.job().attempt
    assert 61 == ended(desk)


@pytest.mark.timeout(150)
def test_three_hundred_jobs_survive_workers_that_are_killed_at_random(
    family: Family, settings: Settings, broker: Embedded, desk: SyncDesk
):
    dice = random.Random(5)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(settings, broker.state, "-c", "1", name=f"w{n}"))
            for n in range(3)
        ]
        code = "import time\ntime.sleep(0.05)\nprint({})"
        jobs = [desk.submit(Task.of(code.format(n))) for n in range(300)]
        for worker, least in zip(workers, (20, 80, 140), strict=True):
            wanted = least + dice.randrange(40)
            await_that(partial(many_ended, desk, wanted), 40)
            worker.kill()
            name = f"after-{worker.name}"
            stack.enter_context(Worker(settings, broker.state, "-c", "1", name=name))
        found = [job.result(50).stdout for job in jobs]

    assert [f"{n}\n" for n in range(300)] == found
    assert 300 == ended(desk)
    assert [] == [line for line in family.left(5) if "valkey" not in line and "keeper" not in line]


def test_a_worker_that_is_asked_to_stop_finishes_what_it_has(
    settings: Settings, broker: Embedded, desk: SyncDesk
):
    with Worker(settings, broker.state, "-c", "1") as worker:
        job = desk.submit(Task.of(SLEEPER.format(2)))
        waiting = desk.submit(Task.of("print('next')"))
        started(job)
        worker.process.terminate()
        worker.process.wait(30)

        assert "up\ndone\n" == job.result(1).stdout
        assert JobState.QUEUED is waiting.job().state
    with Worker(settings, broker.state, "-c", "1", name="next"):
        assert "next\n" == waiting.result(20).stdout


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_jobs_are_run_and_cancelled_on_other_pools(
    pool: str, settings: Settings, broker: Embedded, desk: SyncDesk
):
    with Worker(settings, broker.state, "-P", pool, "-c", "1"):
        job = desk.submit(Task.of(SLEEPER.format(60)))
        started(job)
        asked = time.monotonic()
        job.cancel()

        assert "cancelled" == job.result(10).status
        assert time.monotonic() - asked < 1
        assert "1\n" == desk.submit(Task.of("print(1)")).result(20).stdout


def test_a_broker_lives_as_long_as_its_last_owner(family: Family):
    state = Path(tempfile.mkdtemp(prefix="saggar-owners-"))
    code = (
        "import sys, pathlib\n"
        "from saggar.jobs.broker import Embedded, binary\n"
        "owned = Embedded(pathlib.Path(sys.argv[1])).start()\n"
        "print('owned', flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", code, str(state)]
    owners = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    address = str(state / keeper.SOCKET)
    for owner in owners:
        assert owner.stdout is not None
        assert b"owned\n" == owner.stdout.readline()
    for owner, signalled in zip(
        owners, (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL), strict=True
    ):
        assert keeper.answers(address)
        owner.send_signal(signalled)
        owner.communicate()
    await_that(lambda: not keeper.answers(address), 3)

    assert [] == family.left(5)
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out


def test_a_broker_comes_back_with_what_it_had(broker: Embedded, desk: SyncDesk):
    job = desk.submit(Task.of("print(1)"))
    client = desk.store.jobs
    server = client.info("server")["process_id"]
    client.bgrewriteaof()
    await_that(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    kill(server)
    await_that(lambda: keeper.answers(str(broker.socket)))

    assert JobState.QUEUED is patiently(job.job).state


def test_without_any_worker_one_is_started_and_goes_when_nobody_is_left(family: Family):
    state = Path(tempfile.mkdtemp(prefix="saggar-spare-"))
    code = (
        "from saggar.jobs.submission import submit\n"
        "print(submit('print(6 * 7)').result(40).stdout)\n"
        "submit('import time; time.sleep(1)')\n"
    )
    env = {**os.environ, "SAGGAR_STATE_DIR": str(state)}

    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=55,
        check=True,
    )  # fmt: skip

    assert "42\n\n" == run.stdout
    assert [] == family.left(20)
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out


@pytest.mark.timeout(150)
def test_a_worker_survives_a_broker_that_is_away_for_a_while(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--port", str(port), "--dir", str(tmp_path), "--appendonly", "yes", "--save", ""]
    settings = Settings(broker_url=f"redis://127.0.0.1:{port}/0")
    desk = SyncDesk(settings)
    with ExitStack() as stack:
        server = stack.enter_context(serving(words))
        patiently(lambda: desk.store.counts(()))
        stack.enter_context(Worker(settings, tmp_path))
        long = desk.submit(Task.of(SLEEPER.format(2)))
        started(long)
        server.terminate()
        server.wait()
        threading.Event().wait(4)  # longer than the run
        stack.enter_context(serving(words))
        later = patiently(lambda: desk.submit(Task.of("print('later')")))

        assert "later\n" == later.result(40).stdout
        assert "up\ndone\n" == long.result(40).stdout
        assert 1 == long.job().attempt
    desk.close()


def test_a_worker_that_never_had_a_broker_ends_when_it_is_asked_to(tmp_path: Path):
    log = tmp_path / "log"
    env = {**os.environ, "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}
    argv = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "saggar.worker", "worker"]
    with log.open("wb") as out, subprocess.Popen(argv, env=env, stdout=out, stderr=out) as worker:
        await_that(lambda: "Trying again" in log.read_text(), 40)
        worker.terminate()
        code = worker.wait(40)

    assert 0 == code
    assert "Traceback" not in log.read_text()


@pytest.mark.timeout(150)
def test_a_worker_survives_a_broker_that_is_full(
    settings: Settings, broker: Embedded, desk: SyncDesk
):
    with Worker(settings, broker.state, "-c", "1") as worker:
        worker.process.send_signal(signal.SIGSTOP)
        for number in range(3):
            told = message.envelope("health_check", STANDARD, f"check-{number}", {})
            desk.store.jobs.lpush(STANDARD, told)
        desk.store.jobs.config_set("maxmemory", 1)
        worker.process.send_signal(signal.SIGCONT)
        await_that(lambda: desk.store.jobs.llen(STANDARD) == 0, 30)
        with pytest.raises(QueueUnavailable, match="memory"):
            desk.submit(Task.of("print(1)"))
        desk.store.jobs.config_set("maxmemory", 0)
        found = desk.submit(Task.of("print(1)")).result(30)

        assert worker.process.poll() is None
    assert "1\n" == found.stdout


@pytest.mark.timeout(150)
def test_who_waits_outlives_the_death_of_his_broker(
    settings: Settings, broker: Embedded, desk: SyncDesk
):
    with Worker(settings, broker.state, "-c", "1"):
        job = desk.submit(Task.of(SLEEPER.format(3)))
        seen = job.events()
        while next(seen).kind != "output":
            pass
        with ThreadPoolExecutor() as threads:
            waited = threads.submit(job.result, 60)
            await_that(lambda: desk.store.jobs.info("persistence")["aof_pending_bio_fsync"] == 0)
            kill(desk.store.jobs.info("server")["process_id"])
            rest = list(seen)
            state = job.job().state

        assert "up\ndone\n" == waited.result().stdout
        assert "finished" == rest[-1].kind
        assert JobState.DONE is state


@pytest.mark.timeout(150)
def test_a_worker_that_takes_nothing_although_it_could_connects_anew(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, broker: Embedded, desk: SyncDesk
):
    monkeypatch.setenv("STUCK", "until it connects")
    with Worker(settings, broker.state, "-c", "1", "-I", "tests.chaos.stuck") as worker:
        left_lying = desk.submit(Task.of("print('left lying')"))

        assert "left lying\n" == left_lying.result(40).stdout
        assert 1 == desk.store.counts(()).totals["stuck"]
        assert "worker.stuck" in worker.log.read_text()
        assert worker.process.poll() is None


@pytest.mark.timeout(150)
def test_a_worker_that_connecting_anew_does_not_help_ends_and_another_one_does_its_work(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, broker: Embedded, desk: SyncDesk
):
    monkeypatch.setenv("STUCK", "for good")
    with Worker(settings, broker.state, "-c", "1", "-I", "tests.chaos.stuck") as worker:
        left_lying = desk.submit(Task.of("print('left lying')"))
        code = worker.process.wait(40)
    with Worker(settings, broker.state, "-c", "1", name="next"):
        found = left_lying.result(40)

    assert 70 == code
    assert 2 == desk.store.counts(()).totals["stuck"]
    assert "left lying\n" == found.stdout


@contextmanager
def serving(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([binary(), *words], stdout=subprocess.DEVNULL) as server:
        yield server
        server.terminate()


def ended(desk: SyncDesk) -> int:
    """How many jobs were done well."""
    return desk.store.counts(()).totals.get("done:ok", 0)


def many_ended(desk: SyncDesk, wanted: int) -> bool:
    return ended(desk) >= wanted


def pool_of(worker: Worker) -> list[int]:
    """The children of a pool."""
    path = f"/proc/{worker.process.pid}/task/{worker.process.pid}/children"
    with open(path, encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def patiently(ask: Callable):
    """The answer of a queue that may be starting."""
    end = time.monotonic() + 20
    while True:
        try:
            return ask()
        except PlatformError:
            assert time.monotonic() < end
            threading.Event().wait(0.05)


def await_that(condition: Callable[[], object], within: float = 20) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        threading.Event().wait(0.02)
