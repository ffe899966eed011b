"""`saggar runpod`: the worker protocol of RunPod, for one event or as a server on this machine."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saggar.cli.arguments import Parser
from saggar.cli.main import say
from saggar.errors import UsageError

SUMMARY = "A worker for RunPod's clients: one event from the command line, or a server for tests."
EXAMPLES = """\
examples:
  saggar runpod --test_input '{"input": {"function_name": "f",
      "function_code": "def f(): return 42", "serialization_format": "json"}}'
  saggar runpod --test_input @tests/handler/test_input.json
  saggar runpod --rp_serve_api --rp_api_port 8000
  saggar runpod --baked baked_code --rp_serve_api

What requests may touch is said by variables: EXECUTION_TIMEOUT (10min), EXECUTION_MEMORY (2GiB),
EXECUTION_CPUS, EXECUTION_PROCESSES, EXECUTION_NETWORK (none), EXECUTION_ISOLATION (jail),
EXECUTION_BEST_EFFORT, EXECUTION_GPU, EXECUTION_HOST_PACKAGES. TETRA_BAKED_MODE=true accepts
baked names only.
"""
HOST, PORT, AT_ONCE = "localhost", 8000, 4
LYING_THERE = "test_input.json"
"""What the SDK does where nothing else is said."""


def main(words: Sequence[str]) -> int:
    """One event, or a server until SIGTERM."""
    options = parser().read(words)
    said: str = options.test_input or os.environ.get("RUNPOD_TEST_INPUT", "")
    if not said and os.path.exists(LYING_THERE):
        said = f"@{LYING_THERE}"
    if not said and not options.rp_serve_api:
        raise UsageError(
            f"wanted --test_input EVENT, a file {LYING_THERE} or --rp_serve_api;"
            " see saggar runpod --help"
        )
    if options.rp_api_concurrency < 1:
        raise UsageError(f"--rp_api_concurrency: wanted 1 or more: {options.rp_api_concurrency}")
    if options.rp_log_level:
        os.environ["LOG_LEVEL"] = options.rp_log_level
    if options.rp_serve_api:
        from saggar.server import require

        require()

    from saggar.compat.runpod_log import show
    from saggar.compat.runpod_worker import configured

    show()

    registry = Path(options.baked) / "registry.json" if options.baked else None
    worker = configured(registry)
    if options.rp_serve_api:
        from saggar.compat.runpod_api import serve

        serve(worker, options.rp_api_host, options.rp_api_port, options.rp_api_concurrency)
        return 0
    found = asyncio.run(worker.handle(event(said)))
    say(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return 0 if found["success"] else 1


def parser() -> Parser:
    """Everything `saggar runpod` understands; the flags are RunPod's own."""
    made = Parser("runpod", SUMMARY, EXAMPLES)
    made.add_argument(
        "--test_input", metavar="EVENT", help="do this event and print its response; @FILE reads it"
    )
    made.add_argument(
        "--baked", metavar="FOLDER", help="accept what was baked into this folder, by name only"
    )
    made.add_argument(
        "--rp_serve_api", action="store_true", help="serve /run, /runsync, /status and the others"
    )
    made.add_argument("--rp_api_host", default=HOST, metavar="ADDRESS", help=f"where ({HOST})")
    made.add_argument(
        "--rp_api_port", default=PORT, type=int, metavar="N", help=f"at which port ({PORT})"
    )
    made.add_argument(
        "--rp_api_concurrency",
        default=AT_ONCE,
        type=int,
        metavar="N",
        help=f"events that are done at once ({AT_ONCE})",
    )
    made.add_argument("--rp_log_level", metavar="LEVEL", help="ERROR, WARN, INFO or DEBUG")
    return made


def event(said: str) -> dict[str, Any]:
    """An event from the command line, or from a file."""
    if said.startswith("@"):
        try:
            with open(said[1:], encoding="utf-8") as file:
                said = file.read()
        except OSError as exc:
            raise UsageError(f"--test_input: {exc.filename}: {exc.strerror}") from None
    try:
        found = json.loads(said)
    except ValueError as exc:
        raise UsageError(f"--test_input: it is not JSON: {exc}") from None
    if not isinstance(found, dict):
        raise UsageError("--test_input: wanted an object such as {'input': {...}}")
    return found
