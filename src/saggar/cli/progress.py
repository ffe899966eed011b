"""
What takes time, said while it takes it.

On a terminal the line is written over and disappears when the work is done; in a log each stays.
"""

import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from saggar.cli.main import complain

T = TypeVar("T")

_ERASE = "\r\x1b[K"
BAR = 20


def until_ended(work: Callable[[], Awaitable[T]]) -> T:
    """
    Do what takes time, and end it in order when a signal says so: nothing half-made stays.

    Raises:
        SystemExit: SIGTERM or SIGHUP, once all of it has ended.
    """
    import anyio

    caught: list[int] = []
    # Whoever starts us under nohup wants us to outlive the terminal.
    kinds = [one for one in (signal.SIGTERM, signal.SIGHUP) if not _ignored(one)]

    async def heed(scope: Any, *, task_status: Any) -> None:
        with anyio.open_signal_receiver(*kinds) as signals:
            task_status.started()
            async for number in signals:
                caught.append(number)
                scope.cancel()

    async def both() -> list[T]:
        done: list[T] = []
        async with anyio.create_task_group() as tasks:
            await tasks.start(heed, tasks.cancel_scope)
            done.append(await work())
            tasks.cancel_scope.cancel()
        return done

    done = anyio.run(both)
    if not done:
        raise SystemExit(128 + caught[0])
    return done[0]


def _ignored(kind: int) -> bool:
    return signal.getsignal(kind) is signal.SIG_IGN


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
