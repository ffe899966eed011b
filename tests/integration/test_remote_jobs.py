"""Calls that are left to a worker: a real broker, a real worker, the answers of functions."""

import pickle
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.brokers import Worker

from saggar.config import Settings
from saggar.errors import InvalidTask
from saggar.functions.errors import RemoteCancelled, RemoteError
from saggar.functions.options import Retry
from saggar.functions.remote import remote
from saggar.jobs.broker import Embedded


@pytest.fixture(scope="module", autouse=True)
def queue() -> Iterator[None]:
    """What every submission of this process finds, by its environment."""
    state = Path(tempfile.mkdtemp(prefix="saggar-remote-"))
    broker = Embedded(state).start()
    settings = Settings(broker_url=broker.url(), blobs=str(state / "blobs"))
    with Worker(settings, state), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGGAR_BROKER_URL", broker.url())
        patch.setenv("SAGGAR_BLOBS", str(state / "blobs"))
        yield
    broker.close()
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out


@remote
def pair(x: int) -> tuple[int, bytes]:
    print("working on", x)  # noqa: T201
    return x, b"abc"


def test_a_job_answers_as_its_function_does_and_is_found_again():
    job = pair.submit(3)

    assert (3, b"abc") == job.result(40)
    assert "done" == job.status
    assert [("stdout", "working on 3\n")] == list(job.logs())
    assert (3, b"abc") == pair.job(job.id).result(5)


def test_what_a_job_raises_is_raised_here():
    @remote
    def fails():
        raise KeyError("k")

    with pytest.raises(KeyError) as found:
        fails.submit().result(40)

    assert isinstance(found.value, RemoteError)
    assert "in fails" in found.value.remote_traceback


def test_a_function_may_always_be_left_to_a_worker():
    queued = pair.options(where="queue")

    assert (5, b"abc") == queued(5)
    assert [(n, b"abc") for n in range(3)] == list(queued.map(range(3)))


def test_large_arguments_go_through_the_queue():
    @remote(where="queue")
    def length(data):
        return len(data)

    assert 300_000 == length(b"x" * 300_000)


def test_buffers_go_through_the_queue_wherever_the_function_runs_otherwise():
    @remote
    def length(data):
        return len(data)

    assert 300_000 == length.submit(pickle.PickleBuffer(b"x" * 300_000)).result(40)


def test_large_answers_come_back_through_the_queue():
    @remote(where="queue")
    def much(size):
        return b"x" * size

    assert b"x" * 300_000 == much(300_000)


def test_a_job_that_is_cancelled_says_so():
    @remote(timeout=60)
    def sleeps():
        time.sleep(60)

    job = sleeps.submit()
    deadline = time.monotonic() + 30
    while job.status == "queued" and time.monotonic() < deadline:
        time.sleep(0.02)
    job.cancel()

    with pytest.raises(RemoteCancelled):
        job.result(30)


def test_what_was_said_of_a_function_holds_for_its_jobs():
    @remote(where="queue", network="loopback", env={"A": "b"})
    def look():
        import os
        import socket

        with socket.create_server(("127.0.0.1", 0)):
            return os.environ["A"]

    assert "b" == look()
    assert "b" == look.submit().result(40)
    assert "loopback" == look.submit()._job.job().policy.network


def test_what_a_job_prints_is_shown_to_whoever_waits():
    heard: list[str] = []
    told = pair.options(where="queue", log=lambda _, text: heard.append(text))
    told(7)
    told.submit(8).result(40)

    assert "working on 7\nworking on 8\n" == "".join(heard)


def test_a_job_is_made_again_where_its_caller_waits():
    seen: list[str] = []

    @remote(
        where="queue",
        retries=Retry(2, on=(KeyError,)),
        log=lambda _, text: seen.append(text),
    )
    def fails():
        print("try")  # noqa: T201
        raise KeyError("k")

    with pytest.raises(KeyError):
        fails()

    assert "try\ntry\ntry\n" == "".join(seen)
    with pytest.raises(InvalidTask, match="retries: what the function of a job raises is its end"):
        fails.submit()


def test_a_call_through_the_queue_has_a_whole_result():
    result = pair.options(where="queue").call(2)

    assert (True, "working on 2\n") == (result.ok, result.stdout)


def test_what_a_queue_cannot_do_is_refused():
    @remote(where="queue")
    def gives():
        yield 1

    with pytest.raises(InvalidTask, match="where: a queue keeps one answer of a job"):
        next(gives.stream())
    with pytest.raises(InvalidTask, match="driver: which one a worker uses"):
        pair.options(driver="process").submit(1)
