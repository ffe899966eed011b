"""
What takes time, said while it takes it.

On a terminal the line is written over and disappears when the work is done; in a log each stays.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from saggar.cli.main import complain

_ERASE = "\r\x1b[K"
BAR = 20


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function to call with each step."""
    if quiet:
        yield _silent
    elif sys.stderr.isatty():
        try:
            yield _over
        finally:
            _write(_ERASE)
    else:
        yield complain


def _silent(_: str) -> None:
    """Nobody wants to know."""


def _over(line: str) -> None:
    width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    _write(f"{_ERASE}saggar: {with_bar(line)}"[: width + len(_ERASE) - 1])


def with_bar(line: str) -> str:
    """A line that says how many per cent there are, with a bar of it."""
    found = re.search(r"\b([0-9]{1,3}) %", line)
    if found is None:
        return line
    done = min(100, int(found[1])) * BAR // 100
    return f"[{'#' * done}{'-' * (BAR - done)}] {line}"


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
