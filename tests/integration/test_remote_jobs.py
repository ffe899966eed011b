"""Calls that are left to a worker: a real broker, a real worker, the answers of functions."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.brokers import Worker

from saggar.config import Settings
from saggar.functions.errors import RemoteCancelled, RemoteError
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
    shutil.rmtree(state)


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
