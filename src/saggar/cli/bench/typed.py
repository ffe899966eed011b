"""Typed executors: a call in this process, behind walls, in a container; each beside its peers."""

import asyncio
import shutil
import subprocess
import timeit
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from time import perf_counter
from typing import Any

from saggar.cli.bench import golang
from saggar.cli.bench.row import Effort, Row, median, timed
from saggar.errors import SaggarError
from saggar.functions.container import ContainerExecutor
from saggar.functions.local import LocalExecutor
from saggar.functions.sandbox import SandboxExecutor

VALUES = [1.0, 2.0, 3.0, 4.0, 5.0]
SCHEMA_IN = {"type": "array", "items": {"type": "number"}}
SCHEMA_OUT = {
    "type": "object",
    "properties": {
        "count": {"type": "integer"},
        "sum": {"type": "number"},
        "mean": {"type": "number"},
    },
    "required": ["count", "sum", "mean"],
}
IMAGE = "saggar/runner-python:latest"
PYTHON = """
def describe(values):
    return {"count": len(values), "sum": float(sum(values)), "mean": sum(values) / len(values)}
"""
NODE = """
export function describe(values) {
  const sum = values.reduce((a, b) => a + b, 0);
  return { count: values.length, sum, mean: sum / values.length };
}
"""
GO = """
package main

type Stats struct {
	Count int     `json:"count"`
	Sum   float64 `json:"sum"`
	Mean  float64 `json:"mean"`
}

func Describe(values []float64) (Stats, error) {
	sum := 0.0
	for _, value := range values {
		sum += value
	}
	return Stats{len(values), sum, sum / float64(len(values))}, nil
}
"""
EXECUTE = PYTHON.replace("describe", "execute_function")


def describe(values: list[float]) -> dict[str, float]:
    """Count, sum and mean: the work itself."""
    total = 0.0
    for value in values:
        total += value
    return {"count": len(values), "sum": total, "mean": total / len(values)}


