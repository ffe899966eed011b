"""
The door from a queue: the Celery application, and what a worker process sets up.

    celery -A saggar.worker worker --loglevel=info --queue=code_execution
"""

from saggar.worker.application import app

__all__ = ["app"]
