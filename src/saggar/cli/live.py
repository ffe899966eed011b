"""What the commands for live sandboxes share: where they are listed, and what was lost."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saggar.sessions.table import Row, Table


def table() -> "Table":
    """The table that the settings of this shell lead to."""
    from saggar.config import load, runtime_dir
    from saggar.sessions.table import Table

    return Table(runtime_dir(load()))


def losses(rows: "Iterable[Row]") -> str:
    """A line about what is gone; empty if nothing is."""
    from saggar.sessions.reach import SHORT, distinct

    lost = [f"{row.kind} {row.id[:SHORT]}" for row in distinct(rows)]
    return f"lost with a process that was killed: {', '.join(lost)}" if lost else ""
