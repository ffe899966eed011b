"""`saggar worker`: Celery's worker on our application, with defaults that suit sandboxes."""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib.util import find_spec

from saggar.cli.arguments import Parser, split
from saggar.cli.main import say
from saggar.errors import UsageError

SUMMARY = "Work off what was submitted, until SIGTERM."
EXAMPLES = """\
examples:
  saggar worker
  saggar worker --queue code_execution_heavy --concurrency 2
  saggar worker -- --autoscale=8,2 --max-tasks-per-child=1000

It is `celery -A saggar.worker worker`; what follows -- is Celery's own. Without --queue it reads
both of ours. SIGTERM lets what runs come to its end, 10s at most, and hands back the rest.
"""
LEVELS = ("debug", "info", "warning", "error", "critical")


def main(words: Sequence[str]) -> int:
    """Become the worker."""
    ours, theirs = split(words)
    options = parser().read(ours)
    if find_spec("celery") is None:
        raise UsageError("a worker needs celery: pip install 'saggar[jobs]'")
    say("")  # what is waiting to be written is ours still
    os.execv(sys.executable, argv(options, theirs))


def parser() -> Parser:
    """Everything `saggar worker` understands before `--`."""
    made = Parser("worker", SUMMARY, EXAMPLES)
    made.usage = "saggar worker [OPTION...] [-- CELERY'S OPTION...]"
    made.elsewhere = "Celery's own options go after --"
    made.add_argument(
        "--queue",
        metavar="NAME",
        action="append",
        default=[],
        help="what to read; several times for several (code_execution, code_execution_heavy)",
    )
    made.add_argument(
        "--concurrency", metavar="N", help="how many jobs at once (as many as there are processors)"
    )
    made.add_argument("--name", metavar="NAME", help="what it is called (saggar-PID@HOST)")
    made.add_argument("--loglevel", choices=LEVELS, default="info", help="what it tells (info)")
    return made


def named(names: str) -> str:
    """Queues that there can be, separated by commas. UsageError."""
    from pydantic import TypeAdapter, ValidationError

    from saggar.jobs.job import QueueName

    for name in names.split(","):
        try:
            TypeAdapter(QueueName).validate_python(name)
        except ValidationError as exc:
            raise UsageError(f"--queue: {exc.errors()[0]['ctx']['error']}") from None
    return names


def argv(options: Namespace, theirs: Sequence[str]) -> list[str]:
    """The whole command line."""
    number = options.concurrency or str(len(os.sched_getaffinity(0)))
    if not (number.isdecimal() and int(number)):
        raise UsageError(f"--concurrency: wanted a number above 0, found {number!r:.60}")
    queues = [word for name in options.queue for word in ("--queue", named(name))]
    scaled = any(word.startswith(("-c", "--concurrency", "--autoscale")) for word in theirs)
    return [
        *(sys.executable, "-m", "celery", "-A", "saggar.worker", "worker"),
        f"--loglevel={options.loglevel}",
        *("-n", options.name or f"saggar-{os.getpid()}@%h"),
        # Workers need not know each other: what they have to say is in the queue.
        *("--without-gossip", "--without-mingle"),
        *([] if scaled else [f"--concurrency={number}"]),
        *queues,
        *theirs,
    ]
