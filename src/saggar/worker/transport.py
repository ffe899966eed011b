"""
Kombu's transport for Redis, as a worker of ours uses it: less is said to the broker for each job.

A message of ours need not be kept a second time while a worker has it: a job whose message was lost
with its worker gets another one, see `saggar.jobs.recover`. All others are kept as kombu does.
Measured in docs/decisions/0012.
"""

import logging
from typing import Any, Final

from kombu import transport
from kombu.transport import redis, virtual

from saggar.jobs.message import OURS

log = logging.getLogger("saggar.jobs")
_PATH: Final = f"{__name__}:Transport"


def install() -> None:
    """Have this process reach its broker by it, under the usual URLs; before it first does."""
    transport.TRANSPORT_ALIASES.update(redis=_PATH, rediss=_PATH)


class QoS(redis.QoS):
    """What was delivered and is not acknowledged."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """
        One that is ours is known here only.

        So is one that a full server does not take: it has given it out already, and would not take
        it back.
        """
        if OURS not in message.headers:
            try:
                super().append(message, delivery_tag)
            except self.channel.ResponseError:
                log.warning("message.unkept %s", delivery_tag)
            else:
                return
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """It was worked off, or will not be."""
        if self._of_ours(delivery_tag):
            virtual.QoS.ack(self, delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """The same; what is handed back and ours is sent again by whoever keeps time."""
        if self._of_ours(delivery_tag):
            virtual.QoS.ack(self, delivery_tag)
        else:
            super().reject(delivery_tag, requeue)

    def _of_ours(self, delivery_tag: str) -> bool:
        message = self._delivered.get(delivery_tag)
        return message is not None and OURS in message.headers


class Channel(redis.Channel):
    """A channel that survives the loss of its connection, with one client for all it says."""

    QoS = QoS
    _said_by: Any = None

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: FBT001, FBT002
        """
        Acknowledge, unless the connection was lost since.

        It is too late then: the message comes again and is dropped. But kombu's complaint of a
        closed channel is none that Celery catches, and would end the worker.
        """
        if not self.closed:
            super().basic_ack(delivery_tag, multiple)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        """The same."""
        if not self.closed:
            super().basic_reject(delivery_tag, requeue)

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Kombu makes one for each command, which takes longer than the command."""
        if asynchronous:
            return super()._create_client(asynchronous)
        if self._said_by is None:
            self._said_by = super()._create_client()
        return self._said_by

    def _disconnect_pools(self) -> None:
        self._said_by = None  # its pool is gone
        super()._disconnect_pools()


class Transport(redis.Transport):
    """Kombu's, with channels of ours."""

    Channel = Channel


class Gathered:
    """
    The events of tasks, told a few times a second instead of one by one.

    Telling one takes as long as taking a message in. Each has its own time, so whoever looks on
    learns the same, a little later.
    """

    EVERY: Final = 0.1
    """Seconds."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._due = False
        consumer.event_dispatcher.on_send_buffered = self._later

    def _later(self) -> None:
        if not self._due:
            self._due = True
            self._consumer.timer.call_after(self.EVERY, self._now)

    def _now(self) -> None:
        self._due = False
        if dispatcher := self._consumer.event_dispatcher:
            dispatcher.flush()