def local(effort: Effort) -> list[Row]:
    """A call in this process with a deadline, without schemas and with two."""
    calls = 20 * effort.repeated
    bare = _nanoseconds(describe, calls)
    plain = _nanoseconds(LocalExecutor(describe), calls)
    checked = LocalExecutor(describe, schema_in=SCHEMA_IN, schema_out=SCHEMA_OUT)
    both = _nanoseconds(checked, calls)
    return [
        _row("bare call of the same function", "describe(values)", bare, calls),
        _over(
            "LocalExecutor, deadline, no schema", "LocalExecutor(describe)", plain, bare, 130, calls
        ),
        _over(
            "the same, schemas on both sides",
            "LocalExecutor(describe, schema_in=..., schema_out=...)",
            both, bare, 650, calls,
        ),
        *_local_peers(max(1, calls // 10)),
        *golang.rows(seconds=effort.seconds / 6),
    ]  # fmt: skip


def _local_peers(calls: int) -> list[Row]:
    from pydantic import validate_call

    validated = validate_call(validate_return=True)(describe)
    rows = [_row("pydantic validate_call", "no deadline", _nanoseconds(validated, calls), calls)]
    try:
        validator = import_module("jsonschema").Draft202012Validator
    except ImportError:
        return [*rows, Row(title="jsonschema on both sides", command="", note="not installed")]
    before, after = validator(SCHEMA_IN), validator(SCHEMA_OUT)

    def call(values: list[float]) -> dict[str, float]:
        before.validate(values)
        answer = describe(values)
        after.validate(answer)
        return answer

    found = _nanoseconds(call, calls // 10 or 1)
    return [*rows, _row("jsonschema on both sides", "no deadline", found, calls // 10 or 1)]


def sandboxed(effort: Effort) -> list[Row]:
    """The same behind the walls of a jail, in three languages, schemas on both sides."""
    wanted = (("python", PYTHON, "describe", 2e-3), ("node", NODE, "describe", 60e-3),
              ("go", GO, "Describe", 15e-3))  # fmt: skip
    return [_sandboxed(effort, *each) for each in wanted]


def _sandboxed(effort: Effort, language: str, source: str, entry: str, within: float) -> Row:
    title = f"SandboxExecutor, {language}, warm jail, both schemas"
    command = f"SandboxExecutor(source, language={language!r}, entry={entry!r}, ...)(values)"
    executor = SandboxExecutor[Any, Any](
        source, language=language, entry=entry, schema_in=SCHEMA_IN, schema_out=SCHEMA_OUT
    )
    n = effort.repeated if language == "python" else max(3, effort.others)
    return _measured(title, command, executor, n, within)


def contained(effort: Effort) -> list[Row]:
    """The same in a container: one that waits, and one that has to be started."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, "execute.py")
        module.write_text(EXECUTE, encoding="utf-8")
        module.chmod(0o644)
        Path(folder).chmod(0o755)
        executor = ContainerExecutor[Any, Any](
            IMAGE,
            mounts=[(str(module.resolve()), "/app/execute.py")],
            schema_in=SCHEMA_IN,
            schema_out=SCHEMA_OUT,
        )
        n = max(3, effort.others // 3)
        call = f"ContainerExecutor({IMAGE!r}, ...)(values)"
        warm = _measured("ContainerExecutor, warm", call, executor, n, 60e-3, pause=0.5)
        return [warm, *_cold(executor, max(3, effort.starts // 3))]


def _cold(executor: ContainerExecutor[Any, Any], n: int) -> list[Row]:
    """On a platform from nothing, in turns with the engine's own command line."""
    from saggar.platform import Platform

    async def once() -> float:
        start = perf_counter()
        async with Platform() as platform:
            executor.judge(await platform.run(executor.request(VALUES), policy=executor.policy,
                                              driver="docker"))  # fmt: skip
            return perf_counter() - start

    words = ["docker", "run", "--rm", "--network", "none", IMAGE]
    if shutil.which("docker") is None:
        return []
    ours, theirs = [], []
    try:
        for _ in range(n):
            ours.append(asyncio.run(once()))
            start = perf_counter()
            subprocess.run(words, input=b'{"input":[1]}', capture_output=True, check=True)
            theirs.append(perf_counter() - start)
    except (SaggarError, OSError, subprocess.SubprocessError) as exc:
        return [Row(title="ContainerExecutor, cold", command="", note=f"does not work here: {exc}")]
    row = timed("ContainerExecutor, cold", "async with Platform(): ...", ours)
    limit = median(theirs) + 50e-3
    return [
        replace(row, target="docker run + 50 ms", met=(row.median or limit) <= limit),
        timed("docker run of the same image", " ".join(words), theirs),
    ]


def _measured(  # noqa: PLR0913, PLR0917 - what, how often, how fast
    title: str, command: str, executor: Any, n: int, within: float, pause: float = 0.0
) -> Row:
    """A row of calls one after the other; one that says why where there is nothing to measure."""
    import time

    times = []
    try:
        for _ in range(3):
            executor(VALUES)
        for _ in range(n):
            time.sleep(pause)  # until the next one is parked: what is measured is a warm call
            start = perf_counter()
            executor(VALUES)
            times.append(perf_counter() - start)
    except SaggarError as exc:
        return Row(title=title, command=command, note=f"does not work here: {exc}"[:200])
    row = timed(title, command, times)
    return replace(row, target=f"{within * 1e3:g} ms", met=median(times) <= within)


def _nanoseconds(function: Callable[[list[float]], object], calls: int) -> float:
    """The least of seven rounds: what is more is somebody else's."""
    timer = timeit.Timer("function(values)", globals={"function": function, "values": VALUES})
    return min(timer.repeat(7, calls)) / calls * 1e9


def _row(title: str, command: str, nanoseconds: float, n: int) -> Row:
    return Row(title=title, command=command, n=n, amount=nanoseconds, unit="ns")


def _over(title: str, command: str, found: float, bare: float, most: int, n: int) -> Row:  # noqa: PLR0913, PLR0917
    row = _row(title, command, found, n)
    return replace(
        row, target=f"bare + {most} ns", met=found - bare <= most, note=f"bare + {found - bare:.0f}"
    )
