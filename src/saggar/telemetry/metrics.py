"""
How it stands, as Prometheus reads it.

All of it is counted in Redis, by whoever does the work: any process that can ask there gives the
same answer, and it survives each of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

BOUNDS: Final = ("0.01", "0.05", "0.1", "0.5", "1", "5", "10", "30", "60", "300", "+Inf")
"""Seconds that a job waited, as claim.lua sorts them."""


class Stand(Protocol):
    """What is counted."""

    @property
    def at(self) -> float:
        """When, in seconds."""
        ...

    @property
    def depth(self) -> Mapping[str, int]:
        """What waits, by queue."""
        ...

    @property
    def oldest(self) -> Mapping[str, float]:
        """Seconds that the oldest of it has waited."""
        ...

    @property
    def running(self) -> int: ...  # noqa: D102
    @property
    def delayed(self) -> int: ...  # noqa: D102
    @property
    def dead(self) -> int: ...  # noqa: D102
    @property
    def unacked(self) -> int: ...  # noqa: D102

    @property
    def totals(self) -> Mapping[str, int]:
        """Since the beginning, by names such as `done:ok` and `wait:QUEUE:0.05`."""
        ...

    @property
    def workers(self) -> Mapping[str, Mapping[str, Any]]:
        """What each living worker says of itself."""
        ...


def render(stand: Stand, accept: str = "") -> tuple[bytes, str]:
    """The text, and its media type as `accept` wants it."""
    encode, media_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(stand))
    return encode(registry), media_type


class _Once(Collector):
    def __init__(self, stand: Stand) -> None:
        self._stand = stand

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        yield from queues(self._stand)
        yield from jobs(self._stand)
        yield from workers(self._stand)


def queues(stand: Stand) -> Iterator[Metric]:
    """What waits, and for how long."""
    depth = GaugeMetricFamily(
        "celery_queue_depth", "Jobs and messages that wait, over all priorities.", labels=["queue"]
    )
    oldest = GaugeMetricFamily(
        "saggar_queue_oldest_seconds", "How long the oldest job has waited.", labels=["queue"]
    )
    for queue, number in stand.depth.items():
        depth.add_metric([queue], number)
        oldest.add_metric([queue], stand.oldest[queue])
    yield depth
    yield oldest
    yield waits(stand)


def waits(stand: Stand) -> Metric:
    """From the time a job could start to its start."""
    found = HistogramMetricFamily(
        "saggar_job_wait_seconds", "From when a job could start to its start.", labels=["queue"]
    )
    started = {name.split(":")[1] for name in stand.totals if name.startswith("wait:")}
    for queue in sorted(started | stand.depth.keys()):
        total, buckets = 0, []
        for bound in BOUNDS:
            total += stand.totals.get(f"wait:{queue}:{bound}", 0)
            buckets.append((bound, float(total)))
        found.add_metric([queue], buckets, stand.totals.get(f"waited_ms:{queue}", 0) / 1000)
    return found


def jobs(stand: Stand) -> Iterator[Metric]:
    """What runs, and what came of what ran."""
    totals = stand.totals
    yield GaugeMetricFamily("saggar_jobs_running", "Jobs that run.", stand.running)
    yield GaugeMetricFamily("saggar_jobs_delayed", "Jobs that are due later.", stand.delayed)
    yield GaugeMetricFamily(
        "saggar_unacked_messages", "Celery's messages that a worker holds.", stand.unacked
    )
    yield GaugeMetricFamily("saggar_dead_letters", "Jobs on the list dead_letter.", stand.dead)
    for name, key, help_ in (
        ("saggar_jobs_submitted", "submitted", "Jobs that were taken in."),
        ("saggar_jobs_joined", "joined", "Submissions of what was under way."),
        ("saggar_jobs_cached", "cached", "Submissions that were served from an earlier run."),
        ("saggar_job_retries", "retries", "Attempts that were followed by another."),
        ("saggar_jobs_buried", "dead", "Jobs that became dead letters."),
        ("saggar_workers_stuck", "stuck", "Times that a worker took nothing although it could."),
        ("saggar_webhooks_lost", "webhooks_lost", "Webhooks that nobody took."),
    ):
        yield CounterMetricFamily(name, help_, totals.get(key, 0))
    finished = CounterMetricFamily("saggar_jobs_finished", "Jobs that ended.", labels=["status"])
    for status, number in _below("done:", totals):
        finished.add_metric([status], number)
    yield finished
    ran = SummaryMetricFamily("saggar_job_run_seconds", "How long attempts ran.", labels=["status"])
    for status, milliseconds in _below("ran_ms:", totals):
        ran.add_metric([status], totals.get(f"ran:{status}", 0), milliseconds / 1000)
    yield ran


def workers(stand: Stand) -> Iterator[Metric]:
    """Who works, and what room he has left."""
    reading = GaugeMetricFamily(
        "saggar_workers", "Living workers that read a queue.", labels=["queue"]
    )
    slots = GaugeMetricFamily(
        "saggar_worker_slots", "Jobs that they take at once.", labels=["queue"]
    )
    said = stand.workers.values()
    named = {queue for worker in said for queue in worker["queues"]}
    for queue in sorted(named | stand.depth.keys()):
        readers = [worker for worker in said if queue in worker["queues"]]
        reading.add_metric([queue], len(readers))
        slots.add_metric([queue], sum(worker["slots"] for worker in readers))
    yield reading
    yield slots
    for key, name, help_ in (
        ("at", "saggar_worker_seen_timestamp_seconds", "When a worker last said that it lives."),
        ("stuck", "saggar_worker_stuck_seconds", "Since when it could take work and does not."),
        ("scratch_free", "saggar_scratch_free_bytes", "Room that a worker's scratch space has."),
        ("scratch_size", "saggar_scratch_size_bytes", "How large that space is."),
    ):
        yield _each(name, help_, key, stand.workers)


def _each(
    name: str, text: str, key: str, said: Mapping[str, Mapping[str, Any]]
) -> GaugeMetricFamily:
    found = GaugeMetricFamily(name, text, labels=["worker"])
    for worker, words in said.items():
        if key in words:
            found.add_metric([worker], words[key])
    return found


def _below(prefix: str, totals: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(
        (name.removeprefix(prefix), number)
        for name, number in totals.items()
        if name.startswith(prefix)
    )
