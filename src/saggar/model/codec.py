"""
Values to bytes and back: what goes in with a task, what comes out of a sandbox.

What comes out is JSON written by a stranger. It is refused rather than repaired: no NaN, no
depth that would overflow a stack of ours, never pickle.

An answer of a remote function is such a document as well, with what JSON cannot say told apart from
it: parts by their paths, and buffers behind it for arrays and bytes.
"""

import base64
import importlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, PrivateAttr, field_serializer, model_validator
from pydantic_core import from_json

from saggar.errors import InvalidTask
from saggar.model.value import Value

JSON: Final = "application/json"
CALL: Final = "application/vnd.saggar.call"
"""A pickle and its buffers: written by a caller, and read inside only."""
ANSWER: Final = "application/vnd.saggar.answer"
LONGEST: Final = 32 << 20
"""Bytes of an answer's document: it is parsed, and kept, by us. Buffers may be longer."""
ALIKE: Final = 16
"""Keys of one hash: as many as happen by chance, and too few to make a lookup slow."""
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


class Large(Payload):
    """A payload with buffers that are not copied into it: they go through shared memory."""

    _beside: tuple[memoryview, ...] = PrivateAttr(default=())

    @classmethod
    def of(cls, data: bytes, buffers: Sequence[memoryview]) -> Self:
        """A call of `data`, with these buffers beside it."""
        made = cls(media_type=CALL, data=data)
        made._beside = tuple(buffers)
        return made

    @property
    def beside(self) -> tuple[memoryview, ...]:
        """The buffers, in their order."""
        return self._beside

    def whole(self) -> Payload:
        """The same as one piece, which can be kept and sent on."""
        return Payload(media_type=CALL, data=b"".join([self.data, *self._beside]))


class Answer(Value):
    """What a remote function came to: its document, and the bytes that the parts of it name."""

    document: Any
    data: bytes = b""
    _memory: memoryview | None = PrivateAttr(default=None)

    @staticmethod
    def opened(said: bytes, memory: memoryview | None) -> "Answer":
        """ValueError if it is none."""
        length = int.from_bytes(said[:4], "little")
        if length > min(LONGEST, len(said) - 4):
            raise ValueError(
                f"an answer's document has up to {LONGEST:,} bytes, found {length:,}; arrays, bytes"
                " and what result='pickle' sends may be longer"
            )
        document = decode_value(said[4 : 4 + length], JSON)
        if not isinstance(document, dict):
            raise ValueError("an answer is a JSON object")
        made = Answer.model_construct(document=document, data=said[4 + length :])
        made._memory = memory  # noqa: SLF001 - our own
        return made

    @field_serializer("data", when_used="json")
    def _whole(self, data: bytes) -> str:
        # What came in shared memory would else be lost on its way to a queue or another machine.
        return base64.urlsafe_b64encode(data if self._memory is None else self._memory).decode()

    @property
    def size(self) -> int:
        """Bytes beside its document."""
        return len(self.data) if self._memory is None else self._memory.nbytes

    @property
    def buffers(self) -> memoryview:
        """What the parts name places of. Ours alone, and may be written to."""
        return self._memory if self._memory is not None else memoryview(bytearray(self.data))

    def value(self) -> Any:
        """
        The value, made of a guest's words: of Python's own types and of numpy's arrays only.

        Raises:
            ValueError: The words make no sense.
        """
        value, parts = self.document.get("value"), self.document.get("parts")
        if parts is None:
            return value
        if not isinstance(parts, list):
            raise ValueError("the parts of an answer are a list")
        root, places = [value], _Places(self.buffers)
        for part in parts:
            match part:
                case [list(path), str(kind), *said] if kind in _MAKERS:
                    holder, key = _place(root, path)
                    try:
                        holder[key] = _MAKERS[kind](holder[key], places, said)
                    except (TypeError, ArithmeticError) as exc:
                        raise ValueError(f"no {kind} can be made of that: {exc}") from None
                case _:
                    raise ValueError(f"no part of an answer: {part!r:.80}")
        return root[0]


def _place(root: list[Any], path: list[Any]) -> tuple[Any, Any]:
    """What holds the value at a path, and under which key."""
    holder: Any = root
    key: Any = 0
    for step in path:
        holder, key = holder[key], step
        known = (isinstance(holder, list) and type(step) is int and 0 <= step < len(holder)) or (
            isinstance(holder, dict) and isinstance(step, str) and step in holder
        )
        if not known:
            raise ValueError(f"an answer's part is at no place of it: {path!r:.80}")
    return holder, key


class _Places:
    """
    The bytes behind an answer, each of which is given away once.

    Parts name theirs in order, as ours are written: a few kilobytes that name the same megabytes a
    hundred times would else become gigabytes here.
    """

    def __init__(self, buffers: memoryview) -> None:
        self._buffers, self._given = buffers, 0

    def take(self, said: Sequence[Any]) -> memoryview:
        """Those at an offset, of a size. ValueError if they are not there, or given already."""
        match said:
            case [int(offset), int(size)] if (
                self._given <= offset <= offset + size <= self._buffers.nbytes
            ):
                self._given = offset + size
                return self._buffers[offset : offset + size]
        raise ValueError(
            f"an answer's bytes are at no place of it, or at that of others: {said!r:.80}"
        )


def _bytes(_: Any, places: _Places, said: Sequence[Any]) -> bytes:
    return bytes(places.take(said))


_DTYPE: Final = re.compile(r"[<>|=]?[biufcSU][0-9]{1,9}|[<>]?[mM]8(\[[0-9]{0,9}[A-Za-z]{1,2}\])?")


