"""
`saggar serve`: runs and jobs over HTTP.

The walls are built once before it serves, and it says which they are: weaker ones than the floor
are a reason not to start.
"""

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from saggar.cli.arguments import Parser
from saggar.cli.instance import tell, wall
from saggar.errors import UsageError

if TYPE_CHECKING:
    from saggar.config import Settings

SUMMARY = "Runs and jobs over HTTP: POST /v1/runs, POST /v1/jobs, and what follows from them."
EXAMPLES = """\
examples:
  saggar serve
  saggar serve --port 8000
  curl localhost:8000/v1/runs -H 'Content-Type: application/json' -d '{"code": "print(6 * 7)"}'
  curl localhost:8000/v1/jobs -H 'Content-Type: application/json' -d '{"code": "print(6 * 7)"}'

SAGGAR_KEY is the key that callers have to show, SAGGAR_KEYS those of tenants: {"team-a": "..."}.
SAGGAR_CEILING is what callers may have; without one they get no network, no mounts, and the limits
that runs and jobs usually have. CELERY_BROKER_URL names the queue; without one it is our own.
"""
HOST, PORT = "127.0.0.1", "8000"


def main(words: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    options = parser().read(words)

    from saggar.server import require

    require()
    import anyio

    from saggar.config import load
    from saggar.model.policy import Policy
    from saggar.server.auth import Doors
    from saggar.server.routes import ALL, JOBS, application
    from saggar.server.serve import serve
    from saggar.telemetry import log

    settings = load()
    number = port(options, os.environ)
    log.configure(settings.log_level, settings.log_file)
    if options.jobs_only:
        tell("walls: none here, as nothing runs here; those of the workers")
    else:
        tell(f"walls: {anyio.run(wall, None, settings, settings.ceiling or Policy())}")
    tell(f"queue: {queue(settings)}")
    doors = Doors.of(settings, options.host).replace(keys=settings.keys)
    rooms = JOBS if options.jobs_only else ALL
    serve(application(settings, doors, rooms), options.host, number, doors, tell)
    return 0


def parser() -> Parser:
    """Everything `saggar serve` understands."""
    made = Parser("serve", SUMMARY, EXAMPLES)
    made.add_argument("--host", default=HOST, metavar="ADDRESS", help=f"where to listen ({HOST})")
    made.add_argument("--port", metavar="N", help=f"at which port; 0 for any ({PORT})")
    made.add_argument(
        "--jobs-only",
        action="store_true",
        help="run nothing here: no /v1/runs, and no walls are needed",
    )
    return made


def port(options: Namespace, environ: Mapping[str, str]) -> int:
    """Where to listen."""
    said = options.port or environ.get("PORT") or PORT
    if not said.isdecimal() or int(said) > 65535:
        raise UsageError(f"--port, PORT: wanted a number up to 65535, found {said!r:.60}")
    return int(said)


def queue(settings: "Settings") -> str:
    """Which one it is, without asking it: runs do not need it."""
    from saggar.config import queue_urls, state_dir
    from saggar.jobs.broker import plain, redacted

    broker, _ = queue_urls(settings)
    return redacted(plain(broker)) if broker else f"our own, in {state_dir(settings)}"
