"""A thousand calls, each in a jail of its own, and how far they are."""

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from time import monotonic

import saggar

EVERY = 0.1
"""Seconds between two looks of the bar; nobody reads faster."""


@saggar.remote(timeout=5)
def steps(n: int) -> int:
    """How many steps Collatz needs from n to 1."""
    count = 0
    while n != 1:
        n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
    return count


def shown(answers: Iterable[int], of: Sized) -> Iterator[int]:
    """The same answers, and a bar on stderr while they come, if that is a terminal."""
    if not sys.stderr.isatty():
        yield from answers
        return
    begun = due = monotonic()
    done = 0
    for done, answer in enumerate(answers, 1):
        if (now := monotonic()) >= due or done == len(of):
            due = now + EVERY
            print(
                f"\r{line(done, len(of), now - begun)}\x1b[K", end="", file=sys.stderr, flush=True
            )
        yield answer
    print(file=sys.stderr)


def line(done: int, of: int, seconds: float) -> str:
    """The bar as wide as the terminal has room: in its last column some begin a new line."""
    said = f" {done}/{of} {done / seconds if seconds else 0:.0f}/s"
    columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    room = max(0, columns - 1 - len(said) - 2)
    full = room * done // of
    return f"[{'#' * full}{' ' * (room - full)}]{said}"


if __name__ == "__main__":
    numbers = range(1, 1001)
    answers = shown(steps.map(numbers), of=numbers)
    longest, best = max((count, -number) for number, count in zip(numbers, answers, strict=True))
    print(f"longest below 1001: {-best}, {longest} steps")
