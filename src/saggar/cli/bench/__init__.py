"""
`saggar bench`: the numbers, beside what one would use instead, in one run on one machine.

How each is measured is told in docs/benchmarks.md; the rows are in `ours` and `peers`.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence

from saggar.cli.arguments import Parser
from saggar.cli.bench.row import FULL, SMOKE, Effort, Row
from saggar.cli.main import say
from saggar.errors import NotFound, SaggarError

SUMMARY = "Measure this machine, and what one would use instead on it, in one run."
EXAMPLES = """\
examples:
  saggar bench
  saggar bench --smoke              the same code with a few runs each, for tests; says little
  saggar bench --only run peers --json
Exit code: 0 if everything was measured, whether or not a target was met; 70 if something failed.
"""
FAILED = 70


def main(words: Sequence[str]) -> int:
    """Measure, then print the table."""
    options = arguments(words)
    effort = SMOKE if options.smoke else FULL
    # Before the first measurement: afterwards it is our own.
    load = os.getloadavg()[0]
    rows: list[Row] = []
    for name, measure in chosen(options.only):
        print(f"measuring: {name}", file=sys.stderr)
        rows += attempt(name, measure, effort)

    from saggar.cli.bench import table

    say((table.as_json if options.json else table.as_text)(rows, load) + "\n")
    return FAILED if any(row.failed for row in rows) else 0


def arguments(words: Sequence[str]) -> Namespace:
    """What was asked for."""
    parser = Parser("bench", SUMMARY, EXAMPLES)
    parser.add_argument("--smoke", action="store_true", help="a few runs each, in seconds")
    parser.add_argument(
        "--only", nargs="+", action="extend", metavar="NAME", help=", ".join(measurements())
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.read(words)


Measure = Callable[[Effort], list[Row]]


def measurements() -> dict[str, Measure]:
    """Every measurement by its name, in the order of the table."""
    from saggar.cli.bench import (
        drain,
        environments,
        jobs,
        kernels,
        ours,
        peers,
        remote,
        sessions,
        typed,
    )

    return {
        "run": ours.fresh,
        "numpy": ours.with_numpy,
        "sustained": ours.sustained,
        "cold": ours.cold,
        "memory": ours.memory,
        "output": ours.output,
        "import": ours.imports,
        "process": ours.process,
        "local": typed.local,
        "sandbox": typed.sandboxed,
        "container": typed.contained,
        "session": sessions.sessions,
        "sessions": sessions.many,
        "kernels": kernels.kernels,
        "environment": environments.rows,
        "remote": remote.remotes,
        "jobs": jobs.jobs,
        "drain": drain.drain,
        "peers": peers.peers,
    }


def chosen(only: Sequence[str] | None) -> Iterator[tuple[str, Measure]]:
    """The measurements asked for. NotFound for a name there is not."""
    known = measurements()
    for name in only or ():
        if name not in known:
            raise NotFound.among("measurement", name, known)
    yield from ((name, measure) for name, measure in known.items() if not only or name in only)


def attempt(name: str, measure: Measure, effort: Effort) -> list[Row]:
    """A measurement that fails is a row that says so; the others still count."""
    try:
        return measure(effort)
    except* (SaggarError, OSError) as group:
        reason = "; ".join(map(str, group.exceptions))
    return [Row(title=name, command="", note=f"failed: {reason}", failed=True)]
