"""The same behind the walls of a jail: for code that is not."""

from dataclasses import dataclass
from pathlib import Path

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


executor = saggar.Executor[Input, Output].from_source(
    Path(__file__).with_name("stats.py"),
    entry="describe",
    timeout="10s",
    limits={"memory": "256MiB"},
)

if __name__ == "__main__":
    output = executor(Input([1, 2, 3, 4, 5]))
    print(f"count {output.count}, sum {output.sum}, mean {output.mean}")
