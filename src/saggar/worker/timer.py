"""What a worker does once a second beside its work: see `saggar.jobs.recover`."""

import logging
import os
import random
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from celery import bootsteps, signals
from celery.worker import state

from saggar.config import Settings
from saggar.errors import QueueUnavailable, UsageError
from saggar.jobs import calls, keys, message, recover, spare
from saggar.jobs.store import Store
from saggar.telemetry.log import warn
from saggar.worker.deliveries import HELD, Deliveries
from saggar.worker.transport import Gathered
from saggar.worker.watch import Advice, Watch

log = logging.getLogger("saggar.jobs")
ENDED: Final = 70
"""The exit code of a worker that could not be helped."""
HOUR: Final = 3600
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
        self._settings: Settings = Settings.model_construct()
        self._deliveries: Deliveries | None = None
        self._watch = Watch()

    def start(self, consumer: Any) -> None:
        """From now on, each second; the first one counts as well."""
        _restore(consumer, on_close=False)
        if consumer.hub:
            Gathered(consumer)
        signals.task_revoked.connect(self._revoked, dispatch_uid="saggar")
        self._tick(consumer)
        self._entry = consumer.timer.call_repeatedly(recover.EVERY, self._tick, (consumer,))

    def stop(self, consumer: Any) -> None:
        """Not while there is no connection."""
        if dispatcher := consumer.event_dispatcher:
            dispatcher.flush()
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def shutdown(self, consumer: Any) -> None:
        """Nobody is to count on us while the last jobs end."""
        _restore(consumer, on_close=True)
        if self._store is not None:
            with suppress(QueueUnavailable):  # then it is known by our silence
                self._store.ask(calls.leave(_member(consumer)))

    def _revoked(self, request: Any, **_: Any) -> None:
        """
        Somebody revoked or terminated a task by Celery's own means, as Flower's buttons do.

        He does not want its job. That would be sent again, and started elsewhere.
        """
        if self._store is not None:
            where, job_id = self._store.where, message.job_of(request.id)
            # No job of ours, or not any more; and who is not heard now is so when it comes again.
            with suppress(QueueUnavailable, UsageError):
                self._store.ask(calls.cancel(job_id, where.database, request.id))

    def _tick(self, consumer: Any) -> None:
        from saggar.worker.application import settings

        try:
            if self._store is None:
                self._settings = settings()
                self._store = Store.of(self._settings)
            self._due(consumer, self._store)
        except QueueUnavailable as exc:
            log.warning("queue.unavailable %s", exc)

    def _due(self, consumer: Any, store: Store) -> None:
        if self._deliveries is None:
            self._deliveries = Deliveries(self._settings, store)
        deliveries = self._deliveries
        queues = [queue.name for queue in consumer.task_consumer.queues]
        solo = type(consumer.pool).__module__.endswith(".solo")
        found = recover.tick(
            store,
            _member(consumer),
            queues,
            consumer.pool.num_processes,
            random.random,
            alive=BUSY if solo else recover.ALIVE,
            stuck=self._watch.stuck,
            name=consumer.hostname,
            room=deliveries.room,
            held=HELD,
        )
        for job_id, url, tries in found.ends:
            deliveries.start(job_id, url, tries)
        self._tidy(store)
        self._end_if_deserted(consumer, store, queues)
        self._take_part(consumer, store, found.lying)

    def _take_part(self, consumer: Any, store: Store, lying: int) -> None:
        """
        Where messages lie and nobody here takes them, connect anew; if that helps not, end.

        What runs comes to its end in both cases.
        """
        free = consumer.pool.num_processes - len(state.reserved_requests)
        advice = self._watch.look(lying, free, state.all_total_count[0])
        if advice is Advice.NOTHING:
            return
        warn(log, "worker.stuck", worker=consumer.hostname, messages=lying, then=str(advice))
        with store.guarded():
            store.jobs.hincrby(keys.COUNTS, "stuck", 1)
        if advice is Advice.END:
            state.should_stop = ENDED
            return
        # Known to Celery as a connection that was lost: all that listens is made anew.
        raise ConnectionError(f"{lying} messages lie in its queues, and it takes none")

    def _tidy(self, store: Store) -> None:
        """What nobody wants any more: each hour, by whoever is first."""
        if self.spare is not None:
            spare.trim(self.spare)
        with store.guarded():
            if not store.jobs.set(keys.SWEPT, "", nx=True, ex=HOUR):
                return
        # It may take its time where it is far away.
        threading.Thread(target=_sweep, args=(store,), daemon=True).start()

    def _end_if_deserted(self, consumer: Any, store: Store, queues: list[str]) -> None:
        """Nobody is left to work for: end as on SIGTERM, which finishes what runs."""
        if self.spare is None:
            return
        with spare.deserted(self.spare) as alone:
            stand = store.counts(queues)
            if not alone or stand.running or stand.delayed or any(stand.depth.values()):
                return
            with store.guarded():
                if store.jobs.zcard(keys.WEBHOOKS):
                    return
            # Whoever comes next must not take us for one that works.
            store.ask(calls.leave(_member(consumer)))
            self.stop(consumer)
            os.kill(os.getpid(), signal.SIGTERM)


def _member(consumer: Any) -> str:
    """What stands for us in the table of workers: two may have one name."""
    return f"{consumer.hostname}#{os.getpid()}"


def _sweep(store: Store) -> None:
    try:
        store.blobs.sweep()
    except QueueUnavailable as exc:
        log.warning("queue.unavailable %s", exc)


def _restore(consumer: Any, *, on_close: bool) -> None:
    """
    Whether what was not acknowledged is given back when the connection is closed.

    Not when it was lost: kombu then asks a broker that is away, with a client that is gone, and
    what it does not catch ends the worker. Our jobs need it not; what is not ours comes again
    after the visibility timeout.
    """
    if consumer.connection and consumer.task_consumer:  # it may end before it ever had one
        for channel in (consumer.connection.default_channel, consumer.task_consumer.channel):
            channel.do_restore = on_close
