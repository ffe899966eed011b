"""
The container protocol, as the host speaks it: a request on stdin, one answer on stdout.

The answer was written by a stranger. It is exactly one JSON document, or it is refused with a few
of its bytes; nothing of it is repaired.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from saggar.errors import InvalidTask
from saggar.model.codec import JSON, Payload, decode_value, encode_input
from saggar.model.result import ErrorInfo

QUOTED: Final = 200
"""Bytes of an answer's beginning, and of its end, that a refusal shows."""
LARGEST: Final = 4 << 20
"""Bytes of one answer, unless the caller says otherwise: it is parsed, and kept, by us."""
LONGEST: Final = 1 << 16
"""Characters of one text in an error that a program reports."""

_TRAILING: Final = re.compile(r"trailing characters at line (\d+) column (\d+)$")
"""What the parser says of a document behind which there is more: where that begins."""

INVALID: Final = "InvalidAnswer"
TOO_LARGE: Final = "OUTPUT_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Answered:
    """The output of a program that went well."""

    value: Any


def encode_request(input: object, schema_in: object = None, schema_out: object = None) -> bytes:
    """
    The document that a program reads; `input` may be a payload, or anything with a JSON form.

    No payload is JSON's null: a request always has an input.

    Raises:
        InvalidTask: Something has no JSON form; says where.
    """
    parts = {"schema_in": schema_in, "schema_out": schema_out, "input": _input(input)}
    texts = {name: _json(name, part) for name, part in parts.items() if part is not None}
    return b"{%s}" % b",".join(b'"%s":%s' % (name.encode(), text) for name, text in texts.items())


def decode_answer(stdout: bytes, largest: int = LARGEST) -> Answered | ErrorInfo:
    """What a program answered, or why that is no answer; never raises."""
    if len(stdout) > largest:
        return _refused(
            f"the answer has {len(stdout):,} bytes, more than the {largest:,} allowed",
            stdout,
            TOO_LARGE,
        )
    if not stdout.strip():
        return ErrorInfo(type=INVALID, message="the program wrote no answer on stdout")
    try:
        document = decode_value(stdout, JSON)
    except ValueError as exc:
        return _refused(_why_not(stdout, str(exc)), stdout)
    match document:
        case {"ok": True, "output": output}:
            return Answered(output)
        case {"ok": False, "error": {"message": str(), "code": str()} as error}:
            return _reported(error)
    return _refused(_misfit(document), stdout)


def quoted(data: bytes) -> str:
    """The beginning and the end of some bytes, as Python spells them; all of them if few."""
    if len(data) <= 2 * QUOTED:
        return repr(data)[1:]
    return f"{repr(data[:QUOTED])[1:]} ... {repr(data[-QUOTED:])[1:]}"


def _input(input: object) -> Payload:
    payload = encode_input(input)
    if payload.is_none:
        return Payload(media_type=JSON, data=b"null")
    if payload.media_type != JSON:
        raise InvalidTask(f"input: wanted {JSON}, found {payload.media_type}")
    return payload


def _json(name: str, part: object) -> bytes:
    try:
        return encode_input(part).data
    except InvalidTask as exc:
        raise InvalidTask(str(exc).replace("input", name, 1)) from None


def _reported(error: dict[str, Any]) -> ErrorInfo:
    details = error.get("details") or ""
    text = details if isinstance(details, str) else json.dumps(details)
    texts = (error["code"], error["message"], text)
    code, message, traceback = (_writable(text[:LONGEST]) for text in texts)
    return ErrorInfo(type=code, message=message, traceback=traceback)


def _writable(text: str) -> str:
    """JSON can spell half a character, which has no UTF-8 form and no place in a result."""
    return text.encode(errors="replace").decode()


def _why_not(stdout: bytes, problem: str) -> str:
    """What follows a whole document is told apart from what was never one."""
    found = _TRAILING.search(problem)
    if found is None:
        return problem.replace("the value", "the answer", 1)
    try:
        decode_value(_from(stdout, *map(int, found.groups())), JSON)
    except ValueError as exc:
        if not _TRAILING.search(str(exc)):
            return "something follows the answer"
    return "there are two answers"


def _from(text: bytes, line: int, column: int) -> bytes:
    """What begins there; both are counted from one, a column in bytes."""
    start = 0
    for _ in range(line - 1):
        start = text.index(b"\n", start) + 1
    return text[start + column - 1 :]


def _misfit(document: object) -> str:
    """What a JSON document lacks to be an answer."""
    match document:
        case {"ok": True}:
            return "the answer is ok and has no output"
        case {"ok": False}:
            return "the answer is not ok and has no error with a message and a code, both text"
        case {"ok": ok}:
            return f"the answer's ok is neither true nor false, but {type(ok).__name__}"
        case {**_found}:
            return "the answer has no ok"
    return f"the answer is no object, but {type(document).__name__}"


def _refused(why: str, stdout: bytes, code: str = INVALID) -> ErrorInfo:
    return ErrorInfo(type=code, message=f"{why}: {quoted(stdout)}")
