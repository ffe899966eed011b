#!/usr/bin/env python3
"""
The container protocol in Python: one JSON document on stdin, one on stdout, exit code 0.

In:  {"schema_in": ..., "schema_out": ..., "input": ...}; a schema may be null or left out.
Out: {"ok": true, "output": ...} or {"ok": false, "error": {"message", "code", "details"}}.

One file that needs nothing of ours, because an image holds only this one; `saggar runner python`
is the same file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import sys
import traceback
from collections.abc import Iterable
from typing import Any, NoReturn

LARGEST = 64 << 20
"""Bytes of an answer, unless SAGGAR_OUTPUT_LIMIT says otherwise."""
LONGEST = 16_000
"""Characters of a message or a traceback; of longer ones the end, which says what happened."""
REPORTED = 3
"""Violations of a schema that are told of; the others are counted."""

NOTHING_TO_RUN = (
    "No execution function provided. Mount a module that defines execute_function(input) over "
    "/app/execute.py, build an image that brings one, or name it with --execute FILE"
)


class Failure(Exception):
    """A run that ends in an error of the protocol."""

    def __init__(self, code: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


def main() -> NoReturn:
    """Answer with the module that --execute names, or the one beside this file."""
    options = argparse.ArgumentParser(description="answer one document of the container protocol")
    options.add_argument(
        "--execute",
        metavar="FILE",
        default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "execute.py"),
        help="the module that defines execute_function(input); else execute.py beside the runner",
    )
    serve(options.parse_args().execute)


def serve(path: str | None) -> NoReturn:
    """Answer one document and end the process: threads of the user's are not waited for."""
    request, answers = take_streams()
    write(answers, answer(request, path))
    for stream in (sys.stdout, sys.stderr):
        # User code may have closed it, or put anything in its place.
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)


def take_streams() -> tuple[bytes, int]:
    """
    What stdin holds, and a descriptor for the answer that user code does not know.

    From here on descriptor 1 is stderr, also for C code and for processes that user code starts.
    """
    request = sys.stdin.buffer.read()
    answers = os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return request, answers


def write(descriptor: int, text: bytes) -> None:
    """All of it; a reader who has left is no reason to complain."""
    rest = memoryview(text)
    with contextlib.suppress(BrokenPipeError):
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def answer(request: bytes, path: str | None) -> bytes:
    """One line: what the function in `path` makes of the document."""
    try:
        return b'{"ok":true,"output":' + run(request, path) + b"}\n"
    except Failure as exc:
        error = {
            "message": exc.message[-LONGEST:],
            "code": exc.code,
            "details": exc.details[-LONGEST:],
        }
        return json.dumps({"ok": False, "error": error}).encode() + b"\n"


def run(request: bytes, path: str | None) -> bytes:
    """The function's output as JSON."""
    document = parse(request)
    check_input = compiled(document, "schema_in")
    check_output = compiled(document, "schema_out")
    if problem := check_input(document["input"]):
        raise Failure("INPUT_VALIDATION", f"input validation failed: {problem}")
    text = serialised(call(path, document["input"]))
    if problem := check_output(text):
        raise Failure("OUTPUT_VALIDATION", f"output validation failed: {problem}")
    limit = int(os.environ.get("SAGGAR_OUTPUT_LIMIT") or LARGEST)
    if len(text) > limit:
        raise Failure("OUTPUT_TOO_LARGE", f"the output has {len(text)} bytes, {limit} are allowed")
    return text


