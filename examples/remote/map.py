"""A thousand calls, each in a jail of its own, and how far they are."""

import sys

import saggar


@saggar.remote(timeout=5)
def steps(n: int) -> int:
    """How many steps Collatz needs from n to 1."""
    count = 0
    while n != 1:
        n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
    return count


def shown(done: int, of: int) -> None:
    """A bar, where somebody looks."""
    if sys.stderr.isatty():
        full = 40 * done // of
        print(f"\r[{'#' * full}{' ' * (40 - full)}] {done}/{of}", end="", file=sys.stderr)


if __name__ == "__main__":
    longest, best = 0, 0
    for number, count in enumerate(steps.map(range(1, 1001)), 1):
        shown(number, 1000)
        if count > longest:
            longest, best = count, number
    print(f"\nlongest below 1001: {best}, {longest} steps")
