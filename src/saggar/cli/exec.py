"""
`saggar exec`: a function of a file, called with the JSON on stdin, its answer on stdout.

With `--` it is the other one: a program in a live sandbox, see `attach.py`. A function has no use
for words after `--`, and a program is nothing without them, so neither is taken for the other.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from saggar.cli.arguments import Parser, split
from saggar.cli.main import complain
from saggar.cli.options import surroundings
from saggar.errors import InvalidInput

SUMMARY = "Call a function of a program behind walls: JSON in, JSON out, checked on both sides."
EXAMPLES = """\
examples:
  echo '[1, 2, 3]' | saggar exec stats.py --entry describe
  saggar exec --schema-in in.json --schema-out out.json --entry describe stats.py < input.json
  saggar exec tool.mjs --entry convert --wall 3s --json < input.json
  saggar exec 4f3a -- ls -l          (a program in the live sandbox whose id begins so)

The answer goes to stdout as one line of JSON; what the program prints goes to stderr. With --json
the line is {"ok": true, "output": ...} or {"ok": false, "error": {"message", "code", "details"}}.
Exit code: 0; 1 the function failed, or answered what its schema does not allow; 124 timeout; 137
killed, or its limit of memory or output met; 2 a mistake in the call or the input; 70 ours.

A program in a live sandbox has our streams, on a terminal one of its own; its exit code is ours.
Before -- stand ID, --env K=V, --cwd FOLDER and --no-pty.
"""
LARGEST = 16 << 20
"""Bytes of an input."""


class Unread(InvalidInput):
    """What is on stdin is no input at all; `name` is what the container protocol calls that."""

    def __init__(self, problem: str, name: str) -> None:
        super().__init__(problem)
        self.name = name


def main(words: Sequence[str]) -> int:
    """Call it; the exit code says how that ended."""
    if "--" in words and not _entry(words):
        from saggar.cli import attach

        return attach.main(words)
    if not _entry(words):
        from saggar.cli.attach import refuse_an_id

        refuse_an_id(words)
    options = parser().read(words)

    from saggar.cli.request import driver, request
    from saggar.config import load
    from saggar.errors import GuestError
    from saggar.functions.sandbox import TaskExecutor

    settings = load()
    task, policy = request(options, (), settings.ceiling)
    executor = TaskExecutor[Any, Any](
        task,
        policy,
        driver=driver(options) or settings.driver,
        schema_in=options.schema_in,
        schema_out=options.schema_out,
    )
    try:
        result = executor.call(given())
        sys.stderr.write(result.stdout + result.stderr)
        say(executor.judge(result), as_json=options.json)
    except Unread as exc:
        return refuse(exc, exc.name, as_json=options.json)
    except InvalidInput as exc:
        return refuse(exc, "INPUT_VALIDATION", as_json=options.json)
    except GuestError as exc:
        return fail(exc, as_json=options.json)
    return 0


def _entry(words: Sequence[str]) -> bool:
    """Whether a function is named, before any `--`."""
    ours, _ = split(words)
    return any(word == "--entry" or word.startswith("--entry=") for word in ours)


def parser() -> Parser:
    """Everything that calling a function understands."""
    made = Parser("exec", SUMMARY, EXAMPLES)
    made.usage = (
        "saggar exec FILE --entry NAME [OPTION...] < INPUT\n"
        "       saggar exec ID [OPTION...] -- PROGRAM [ARGUMENT...]"
    )
    made.elsewhere = "a function has its input on stdin; a program follows saggar exec ID --"
    made.add_argument("file", metavar="FILE", help="the program's file")
    made.add_argument("--entry", metavar="NAME", required=True, help="the function to call")
    made.add_argument("--schema-in", metavar="FILE", help="JSON Schema of the input")
    made.add_argument("--schema-out", metavar="FILE", help="JSON Schema of the output")
    made.add_argument("--language", metavar="NAME", help="what it is written in (by its ending)")
    made.add_argument("--json", action="store_true", help="the answer or the failure as an object")
    surroundings(made)
    made.set_defaults(code=None, stdin=False, entry_input=None, output=[], value=False)
    return made


def given() -> Any:
    """The JSON on stdin."""
    from saggar.model.codec import JSON, decode_value

    data = sys.stdin.buffer.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise InvalidInput(f"more than {LARGEST:,} bytes")
    if not data.strip():
        raise Unread("nothing on stdin; wanted JSON", "NO_INPUT")
    try:
        return decode_value(data, JSON)
    except ValueError as exc:
        raise Unread(str(exc), "INVALID_JSON") from None


def say(value: object, *, as_json: bool) -> None:
    """The answer, as one line."""
    document = {"ok": True, "output": value} if as_json else value
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")


def refuse(exc: Any, code: str, *, as_json: bool, details: str = "") -> int:
    """What is wrong, and exit code 2."""
    if as_json:
        error = {"message": str(exc), "code": code, "details": details}
        sys.stdout.write(json.dumps({"ok": False, "error": error}, ensure_ascii=False) + "\n")
    else:
        complain(str(exc))
    return 2


def fail(exc: Any, *, as_json: bool) -> int:
    """How it ended, and the exit code that says so."""
    from saggar.cli.ending import exit_code

    result = exc.result
    details = result.error.traceback if result.error is not None else ""
    refuse(exc, _code(exc), as_json=as_json, details=details)
    return exit_code(result) or 1


def _code(exc: Any) -> str:
    """The failure as the container protocol calls it."""
    from saggar.errors import ExecutionTimeout, InvalidOutput
    from saggar.model.result import Status

    if isinstance(exc, ExecutionTimeout):
        return "TIMEOUT"
    if isinstance(exc, InvalidOutput):
        return "OUTPUT_VALIDATION"
    codes = {Status.MEMORY: "OOM", Status.OUTPUT: "OUTPUT_TOO_LARGE", Status.KILLED: "CRASH"}
    return codes.get(exc.result.status, "EXECUTION")
