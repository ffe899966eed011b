"""What Celery takes for nothing: the application beside which jobs are measured."""

import os
from typing import Any, Final

from celery import Celery

BROKER: Final = "BENCH_BROKER"
RESULTS: Final = "BENCH_RESULTS"
QUEUE: Final = "noop"

app: Any = Celery("noop", broker=os.environ.get(BROKER), backend=os.environ.get(RESULTS))
app.conf.update(
    task_default_queue=QUEUE,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
    task_track_started=True,
    result_extended=True,
)


@app.task(name="noop")
def noop() -> None:
    """Nothing."""
