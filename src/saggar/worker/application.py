"""
The Celery application: `celery -A saggar.worker worker`, `flower`, `inspect`, as documented.

Its tasks are thin: what happens to a job is decided in `saggar.jobs`.
"""

import gc
import os
from functools import cache
from importlib import import_module
from typing import Any

from celery import signals
from click import Option

from saggar import registry
from saggar.config import Settings, load
from saggar.jobs import celery, spare
from saggar.jobs.broker import endpoints
from saggar.worker import logs, tasks
from saggar.worker.station import leave
from saggar.worker.timer import Timer


@cache
def settings() -> Settings:
    """Whoever started us passes his own; else they are in the environment."""
    if said := os.environ.get(spare.SETTINGS):
        return Settings.model_validate_json(said)
    return load()


def _options() -> dict[str, Any]:
    return celery.options(endpoints(settings()))


app: Any = celery.application()
# Asked for when something is first done with the application: to import it starts no broker.
app.add_defaults(_options)


def _queue(context: Any, _option: Option, names: tuple[str, ...]) -> None:
    """`--queue=x` of older versions, which the documents use: the same as `--queues=x`."""
    said = [name for names in names for name in names.split(",")]
    if said:
        context.params["queues"] = [*(context.params.get("queues") or ()), *said]


app.user_options["worker"].add(
    Option(
        ("--queue",),
        multiple=True,
        expose_value=False,
        callback=_queue,
        help="A queue to read; the same as --queues.",
    )
)
tasks.register(app, settings)
app.steps["consumer"].add(Timer)


@signals.worker_init.connect
def _ready(**_: Any) -> None:
    _share()
    if path := settings().log_file:
        logs.to_file(path)


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def _leave(**_: Any) -> None:
    leave()


def _share() -> None:
    """What every child of the pool will need is loaded before they are forked, and stays shared."""
    for name in ("redis.asyncio", "saggar.drivers.jail.driver", "saggar.functions.codetools"):
        import_module(name)
    registry.language("python")
    # Or the collector would write to every page that they share.
    gc.collect()
    gc.freeze()