def parse(request: bytes) -> dict[str, Any]:
    """The document, which has an input."""
    if not request.strip():
        raise Failure("NO_INPUT", "nothing on stdin; wanted one JSON document")
    try:
        document = json.loads(request.decode(), parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise Failure("INVALID_JSON", "the document nests too deep") from None
    except ValueError as exc:
        raise Failure("INVALID_JSON", f"the document is not JSON: {exc}") from None
    if not isinstance(document, dict):
        raise Failure("INVALID_JSON", "the document is not an object with the key input")
    if "input" not in document:
        raise Failure("MISSING_INPUT", "the document has no key input; null is an input")
    return document


def refuse(constant: str) -> NoReturn:
    """Python's own parser takes NaN and Infinity for JSON."""
    raise ValueError(f"{constant} is no number")


def finite(text: str) -> float:
    """A number that does not become infinite: 1e999 is well formed."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.40} is too large a number")
    return number


def compiled(document: dict[str, Any], name: str) -> Any:
    """A function from a value, or its JSON text, to what the schema of that name says of it."""
    schema = document.get(name)
    if schema is None:
        return lambda _: None
    if not isinstance(schema, dict | bool):
        raise Failure("INVALID_SCHEMA", f"{name}: wanted an object, true, false or null")
    # Only who uses a schema pays for the validator.
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for(schema, offline=True, validate_formats=False)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as exc:
        reason = getattr(exc, "message", None) or str(exc)
        raise Failure("INVALID_SCHEMA", f"{name}: {reason}") from None
    return lambda value: violations(validator, value)


def violations(validator: Any, value: object) -> str | None:
    """What the schema does not allow, each with the JSON pointer to it."""
    if isinstance(value, bytes):
        value = json.loads(value)
    try:
        found = list(validator.iter_errors(value))
    except ValueError as exc:
        # It nests deeper, or holds a number that is larger, than the validator reads.
        return str(exc)
    told = [violation(error.instance_path, error.message) for error in found[:REPORTED]]
    more = [f"and {len(found) - REPORTED} more"] if len(found) > REPORTED else []
    return "; ".join(told + more) or None


def violation(path: list[str | int], message: str) -> str:
    """One of them. A validator quotes what it found, however large."""
    where = pointer(path)
    short = message if len(message) <= 300 else f"{message[:280]} ... {message[-15:]}"
    return f"at {where}: {short}" if where else short


def pointer(path: list[str | int]) -> str:
    """A path as RFC 6901 writes it."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def call(path: str | None, value: object) -> object:
    """What the function makes of the value, awaited where it is async."""
    try:
        function = load(path)
        result = function(value)
        if hasattr(result, "__await__"):
            result = finished(result)
    except Failure:
        raise
    except BaseException as exc:  # noqa: BLE001 - the edge of somebody else's code
        raise Failure("EXECUTION", summary(exc), trace(exc)) from None
    return result


def load(path: str | None) -> Any:
    """The function in the module of that file."""
    if path is None:
        raise Failure("NO_EXECUTE_FUNCTION", NOTHING_TO_RUN)
    if not os.path.isfile(path):
        raise Failure("NO_EXECUTE_FUNCTION", NOTHING_TO_RUN, f"there is no file {path}")
    # Modules beside it can be imported; only now, lest one stand in the way of our own imports.
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location("execute", path)
    if spec is None or spec.loader is None:
        raise Failure("NO_EXECUTE_FUNCTION", NOTHING_TO_RUN, f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["execute"] = module
    spec.loader.exec_module(module)
    function = getattr(module, "execute_function", None)
    if not callable(function):
        raise Failure("NO_EXECUTE_FUNCTION", NOTHING_TO_RUN, f"{path} defines no execute_function")
    return function


def finished(result: Any) -> object:
    """What an awaitable comes to."""
    import asyncio

    async def wait() -> object:
        return await result

    return asyncio.run(wait())


def summary(exc: BaseException) -> str:
    """The exception's last line: its type and what it says."""
    return traceback.format_exception_only(exc)[-1].strip()


def trace(exc: BaseException) -> str:
    """The traceback from the user's first frame on: ours, and the import's, would be noise."""
    first = frame = exc.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == __file__:
            first = frame.tb_next
        frame = frame.tb_next
    while first and first.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        first = first.tb_next
    return "".join(traceback.format_exception(type(exc), exc, first))


def serialised(value: object) -> bytes:
    """The output as JSON, refused where Python would bend it: NaN, and keys that are no strings."""
    try:
        if problem := unfit(value, [], set()):
            raise Failure("OUTPUT_VALIDATION", f"output validation failed: {problem}")
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except RecursionError:
        problem = "nests too deep"
    except (TypeError, ValueError) as exc:
        problem = str(exc)
    raise Failure("OUTPUT_VALIDATION", f"output validation failed: {problem}")


def unfit(value: object, path: list[str | int], above: set[int]) -> str | None:
    """Where in the value something has no JSON form, and what it is."""
    match value:
        case float() if not math.isfinite(value):
            return violation(path, f"{value} has no JSON form")
        case None | bool() | int() | float() | str():
            return None
        case dict() | list() | tuple() if id(value) in above:
            return violation(path, "it contains itself")
        case dict():
            return unfit_within(value, value.items(), path, above)
        case list() | tuple():
            return unfit_within(value, enumerate(value), path, above)
    return violation(path, f"a {type(value).__name__} has no JSON form")


def unfit_within(
    holder: object, items: Iterable[tuple[Any, object]], path: list[str | int], above: set[int]
) -> str | None:
    """The same of everything in a dict or a list."""
    above.add(id(holder))
    for key, item in items:
        if isinstance(holder, dict) and not isinstance(key, str):
            return violation(path, f"the key {key!r:.60} is not a string")
        if problem := unfit(item, [*path, key], above):
            return problem
    above.discard(id(holder))
    return None


if __name__ == "__main__":
    main()
