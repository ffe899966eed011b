"""The bench as a table for people, and as a document for programs."""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import saggar
from saggar.cli.bench.row import Row

HEAD = ("work", "n", "median", "p95", "runs/s", "", "target", "", "")
WIDEST = 100


def as_text(rows: Sequence[Row], load: float) -> str:
    """The machine, the numbers, and the command behind each of them."""
    return "\n".join([machine_line(load), "", *columns(rows), "", "How:", *commands(rows)])


def as_json(rows: Sequence[Row], load: float) -> str:
    """The same with plain numbers: seconds, runs per second."""
    document = {
        "saggar": saggar.__version__,
        "machine": machine(load),
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(document, ensure_ascii=False, indent=2)


def columns(rows: Sequence[Row]) -> Iterator[str]:
    """Numbers below each other."""
    table = [HEAD, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        shown = [row[0].ljust(widths[0])]
        shown += [cell.rjust(width) for cell, width in zip(row[1:6], widths[1:6], strict=True)]
        shown += [cell.ljust(width) for cell, width in zip(row[6:], widths[6:], strict=True)]
        yield "  ".join(shown).rstrip()


def cells(row: Row) -> tuple[str, ...]:
    """One row as text."""
    return (
        row.title,
        str(row.n or "-"),
        milliseconds(row.median),
        milliseconds(row.p95),
        f"{row.rate:,.0f}" if row.rate else "",
        f"{row.amount:,.1f} {row.unit}" if row.amount is not None else "",
        row.target,
        {True: "met", False: "MISSED", None: ""}[row.met],
        row.note,
    )


def milliseconds(seconds: float | None) -> str:
    """Three digits, always in the same unit."""
    if seconds is None:
        return ""
    return f"{seconds * 1e3:.{2 if seconds < 10e-3 else 1 if seconds < 100e-3 else 0}f} ms"


def commands(rows: Sequence[Row]) -> Iterator[str]:
    """What was run for each row."""
    for row in rows:
        shown = row.command if len(row.command) <= WIDEST else row.command[: WIDEST - 3] + "..."
        yield f"  {row.title}: {shown}"


def machine_line(load: float) -> str:
    """The machine in one line."""
    here = machine(load)
    named = {"saggar": saggar.__version__, "Python": here.pop("python"), "load": here.pop("load")}
    cores = f"{here.pop('cores')} cores"
    return " · ".join(
        [*here.values(), cores, *(f"{name} {value}" for name, value in named.items())]
    )


def machine(load: float) -> dict[str, str]:
    """What the numbers depend on."""
    system = os.uname()
    return {
        "cpu": cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{system.sysname} {system.release} {system.machine}",
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else f"uid {os.geteuid()}",
        "load": f"{load:.2f}",
    }


def cpu_model() -> str:
    """What the processor calls itself."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line[:10] == "model name"]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
