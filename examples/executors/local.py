"""A function of this process, with types and a deadline: for code that is trusted."""

from dataclasses import dataclass

import saggar


@dataclass
class Input:
    """What goes in."""

    values: list[float]


@dataclass
class Output:
    """What comes out."""

    count: int
    sum: float
    mean: float


def describe(given: Input) -> Output:
    """Count, sum and mean of the values."""
    total = sum(given.values)
    return Output(len(given.values), total, total / len(given.values))


executor = saggar.LocalExecutor[Input, Output](describe, timeout="10s")

if __name__ == "__main__":
    output = executor(Input([1, 2, 3, 4, 5]))
    print(f"count {output.count}, sum {output.sum}, mean {output.mean}")
