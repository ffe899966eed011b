"""What a worker does once a second beside its work: see `saggar.jobs.recover`."""

import logging
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from celery import bootsteps

from saggar.errors import QueueUnavailable
from saggar.jobs import calls, message, recover, spare
from saggar.jobs.store import Store

log = logging.getLogger("saggar.jobs")
BUSY: Final = 600.0
"""A pool without children is silent as long as it works, and yet alive."""


class Timer(bootsteps.StartStopStep):
    """Keeps time in the main process of a worker, while it is connected."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    spare: Path | None = None
    """The state directory whose clients we are there for; without one, we are there for good."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._entry: Any = None
        self._store: Store | None = None

    def start(self, consumer: Any) -> None:
        """From now on, each second; the first one counts as well."""
        _restore(consumer, on_close=False)
        _forgive(consumer.task_consumer.channel)
        self._tick(consumer)
        self._entry = consumer.timer.call_repeatedly(recover.EVERY, self._tick, (consumer,))

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - as Celery calls it
        """Not while there is no connection."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def shutdown(self, consumer: Any) -> None:
        """Nobody is to count on us while the last jobs end."""
        _restore(consumer, on_close=True)
        if self._store is not None:
            with suppress(QueueUnavailable):  # then it is known by our silence
                self._store.ask(calls.leave(consumer.hostname))

    def _tick(self, consumer: Any) -> None:
        from saggar.worker.application import settings

        try:
            if self._store is None:
                self._store = Store.of(settings())
            self._due(consumer, self._store)
        except QueueUnavailable as exc:
            log.warning("queue.unavailable %s", exc)

    def _due(self, consumer: Any, store: Store) -> None:
        queues = [queue.name for queue in consumer.task_consumer.queues]
        solo = type(consumer.pool).__module__.endswith(".solo")
        found = recover.tick(
            store,
            consumer.hostname,
            queues,
            consumer.pool.num_processes,
            random.random,
            alive=BUSY if solo else recover.ALIVE,
        )
        for job_id, url in found.webhooks:
            words = {"job": job_id, "url": url}
            told = message.envelope("deliver_webhook", queues[0], f"hook-{job_id}", words)
            store.jobs.lpush(queues[0], told)
        self._end_if_deserted(consumer, store, queues)

    def _end_if_deserted(self, consumer: Any, store: Store, queues: list[str]) -> None:
        """Nobody is left to work for: end as on SIGTERM, which finishes what runs."""
        if self.spare is None:
            return
        with spare.deserted(self.spare) as alone:
            stand = store.counts(queues)
            if not alone or stand.running or stand.delayed or any(stand.depth.values()):
                return
            # Whoever comes next must not take us for one that works.
            store.ask(calls.leave(consumer.hostname))
            self.stop(consumer)
            os.kill(os.getpid(), signal.SIGTERM)


def _restore(consumer: Any, *, on_close: bool) -> None:
    """
    Whether what was not acknowledged is given back when the connection is closed.

    Not when it was lost: kombu then asks a broker that is away, with a client that is gone, and
    what it does not catch ends the worker. Our jobs need it not; what is not ours comes again
    after the visibility timeout.
    """
    for channel in (consumer.connection.default_channel, consumer.task_consumer.channel):
        channel.do_restore = on_close


def _forgive(channel: Any) -> None:
    """
    Let what was received before the connection was lost be acknowledged after it.

    It is too late for that: the message comes again and is dropped. But kombu's complaint of a
    closed channel is none that Celery catches, and would end the worker.
    """
    for name in ("basic_ack", "basic_reject"):
        setattr(channel, name, partial(_unless_closed, channel, getattr(channel, name)))


def _unless_closed(channel: Any, do: Callable[..., None], *words: Any, **options: Any) -> None:
    if not channel.closed:
        do(*words, **options)