def _array(_: Any, places: _Places, said: Sequence[Any]) -> Any:
    """An array over its bytes, none of which are copied."""
    match said:
        case [str(kind), list(shape), offset, size] if _DTYPE.fullmatch(kind):
            import numpy as np  # where a caller expects arrays it is there

            dtype, flat = np.dtype(kind), places.take((offset, size))
            if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
                raise ValueError(f"no shape of an array: {shape!r:.80}")
            if math.prod(shape) * dtype.itemsize != flat.nbytes:
                raise ValueError(f"an array of {shape!r:.80} does not have {flat.nbytes} bytes")
            if not flat.nbytes:
                return np.empty(shape, dtype)
            return np.frombuffer(flat, dtype).reshape(shape)
    raise ValueError(f"no array: {said!r:.80}")


def _scalar(held: Any, places: _Places, said: Sequence[Any]) -> Any:
    """A number of numpy's own, which Python has none for."""
    return _array(held, places, said)[()]


def _bytearray(_: Any, places: _Places, said: Sequence[Any]) -> bytearray:
    return bytearray(places.take(said))


_Maker = Callable[[Any, _Places, Sequence[Any]], Any]


def _number(kind: Callable[[str], Any]) -> _Maker:
    def made(_: Any, _places: _Places, said: Sequence[Any]) -> Any:
        match said:
            case [str(text)] if len(text) < 100:
                return kind(text)
        raise ValueError(f"no {kind.__name__}: {said!r:.80}")

    return made


def _spelled(module: str, name: str, method: str = "") -> _Maker:
    """A value of the standard library's, which is loaded for the first one."""

    def made(_: Any, _places: _Places, said: Sequence[Any]) -> Any:
        kind = getattr(importlib.import_module(module), name)
        match said:
            case [str(text)] if len(text) < 5000:
                return (getattr(kind, method) if method else kind)(text)
        raise ValueError(f"no {name}: {said!r:.80}")

    return made


def _fraction(_: Any, _places: _Places, said: Sequence[Any]) -> Any:
    match said:
        # Of whole numbers only: of "1e999999999" Python makes a number that long.
        case [int(above), int(below)]:
            from fractions import Fraction

            return Fraction(above, below)
    raise ValueError(f"no Fraction: {said!r:.80}")


def _timedelta(_: Any, _places: _Places, said: Sequence[Any]) -> Any:
    match said:
        case [int(days), int(seconds), int(microseconds)]:
            from datetime import timedelta

            return timedelta(days, seconds, microseconds)
    raise ValueError(f"no timedelta: {said!r:.80}")


def _deque(items: Any, _: _Places, said: Sequence[Any]) -> Any:
    match said:
        case [int() | None as longest] if isinstance(items, list):
            from collections import deque

            return deque(items, longest)
    raise ValueError(f"no deque: {said!r:.80}")


def _holder(kind: Callable[[Any], Any]) -> _Maker:
    def made(items: Any, _: _Places, _said: Sequence[Any]) -> Any:
        if not isinstance(items, list):
            raise ValueError("its items are no list")
        if kind is dict:
            if not all(isinstance(pair, list) and len(pair) == 2 for pair in items):
                raise ValueError("its items are no pairs")
            _refuse_collisions([pair[0] for pair in items])
        elif kind is not tuple:
            _refuse_collisions(items)
        return kind(items)

    return made


def _refuse_collisions(keys: Sequence[Any]) -> None:
    """Numbers that were chosen to have one hash would make what is built of them take hours."""
    counted = Counter(map(hash, keys)).most_common(1)
    if counted and counted[0][1] > ALIKE and len(set(map(repr, keys))) > ALIKE:
        raise ValueError("too many of its keys have the same hash; result='pickle' takes them")


_MAKERS: Final = {
    "array": _array,
    "bytes": _bytes,
    "tuple": _holder(tuple),
    "set": _holder(set),
    "frozenset": _holder(frozenset),
    "dict": _holder(dict),
    "float": _number(float),
    "complex": _number(complex),
    "scalar": _scalar,
    "bytearray": _bytearray,
    "deque": _deque,
    "timedelta": _timedelta,
    "datetime": _spelled("datetime", "datetime", "fromisoformat"),
    "date": _spelled("datetime", "date", "fromisoformat"),
    "time": _spelled("datetime", "time", "fromisoformat"),
    "Decimal": _spelled("decimal", "Decimal"),
    "Fraction": _fraction,
    "UUID": _spelled("uuid", "UUID"),
    "PosixPath": _spelled("pathlib", "Path"),
    "PurePosixPath": _spelled("pathlib", "PurePosixPath"),
}


def encode_input(obj: object) -> Payload:
    """`obj` as what a task carries; InvalidTask says where in it something has no JSON form."""
    return obj if isinstance(obj, Payload) else Payload.json(obj)


def decode_value(data: bytes, media_type: str | None, memory: memoryview | None = None) -> Any:
    """
    The value that a guest wrote, of a size that the caller has already capped.

    `memory` is what came beside it, for what has a form with buffers.

    Raises:
        ValueError: It is not JSON, nests too deep, or holds what JSON has no form for.
    """
    if media_type is None:
        return None
    if media_type == ANSWER:
        return Answer.opened(data, memory)
    if media_type != JSON:
        raise ValueError(f"no codec for media type {media_type!r:.60}; there are: {JSON}")
    if data.count(b"[") + data.count(b"{") > MOST and _containers_in(data) > MOST:
        raise ValueError(
            f"the value holds more than {MOST:,} lists and objects; of a remote function arrays,"
            " texts and result='pickle' may hold more"
        )
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
