"""
What Celery is told: how it reaches the broker, and what it may decide by itself, which is little.

Attempts, leases, retries and results are ours, see `store`; a message of Celery's only says which
job is next. Every option below has its reason in docs/decisions/0012.
"""

from typing import Any, Final

from saggar.errors import PlatformError
from saggar.jobs.broker import Endpoints, celery_url
from saggar.jobs.job import HEAVY, STANDARD
from saggar.jobs.message import BURY, EXECUTE, EXECUTE_HEAVY
from saggar.jobs.queue import KEPT

VISIBLE: Final = 900
"""
Seconds after which a message that nobody acknowledged is given to another worker: more than a heavy
job and its longest pause before another try take. Second copies are dropped, they have no lease.
"""
QUEUES: Final = (STANDARD, HEAVY)
_SOCKET: Final = {"health_check_interval": 10, "socket_timeout": 30}


def options(where: Endpoints) -> dict[str, Any]:
    """Celery's configuration."""
    kombu = _kombu()
    network = where.broker.startswith("redis")
    return {
        "broker_url": celery_url(where.broker),
        "result_backend": celery_url(where.results),
        "broker_connection_retry_on_startup": True,
        # A server that is full, or cannot write, refuses: that passes, as a lost connection does.
        "broker_channel_error_retry": True,
        "broker_transport_options": {
            "visibility_timeout": VISIBLE,
            **_SOCKET,
            **({"socket_keepalive": True} if network else {}),
        },
        "result_backend_transport_options": {"visibility_timeout": VISIBLE},
        "visibility_timeout": VISIBLE,
        "redis_socket_keepalive": where.results.startswith("redis"),
        "redis_backend_health_check_interval": 10,
        # Each with a key of its own: one that two are bound to would fill both.
        "task_queues": [kombu.Queue(name, routing_key=name) for name in QUEUES],
        "task_default_queue": STANDARD,
        "task_routes": {EXECUTE_HEAVY: {"queue": HEAVY}, EXECUTE: {"queue": STANDARD}, BURY: {}},
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_expires": int(KEPT),
        "result_extended": True,
        "task_track_started": True,
        "task_send_sent_event": False,
        "worker_send_task_events": True,
        # Late, as what dies with its worker must not count as done; our leases find it sooner.
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 10,
        "worker_enable_soft_shutdown_on_idle": True,
        "task_soft_time_limit": 240,
        "task_time_limit": 300,
    }


def application() -> Any:
    """A Celery application without tasks; who owns its broker is asked when it is first used."""
    try:
        from celery import Celery
    except ImportError:
        raise PlatformError("a worker needs celery: pip install 'saggar[jobs]'") from None
    return Celery("saggar")


def _kombu() -> Any:
    import kombu

    return kombu
