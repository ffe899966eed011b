"""What a guest says, made fit to be kept: text that has a UTF-8 form, objects that are objects."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from saggar.model.codec import JSON, decode_value

MAX_TEXT = 1 << 16
MOST_COUNTED = 1 << 53
"""What every reader of JSON can count to."""


def text(word: object, most: int = MAX_TEXT) -> str:
    """A word of a guest's, not too long; what is no plain word is none."""
    if not isinstance(word, str | int | float | Exception):
        return ""
    return writable(str(word)[:most])


def writable(words: str) -> str:
    """JSON can spell half a character, which has no UTF-8 form and no place in a result."""
    return words.encode(errors="replace").decode()


def json_object(said: bytes) -> dict[str, Any]:
    """A guest's JSON object; anything else is an empty one."""
    with suppress(ValueError, RecursionError):
        found = json.loads(said)
        if isinstance(found, dict):
            return found
    return {}


def bundle(said: bytes) -> Mapping[str, str]:
    """A guest's mime bundle: what in it is text by a name."""
    pairs = json_object(said).items()
    return {writable(kind): writable(data) for kind, data in pairs if isinstance(data, str)}


def number(said: object) -> int | None:
    """A guest's count of something; None if it is no number, or one that counts nothing."""
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= MOST_COUNTED:
        return said
    return None


def structure(said: object) -> dict[str, Any]:
    """A guest's JSON object that others may walk and write down; anything else is an empty one."""
    with suppress(ValueError, RecursionError):
        found = decode_value(json.dumps(said).encode(), JSON)
        if isinstance(found, dict):
            return found
    return {}


def json_list(said: bytes) -> list[Any]:
    """A guest's JSON list; anything else is an empty one."""
    with suppress(ValueError, RecursionError):
        found = json.loads(said)
        if isinstance(found, list):
            return found
    return []
