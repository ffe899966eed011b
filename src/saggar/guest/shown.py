"""What an interpreter of a session says of values: as text, as JSON, and by their names."""

import json
import reprlib
import types

from saggar.guest import program

MOST_TEXT = 1 << 16
MOST_NAMES = 1000
SHORT = 200
BRIEF = reprlib.Repr()
"""Writes out no more of a huge object than is shown."""
BRIEF.maxstring = BRIEF.maxother = BRIEF.maxlong = SHORT
BRIEF.maxlist = BRIEF.maxtuple = BRIEF.maxset = BRIEF.maxdict = 20

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any


def writable(text: str) -> str:
    """Text that has a UTF-8 form."""
    return text.encode("utf-8", "replace").decode()


def without_ours(trace: "types.TracebackType | None") -> "types.TracebackType | None":
    """The frames of a traceback that are not of our modules."""
    kept = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith("<saggar."):
            kept.append(trace)
        trace = trace.tb_next
    made = None
    for one in reversed(kept):
        made = types.TracebackType(made, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return made


def text_of(thing: object, how: "Any" = str) -> str:
    """`str` or `repr` of something whose own methods may raise."""
    try:
        return writable(str(how(thing))[:MOST_TEXT])
    except BaseException as exc:  # whatever it raises, it was only looked at
        return f"<unprintable {type(thing).__name__}: {type(exc).__name__}>"


def size_of(value: object) -> "int | None":
    """How long it is, if it has a length."""
    try:
        return len(value)  # type: ignore[arg-type]
    except BaseException:  # as above
        return None


def json_of(value: object, largest: int) -> "bytes | None":
    """As JSON; None where it has no such form, or one that is too long."""
    if value is None or isinstance(value, (bool, int, float, str, list, dict, tuple)):
        try:
            # As it is, not escaped: half a character has no form, and is no JSON to anybody else.
            blob = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
            if len(blob) <= largest and not program.misfit(value):
                return blob
        except (TypeError, ValueError, RecursionError):
            pass  # then its text
    return None


def variables(names: "Mapping[str, object]", hidden: "Collection[str]") -> "list[list[object]]":
    """What the user has named: name, type, repr and length."""
    found: list[list[object]] = []
    for name, value in list(names.items()):
        # Not `isinstance`: an object may say what it likes of its class.
        if name.startswith("_") or name in hidden or issubclass(type(value), types.ModuleType):
            continue
        shown = text_of(value, BRIEF.repr)[:SHORT]
        found.append([name, type(value).__name__, shown, size_of(value)])
    return found[:MOST_NAMES]
