"""`saggar ps`: what lives in this user's processes, and what it uses now."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import Parser
from saggar.cli.main import complain, say
from saggar.errors import UsageError

if TYPE_CHECKING:
    from saggar.sessions.table import Row, Table

SUMMARY = "The live sandboxes and sessions of all your processes, with what they use now."
EXAMPLES = """\
examples:
  saggar ps
  saggar ps --watch
  saggar ps --watch 5s --json
  saggar ps --json | jq -r '.live[] | select(.busy == false) | .id'

State: busy, idle or paused of a session; open or paused of a sandbox; silent where the process that
has it does not answer. What was lost with a process that was killed is said once, on stderr. As
JSON: {"live": [...], "lost": [...]}, sizes in bytes and times in seconds; one line for each look
with --watch. Exit code: 0; 130 for a watch that was ended with Ctrl-C.
"""
TITLES = ("ID", "KIND", "STATE", "AGE", "USED", "CELLS", "MEMORY", "CPU", "PROCS", "DRIVER", "PID")
CLEAR = "\x1b[H\x1b[2J"
SPANS = ((86400, "d"), (3600, "h"), (60, "m"))


def main(words: Sequence[str]) -> int:
    """Look once, or until Ctrl-C."""
    options = parser().read(words)
    pause = _pause(options.watch)

    import anyio

    from saggar.cli.live import table

    rows = table()
    if pause is None:
        anyio.run(show, rows, options.json)
    else:
        anyio.run(watch, rows, pause, options.json)
    return 0


def parser() -> Parser:
    """Everything `saggar ps` understands."""
    made = Parser("ps", SUMMARY, EXAMPLES)
    made.add_argument(
        "--watch",
        nargs="?",
        const="1s",
        metavar="TIME",
        help="look again and again, each TIME (1s)",
    )
    made.add_argument("--json", action="store_true", help="print it as one JSON document")
    return made


def _pause(said: str | None) -> float | None:
    from saggar.model.quantity import parse_seconds

    if said is None:
        return None
    try:
        pause: float = parse_seconds(said)
    except ValueError as exc:
        raise UsageError(f"--watch: {exc}") from None
    if not 0.1 <= pause <= 86400:
        raise UsageError(f"--watch: wanted a time from 0.1s to a day, found {said!r:.60}")
    return pause


async def watch(table: "Table", pause: float, as_json: bool) -> None:  # noqa: FBT001 - as show
    """For ever."""
    import anyio

    while True:
        await show(table, as_json, over=sys.stdout.isatty() and not as_json)
        await anyio.sleep(pause)


async def show(table: "Table", as_json: bool, *, over: bool = False) -> None:  # noqa: FBT001
    """One look; `over` what the last one has left on the terminal."""
    from saggar.cli.live import losses
    from saggar.sessions.reach import look_at_all

    lost = table.lost()
    live = [
        {**row, "silent": look.silent} for look in await look_at_all(table) for row in look.rows
    ]
    live.sort(key=lambda row: row["created"])
    if as_json:
        say(document(live, lost) + "\n")
        return
    if said := losses(lost):
        complain(said)
    now = time.time()
    say(
        (CLEAR if over else "")
        + "\n".join(lines(TITLES, *(cells(row, now) for row in live)))
        + "\n"
    )


def document(live: Sequence[Mapping[str, Any]], lost: "Sequence[Row]") -> str:
    """For programs."""
    from dataclasses import asdict

    return json.dumps({"live": list(live), "lost": [asdict(row) for row in lost]})


def cells(row: Mapping[str, Any], now: float) -> tuple[str, ...]:
    """A line of the table."""
    from saggar.model.quantity import format_bytes
    from saggar.sessions.reach import SHORT

    memory, cpu, used = row.get("memory"), row.get("cpu"), row.get("used")
    kind = " ".join(filter(None, (row["kind"], row.get("language"), row.get("engine"))))
    return (
        row["id"][:SHORT],
        kind,
        state(row),
        span(now - row["created"]),
        "-" if used is None else f"{span(now - used)} ago",
        _or_dash(row.get("execution_count")),
        "-" if memory is None else format_bytes(memory),
        "-" if cpu is None else f"{cpu:.2f}s",
        _or_dash(row.get("processes")),
        " ".join(filter(None, (row["driver"], row["owner"] and f"({plain(row['owner'])})"))),
        str(row["pid"]),
    )


def state(row: Mapping[str, Any]) -> str:
    """In a word."""
    if row.get("silent"):
        return "silent"
    if row.get("paused"):
        return "paused"
    if row["kind"] == "sandbox":
        return "open"
    return "busy" if row.get("busy") else "idle"


def span(seconds: float) -> str:
    """About how long: 7s, 3m, 2h, 4d."""
    for length, unit in SPANS:
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def lines(*rows: Sequence[str]) -> Iterator[str]:
    """Rows in columns as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def plain(text: str) -> str:
    """Whatever it is, it does not move the cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


def plain_json(text: str) -> str:
    """The same of JSON, which says what is not shown in another way."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
