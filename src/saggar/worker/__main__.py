"""
`python -m saggar.worker`: the worker that clients of an embedded broker start, see `jobs.spare`.

With a broker of your own: `celery -A saggar.worker worker`.
"""

import os
import sys
from typing import Final

from saggar.config import state_dir
from saggar.jobs import spare
from saggar.worker.application import app, settings
from saggar.worker.timer import Timer

MOST: Final = 4


def main() -> int:
    """Work until nobody is left to work for."""
    state = state_dir(settings())
    if spare.take(state) is None:
        return 0  # somebody else works
    Timer.spare = state
    concurrency = min(MOST, len(os.sched_getaffinity(0)))
    words = [f"--concurrency={concurrency}", "-n", f"saggar-{os.getpid()}@%h"]
    app.worker_main(["worker", "--loglevel=info", *words, "--without-gossip", "--without-mingle"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
