"""Attacks by way of the value of a run: shapes that break whoever reads them."""

import json
import os
import struct
from typing import Any

from saggar.model.codec import Answer
from saggar.model.quantity import MiB
from saggar.model.result import Result, Status
from saggar.testing.attacks.attack import Facts, everywhere
from saggar.testing.attacks.channel import DISPLAY, DONE, ERROR, VALUE, frame, say
from saggar.testing.attacks.checks import every, exits, survived
from saggar.testing.attacks.inside import scene

WANTED = {"want_value": True}
ENDED = every(survived, exits(Status.OK, Status.ERROR))


def plain(result: Result[Any], _: Facts) -> str | None:
    """The value is made of what JSON is made of, shallow enough to walk over, and not large."""
    pending: list[tuple[Any, int]] = [(result.value, 0)]
    size = 0
    while pending:
        value, depth = pending.pop()
        size += len(value) if isinstance(value, str) else 8
        if depth > 200:
            return "the value nests deeper than 200"
        if not isinstance(value, dict | list | str | int | float | bool | None):
            return f"the value holds a {type(value).__name__}"
        if isinstance(value, float) and value - value != 0:
            return "the value holds a number that JSON has no form for"
        if isinstance(value, dict | list):
            items = value.values() if isinstance(value, dict) else value
            pending += [(item, depth + 1) for item in items]
    return f"the value takes {size} bytes" if size > 64 * MiB else None


SOUND = every(ENDED, plain)
"""However the run is judged, the host can use what it got."""


def raw_value(blob: bytes, media_type: object = "application/json") -> None:
    """Give a value past the runner's own encoder, then end."""
    say(frame(VALUE, {"media_type": media_type}, blob) + frame(DONE, {"exit": 0}))


@everywhere(SOUND, task=WANTED)
def nest_a_value_deeply() -> None:
    """A hundred thousand lists inside each other."""
    raw_value(b"[" * 100_000 + b"]" * 100_000)


@everywhere(SOUND, task=WANTED)
def nest_objects_deeply() -> None:
    """The same with objects."""
    raw_value(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)


@everywhere(SOUND, task=WANTED)
def give_numbers_that_are_none() -> None:
    """NaN and infinities."""
    raw_value(b'[NaN, Infinity, -Infinity, 1e999, {"x": NaN}]')


@everywhere(SOUND, task=WANTED)
def give_a_gigantic_number() -> None:
    """A million digits, which take long to convert and longer to print."""
    raw_value(b"9" * 1_000_000)


@everywhere(SOUND, task=WANTED)
def give_bytes_that_are_no_text() -> None:
    """Invalid UTF-8, lone surrogates, a byte order mark, NUL."""
    raw_value(b'"\xff\xfe\xed\xa0\x80\x00"')


@everywhere(SOUND, task=WANTED)
def give_the_same_key_many_times() -> None:
    """A hundred thousand keys, most of them equal."""
    raw_value(b"{" + b'"k":1,' * 100_000 + b'"__class__":"os.system","__proto__":{}}')


@everywhere(SOUND, task=WANTED)
def give_a_value_of_another_kind() -> None:
    """A pickle that runs a program, under every name it might be unpacked by."""
    for kind in ("application/x-pickle", "application/python-pickle", "application/octet-stream"):
        raw_value(pickled(f"touch {scene['folder']}/unpickled"), kind)


def pickled(command: str) -> bytes:
    """A pickle that runs `command` when it is loaded."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (command,)

    import pickle

    return pickle.dumps(Trap())


@everywhere(SOUND, task=WANTED)
def give_a_media_type_that_is_none() -> None:
    """Media types that are numbers, lists, header injections, very long."""
    odd: list[object] = [7, [], None, {"a": 1}, "x/y\r\nSet-Cookie: a", "\0", "json"]
    for kind in [*odd, "a/" + "b" * 100_000]:
        raw_value(b"1", kind)


@everywhere(
    every(survived, exits(Status.ERROR, Status.OUTPUT, Status.TIMEOUT)),
    limits={"memory": "512MiB", "wall": 1},
)
def give_a_very_large_value() -> None:
    """A hundred megabytes of value where a few were thought of."""
    blob = json.dumps("x" * (100 << 20)).encode()
    say(struct.pack("<BBxxII", 1, VALUE, 2, len(blob)) + b"{}")
    say(blob)
    say(frame(DONE, {"exit": 0}))


def cheap(result: Result[Any], facts: Facts) -> str | None:
    """What the host did after the end of the program was little."""
    after = facts.elapsed - result.usage.wall
    return f"the host took {after:.1f} s over the value" if after > 2.5 else None


CHEAP = every(SOUND, cheap)
REFERENCES = "application/vnd.saggar.answer"


def no_larger_than_sent(result: Result[Any], _: Facts) -> str | None:
    """What is made of an answer's bytes is no more than came."""
    if not isinstance(result.value, Answer):
        return None if result.value is None else f"the host read an answer as {result.value!r:.40}"
    try:
        made = result.value.value()
    except ValueError:
        return None
    size = sum(len(one) for one in made if isinstance(one, bytes))
    return f"{size} bytes were made of {result.value.size}" if size > result.value.size else None


@everywhere(every(ENDED, no_larger_than_sent, cheap), task=WANTED)
def name_the_same_bytes_again_and_again() -> None:
    """An answer whose every part is the same half megabyte."""
    size, many = 500_000, 400
    parts = [[[number], "bytes", 0, size] for number in range(many)]
    said = json.dumps({"value": [None] * many, "parts": parts}).encode()
    raw_value(struct.pack("<I", len(said)) + said + bytes(size), REFERENCES)


FULL = 1_040_000
"""Bytes of a value just below the largest one that `LIMITS` let through."""


def repeated(one: bytes) -> bytes:
    """A list of as many of them as fit into one value."""
    return b"[" + b",".join([one] * (FULL // (len(one) + 1))) + b"]"


@everywhere(CHEAP, task=WANTED)
def give_numbers_just_short_of_too_long() -> None:
    """Numbers of so many digits that somebody may look at each of them from each of them."""
    raw_value(repeated(b"9" * 299))


@everywhere(CHEAP, task=WANTED)
def give_long_fractions() -> None:
    """Numbers whose every digit counts for something."""
    raw_value(repeated(b"0." + b"1" * 299))


@everywhere(CHEAP, task=WANTED)
def give_a_crowd_of_empty_things() -> None:
    """Three bytes each where they are written, thirty times as many where they are read."""
    raw_value(repeated(b"[]"))


@everywhere(CHEAP, task=WANTED)
def give_a_crowd_of_deep_things() -> None:
    """Lists in lists up to the depth that is allowed, again and again."""
    raw_value(repeated(b"[" * 60 + b"]" * 60))


@everywhere(CHEAP, task=WANTED)
def give_a_crowd_of_keys() -> None:
    """One object with a hundred thousand keys, no two of them equal."""
    raw_value(b"{" + b",".join(b'"%06d":0' % number for number in range(94_000)) + b"}")


@everywhere(every(survived, exits(Status.OK, Status.ERROR, Status.OUTPUT), cheap))
def give_costly_words() -> None:
    """Errors and displays, whose texts are JSON as well: deep, wide and full of escapes."""
    for blob in (repeated(b"[]"), repeated(b"9" * 299), b"[" * 500_000):
        say(frame(DISPLAY, {}, b'{"text/plain": ' + blob[:300_000] + b"}"))
        head = b'{"type": ' + blob[:400_000] + b', "message": "' + b"\\ud800" * 60_000 + b'"}'
        say(struct.pack("<BBxxII", 1, ERROR, len(head), 0) + head)
