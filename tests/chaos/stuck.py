"""
What happens to Celery's consumer after some broken connections, on demand.

A worker that includes this module answers pings and takes no message, until it connects anew; or
never, if STUCK says so.
"""

import os
from functools import partial
from typing import Any

from celery import signals

from saggar.worker import watch

vars(watch)["PATIENCE"] = 2.0  # a constant, but for those who have no time


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _stick(sender: Any, **_: Any) -> None:
    heard = sender.task_consumer.channel.qos
    heard.can_consume = partial(_only_commands, heard)
    if os.environ["STUCK"] == "for good":
        type(heard).can_consume = _only_commands


def _only_commands(qos: Any) -> bool:
    """Pings and the like come on a channel of their own, without a queue."""
    return not qos.channel.active_queues
