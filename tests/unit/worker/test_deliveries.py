import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from saggar.config import Settings
from saggar.jobs import calls, keys, recover
from saggar.jobs.broker import Embedded
from saggar.jobs.queue import Bury, Terms
from saggar.jobs.store import Store
from saggar.testing.queues import FAILED, job
from saggar.worker.deliveries import ALERTED, PLACES, TRIES, Deliveries


@pytest.fixture
def settings() -> Iterator[Settings]:
    state = Path(tempfile.mkdtemp(prefix="saggar-told-"))
    broker = Embedded(state).start()
    yield Settings(broker_url=broker.url(), blobs=str(state / "blobs"))
    broker.close()
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out


def buried(store: Store) -> str:
    """The id of a job that was given up."""
    wanted = job()
    store.submit(wanted, Terms())
    lease = store.claim(wanted.id, "worker")
    assert lease is not None
    store.settle(lease, Bury(FAILED))
    return wanted.id


def told(deliveries: Deliveries, job_id: str, tries: int) -> None:
    """Until whoever is told has been."""
    deliveries.start(job_id, ALERTED, tries)
    end = time.monotonic() + 20
    while deliveries.room < PLACES:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_alert_that_fails_is_tried_again_and_in_the_end_given_up(settings: Settings):
    now = 1e9
    store = Store.of(settings, lambda: now)
    job_id = buried(store)
    due = []
    for tries in range(1, TRIES + 1):
        (end,) = recover.tick(store, "one", (), 1, lambda: 0.5, room=5, held=60).ends
        assert (job_id, ALERTED, tries) == end
        told(Deliveries(settings.replace(dead_letter_alert="false"), store), job_id, tries)
        left = store.jobs.zscore(keys.WEBHOOKS, f"{job_id} {ALERTED}")
        if left is not None:
            due.append(left / 1000 - now)
            now += due[-1]
    lost = store.counts(()).totals["webhooks_lost"]
    store.close()

    assert [5, 25, 125] == due
    assert 1 == lost


def test_an_alert_that_was_heard_is_told_once(settings: Settings, tmp_path: Path):
    store = Store.of(settings)
    job_id = buried(store)
    heard = tmp_path / "heard"
    told(Deliveries(settings.replace(dead_letter_alert=f"tee -a {heard}"), store), job_id, 1)
    left = store.jobs.zcard(keys.WEBHOOKS)
    store.close()

    assert job_id == json.loads(heard.read_text())["job_id"]
    assert 0 == left


def test_what_was_dropped_meanwhile_need_not_be_told(settings: Settings):
    store = Store.of(settings)
    job_id = buried(store)
    store.ask(calls.drop(job_id))
    told(Deliveries(settings.replace(dead_letter_alert="false"), store), job_id, 1)
    left = store.jobs.zcard(keys.WEBHOOKS)
    store.close()

    assert 0 == left
