"""
The Celery application: `celery -A saggar.worker worker`, `flower`, `inspect`, as documented.

Its tasks are thin: what happens to a job is decided in `saggar.jobs`.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from celery import signals
from click import ClickException, Option, get_current_context

from saggar import registry
from saggar.config import Settings, load
from saggar.errors import QueueUnavailable, UsageError
from saggar.jobs import celery, spare
from saggar.jobs.broker import Endpoints, celery_url, endpoints
from saggar.jobs.store import blobs_of
from saggar.worker import logs, tasks, transport
from saggar.worker.station import leave
from saggar.worker.timer import Timer


@cache
def settings() -> Settings:
    """Whoever started us passes his own; else they are in the environment."""
    if said := os.environ.get(spare.SETTINGS):
        return Settings.model_validate_json(said)
    return load()


def _options() -> dict[str, Any]:
    with _said_to_celery():
        where = endpoints(settings())
        blobs_of(settings(), where)  # one that cannot be had is said now, not with the first job
    _respell(where)
    return celery.options(where)


@contextmanager
def _said_to_celery() -> Iterator[None]:
    """Under one of Celery's commands a mistake is a line and an exit code, as its own are."""
    try:
        yield
    except (UsageError, QueueUnavailable) as exc:
        if get_current_context(silent=True) is None:
            raise
        raise (_Refused if isinstance(exc, UsageError) else _Away)(str(exc)) from None


class _Refused(ClickException):
    exit_code = 2


class _Away(ClickException):
    exit_code = 70


def _respell(where: Endpoints) -> None:
    """
    In Celery's spelling, what the environment says of the broker.

    Celery heeds these variables before any configuration, and knows no `unix://`; we know both.
    Ours are told the same, or they would disagree.
    """
    for url, names in (
        (where.broker, ("CELERY_BROKER_URL", "SAGGAR_BROKER_URL")),
        (where.results, ("CELERY_RESULT_BACKEND", "SAGGAR_RESULT_BACKEND")),
    ):
        for name in names:
            if os.environ.get(name):
                os.environ[name] = celery_url(url)


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


@signals.celeryd_init.connect
def _reach(**_: Any) -> None:
    transport.install()


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
