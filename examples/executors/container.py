"""The same in a container of the Python runner (make build-runner-python)."""

from dataclasses import dataclass
from pathlib import Path

from saggar import ContainerExecutor


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


STATS = Path(__file__).resolve().with_name("stats.py")

executor = ContainerExecutor[Input, Output](
    "saggar/runner-python:latest",
    disable_net=True,
    memory="256MiB",
    timeout="10s",
    mounts=[(str(STATS), "/app/execute.py")],
)

if __name__ == "__main__":
    output = executor(Input([1, 2, 3, 4, 5]))
    print(f"count {output.count}, sum {output.sum}, mean {output.mean}")
