"""
Every event of this folder through the worker, and what has to come of each: `make test-handler`.

Beside its input a file says what to expect, and how many times it comes; workers read the input
only. The packages beside Saggar are visible to all of them, as in the workers' images.
"""

import asyncio
import json
import os
import pickle
import sys
import time
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saggar.compat.runpod_worker import Worker, terms

FOLDER = Path(__file__).parent


def main() -> int:
    """How many of them did not end as they should."""
    worker = Worker(terms({**os.environ, "EXECUTION_HOST_PACKAGES": "true"}))
    failed = 0
    for path in sorted(FOLDER.glob("test_*.json")):
        began = time.monotonic()
        complaints = list(run(worker, json.loads(path.read_text())))
        print(
            f"{'FAIL' if complaints else 'ok':<5}{path.stem:<28}{time.monotonic() - began:6.2f} s"
        )
        for complaint in complaints:
            print(f"     {complaint}")
        failed += bool(complaints)
    return failed


def run(worker: Worker, case: dict[str, Any]) -> Iterable[str]:
    """What is wrong with the last response to a case."""
    response: dict[str, Any] = {}
    for _ in range(case.get("times", 1)):
        response = asyncio.run(worker.handle({"input": case["input"]}))
    return complaints(response, case["expect"])


def complaints(response: dict[str, Any], expect: dict[str, Any]) -> Iterable[str]:
    """Where a response is not as expected."""
    if not response["success"]:
        yield f"failed: {response['error']}"
        return
    if (found := value(response)) != expect["value"]:
        yield f"wanted {expect['value']!r}, found {found!r}"
    about = response["instance_info"] or {}
    for key, field in (("class", "class_name"), ("calls", "method_calls")):
        if key in expect and about.get(field) != expect[key]:
            yield f"{field}: wanted {expect[key]!r}, found {about.get(field)!r}"
    yield from misplaced(response["stdout"], expect.get("in_order", [expect.get("stdout", "")]))


def misplaced(printed: str, lines: list[str]) -> Iterable[str]:
    """The lines that do not come one after the other."""
    place = 0
    for line in lines:
        place = printed.find(line, place)
        if place < 0:
            yield f"stdout: {line!r} is not where it should be in {printed!r}"
            return


def value(response: dict[str, Any]) -> Any:
    """As a client reads it: these answers are of our own code."""
    if response["result"] is None:
        return response["json_result"]
    return pickle.loads(b64decode(response["result"]))


if __name__ == "__main__":
    sys.exit(min(main(), 125))
