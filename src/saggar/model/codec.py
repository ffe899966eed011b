"""
Values to bytes and back: what goes in with a task, what comes out of a sandbox.

What comes out is JSON written by a stranger. It is refused rather than repaired: no NaN, no
depth that would overflow a stack of ours, never pickle.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, model_validator
from pydantic_core import from_json

from saggar.errors import InvalidTask
from saggar.model.value import Value

JSON: Final = "application/json"
DEEPEST: Final = 64
"""How deep a value from a guest may nest: every later walk over it may then recurse."""

MOST: Final = 200_000
"""Lists and objects in a value from a guest: two bytes there are up to two hundred here."""

_MEDIA_TYPE: Final = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}(;[ -~]{0,100})?", re.ASCII)
# A text without an end is passed as well: to look for one from each quote would take hours.
_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_MAY_OVERFLOW: Final = re.compile(rb"[0-9][eE]\+?[0-9]{3}|(?<![0-9])[0-9]{300}")


def _media_type(media_type: str) -> str:
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise ValueError(f"wanted a media type such as {JSON!r}, found {media_type!r:.60}")
    return media_type


class Payload(Value):
    """Bytes and what they mean."""

    media_type: Annotated[str, AfterValidator(_media_type)] | None = None
    """None: there is no payload, which is not the same as JSON's null."""
    data: bytes = b""

    @classmethod
    def none(cls) -> Self:
        """No payload at all."""
        return cls()

    @classmethod
    def json(cls, obj: object) -> Self:  # type: ignore[override]  # pydantic's is deprecated
        """`obj` as JSON; InvalidTask says where in it something has no JSON form."""
        return cls(media_type=JSON, data=_to_json(obj))

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.data and self.media_type is None:
            raise ValueError(f"data needs a media type such as {JSON!r}")
        return self

    @property
    def is_none(self) -> bool:
        """Whether there is no payload at all."""
        return self.media_type is None


def encode_input(obj: object) -> Payload:
    """`obj` as what a task carries; InvalidTask says where in it something has no JSON form."""
    return obj if isinstance(obj, Payload) else Payload.json(obj)


def decode_value(data: bytes, media_type: str | None) -> Any:
    """
    The value that a guest wrote, of a size that the caller has already capped.

    Raises:
        ValueError: It is not JSON, nests too deep, or holds what JSON has no form for.
    """
    if media_type is None:
        return None
    if media_type != JSON:
        raise ValueError(f"no codec for media type {media_type!r:.60}; there are: {JSON}")
    if data.count(b"[") + data.count(b"{") > MOST and _containers_in(data) > MOST:
        raise ValueError(f"the value holds more than {MOST:,} lists and objects")
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as exc:
        raise ValueError(f"the value is not JSON: {exc}") from None
    # Most values have too few brackets to be deep, and no number long enough to overflow.
    if data.count(b"[") + data.count(b"{") > DEEPEST:
        _refuse_depth(value)
    if _MAY_OVERFLOW.search(data):
        _refuse_infinity(value)
    return value


def _containers_in(data: bytes) -> int:
    """How many there are at most, brackets in texts aside."""
    bare = _TEXT.sub(b"", data)
    return bare.count(b"[") + bare.count(b"{")


def _refuse_depth(value: object) -> None:
    """Level by level: a stranger's megabyte of brackets must not cost us seconds."""
    level = [value]
    for _ in range(DEEPEST):
        level = [item for holder in level for item in _items(holder) if isinstance(item, _HOLDERS)]
        if not level:
            return
    raise ValueError(f"the value nests deeper than {DEEPEST}")


def _refuse_infinity(value: object) -> None:
    """Refuse what became infinity: 1e999 is well formed JSON."""
    level: list[Any] = [[value]]
    while level:
        items = [item for holder in level for item in _items(holder)]
        if any(isinstance(item, float) and math.isinf(item) for item in items):
            raise ValueError("the value holds a number that is too large")
        level = [item for item in items if isinstance(item, _HOLDERS)]


_HOLDERS: Final = (dict, list)


def _items(holder: Any) -> Iterable[Any]:
    return (
        holder.values() if isinstance(holder, dict) else holder if isinstance(holder, list) else ()
    )


def _to_json(obj: object) -> bytes:
    try:
        text = json.dumps(obj, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        data = text.encode()
    except RecursionError:
        raise InvalidTask("input: nests too deep") from None
    except (TypeError, ValueError) as exc:
        raise InvalidTask(_first_misfit(obj) or f"input: {exc}") from None
    # The encoder turns {1: "a"} into {"1": "a"} without a word.
    if not all(_has_text_keys(container) for _, container, _ in _containers(obj)):
        raise InvalidTask(_first_misfit(obj))
    return data


def _first_misfit(obj: object) -> str | None:
    """The first thing in `obj` that has no JSON form, with the JSON pointer to it."""
    for path, container, around in _containers(obj):
        for key, item in _entries(container):
            problem = _key_problem(container, key) or _item_problem(item, around)
            if problem:
                pointer = "".join(f"/{_escaped(part)}" for part in (*path, key)[1:])
                return f"input{' at ' + pointer if pointer else ''}: {problem}"
    return None


def _containers(obj: object) -> Iterator[tuple[tuple[object, ...], object, frozenset[int]]]:
    """
    Every list and mapping in `obj`: its path, itself, and the ids of all it is inside of.

    Not by recursion, and a cycle is not entered again. The first one is a tuple around `obj`.
    """
    stack: list[tuple[tuple[object, ...], object, frozenset[int]]] = [((), (obj,), frozenset())]
    while stack:
        path, container, around = stack.pop()
        around |= {id(container)}
        yield path, container, around
        inner = [pair for pair in _entries(container) if isinstance(pair[1], dict | list | tuple)]
        for key, item in reversed(inner):
            if id(item) not in around:
                stack.append(((*path, key), item, around))


def _entries(container: object) -> Iterable[tuple[object, object]]:
    match container:
        case dict():
            return container.items()
        case list() | tuple():
            return enumerate(container)
    return ()


def _has_text_keys(container: object) -> bool:
    return not isinstance(container, dict) or all(isinstance(key, str) for key in container)


def _key_problem(container: object, key: object) -> str | None:
    if isinstance(container, dict) and not isinstance(key, str):
        return f"the key {key!r:.60} is not text"
    return None


def _item_problem(item: object, around: frozenset[int]) -> str | None:
    match item:
        case float() if not math.isfinite(item):
            return f"{item} has no JSON form"
        case str() if not _encodes(item):
            return "holds characters that have no UTF-8 form"
        case bytes() | bytearray() | memoryview():
            return "bytes have no JSON form; send them as a file"
        case dict() | list() | tuple() if id(item) in around:
            return "contains itself"
        case dict() | list() | tuple() | str() | int() | float() | None:
            return None
    return f"{type(item).__name__} has no JSON form"


def _escaped(key: object) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
