"""
JSON Schema: one validator for both sides of every wall, compiled once for each schema.

A schema may come from a stranger. It is capped in size and depth, and a `$ref` never leaves it: the
validator's own default would fetch one over HTTP, from wherever this process can reach.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypeAlias

import jsonschema_rs
from pydantic_core import from_json

from saggar.errors import InvalidTask
from saggar.model.codec import encode_input
from saggar.model.expansion import REFERENCES, Expansion, compiled_at_once

LARGEST: Final = 1 << 20
"""Bytes of one schema, as JSON."""
DEEPEST: Final = 64
"""How deep one may nest."""
FOLLOWED: Final = 255
"""How deep a value may nest that a schema with references is to judge."""
REPORTED: Final = 3
"""Violations that are told of; the others are counted."""
MANY: Final = 1_000
"""Items of a value of which every violation is looked for."""
LONGEST: Final = 300
"""Characters of one violation: a validator's message quotes what it found, however large."""

EXPANDED: Final = 10_000
"""How often a schema may apply its parts to one value when its references are followed."""
EXPLAINED: Final = 20_000
"""The same for a whole value of which it is to be said what is wrong: nothing is left out then."""
UNEXPLAINED: Final = "not allowed, in more ways than could be looked at to say where"

_REFERENCES: Final = frozenset(REFERENCES)

Source: TypeAlias = Mapping[str, Any] | bool | bytes | str | PathLike[str]
"""A schema as it is given: itself, its JSON text as bytes, or the path of its file."""


class Schema:
    """
    A compiled JSON Schema, Draft 2020-12 unless its `$schema` names another one.

        Schema.of({"type": "array", "items": {"type": "number"}}).problem([1, "x"])
        # 'at /1: "x" is not of type "number"'
    """

    __slots__ = ("_expansion", "_find", "_validate", "document", "is_valid")

    is_valid: Callable[[object], bool]
    """Whether a value keeps to it. ValueError for a value that has no JSON form."""

    def __init__(self, document: Any, validator: Any, expansion: Expansion | None) -> None:
        self.document = document
        self._expansion = expansion
        self.is_valid = partial(_shallow, validator.is_valid) if expansion else validator.is_valid
        self._find = validator.iter_errors
        self._validate = validator.validate

    @classmethod
    def of(cls, source: Source, *, formats: bool = False) -> "Schema":
        """
        The schema in a mapping, in JSON text as bytes, or in the file of that path.

        `formats`: a `format` is a rule; else it is a remark, as the standard has it.

        Raises:
            InvalidTask: It cannot be read, is not a schema, is too large, or points outside.
        """
        return _compiled(_text(source), formats)

    def _first(self, value: object) -> str:
        """The first thing that is not allowed about a value that is not."""
        try:
            self._validate(value)
        except jsonschema_rs.ValidationError as exc:
            return f"{_told(exc)}; and perhaps more"
        return "not allowed"

    def problem(self, value: object) -> str | None:
        """
        What about `value` the schema does not allow, each with the JSON pointer to it.

        None when it is allowed.
        """
        try:
            if self.is_valid(value):
                return None
            # The validator takes NaN for null, and says of a cycle that it is deep.
            if problem := _formless(value):
                return problem
            # What is wrong it looks for everywhere, and remembers nothing of what it has seen.
            if self._expansion and self._expansion.visits(value, EXPLAINED) > EXPLAINED:
                return UNEXPLAINED
            # It makes all of them before it gives the first: a large value is asked for one.
            if not _is_small(value):
                return self._first(value)
            found = [_told(error) for error in self._find(value)]
        except ValueError as exc:
            return _formless(value) or _short(str(exc))
        more = [f"and {len(found) - REPORTED} more"] if len(found) > REPORTED else []
        return "; ".join([*found[:REPORTED], *more])


def _is_small(value: object) -> bool:
    """Whether all that may be wrong with a value can be listed."""
    level, seen = [value], 0
    while level and seen <= MANY:
        within = [item for holder in level for item in _within(holder)]
        seen += len(within)
        level = within
    return seen <= MANY


def _within(holder: object) -> Iterable[object]:
    if isinstance(holder, dict):
        return holder.values()
    return holder if isinstance(holder, list | tuple) else ()


def _refers(document: object) -> bool:
    """Whether a schema may apply to what is within a value again and again."""
    level: list[Any] = [document] if isinstance(document, dict) else []
    while level:
        if any(_REFERENCES & holder.keys() for holder in level if isinstance(holder, dict)):
            return True
        level = [item for holder in level for item in _items(holder)]
    return False


def _shallow(is_valid: Callable[[object], bool], value: object) -> bool:
    """`is_valid` for such a schema: the validator follows a value down until its stack ends."""
    level = [value] if isinstance(value, dict | list | tuple) else []
    for _ in range(FOLLOWED + 1):
        if not level:
            return is_valid(value)
        within = (item for holder in level for item in _items(holder))
        level = list({id(item): item for item in within}.values())
    raise ValueError(f"nests deeper than {FOLLOWED}")


def _formless(value: object) -> str | None:
    """Where in `value` something has no JSON form."""
    try:
        encode_input(value)
    except InvalidTask as exc:
        return str(exc).removeprefix("input: ").removeprefix("input ")
    return None


def pointer(path: list[str | int]) -> str:
    """A path as RFC 6901 writes it; the whole value is the empty string."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _text(source: Source) -> str:
    match source:
        case bytes():
            data = source
        case str() | PathLike():
            data = _file(Path(source))
        case _:
            try:
                plain = dict(source) if isinstance(source, Mapping) else source
                return json.dumps(plain, allow_nan=False, sort_keys=True)
            except (TypeError, ValueError, RecursionError) as exc:
                raise InvalidTask(f"schema: has no JSON form: {exc}") from None
    if len(data) > LARGEST:
        raise InvalidTask(f"schema: {len(data):,} bytes, more than the {LARGEST:,} it may have")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidTask(f"schema: not UTF-8 text: {exc}") from None


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except (OSError, ValueError) as exc:
        hint = "; its text is given as bytes" if str(path).lstrip()[:1] == "{" else ""
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidTask(f"schema: cannot read {str(path)!r:.200}: {why}{hint}") from None


@lru_cache(maxsize=256)
def _compiled(text: str, formats: bool) -> Schema:  # noqa: FBT001 - a cache has positions only
    if len(text) > LARGEST:
        raise InvalidTask(f"schema: {len(text):,} characters, more than the {LARGEST:,} allowed")
    try:
        document = from_json(text, allow_inf_nan=False)
    except ValueError as exc:
        raise InvalidTask(f"schema: not JSON: {exc}") from None
    if not isinstance(document, dict | bool):
        raise InvalidTask(
            f"schema: wanted an object, true or false, found {type(document).__name__}"
        )
    if _depth(document) > DEEPEST:
        raise InvalidTask(f"schema: nests deeper than {DEEPEST}")
    return (
        _followed(document, formats)
        if _refers(document)
        else Schema(document, _validator(document, formats), None)
    )


def _followed(document: Any, formats: bool) -> Schema:  # noqa: FBT001 - as above
    """One with references: what they come to is counted before anybody follows them."""
    expansion = Expansion(document)
    if excess := expansion.excess(EXPANDED):
        where = f"at {excess.where}: " if excess.where else ""
        raise InvalidTask(
            f"schema: {where}its references apply {excess.times:,} schemas to one value,"
            f" more than the {EXPANDED:,} allowed"
        )
    if expansion.unfollowed:
        # The validator says why it leads nowhere; where it finds a way, nobody has counted it.
        _validator(compiled_at_once(document), formats)
        raise InvalidTask(
            f"schema: the reference {expansion.unfollowed!r:.100} leads out of it, or is spelled"
            " in a way that is not followed; give it as a JSON pointer, #/$defs/name"
        )
    return Schema(document, _validator(document, formats), expansion)


def _validator(document: Any, formats: bool) -> Any:  # noqa: FBT001 - as above
    try:
        return jsonschema_rs.validator_for(document, offline=True, validate_formats=formats)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as exc:
        raise InvalidTask(f"schema: {_reason(exc)}") from None


def _depth(document: object) -> int:
    """How deep it nests; counting stops where it is too deep."""
    level: list[Any] = [document] if isinstance(document, dict | list) else []
    for depth in range(DEEPEST + 1):
        level = [item for holder in level for item in _items(holder)]
        if not level:
            return depth
    return DEEPEST + 1


def _items(holder: object) -> list[Any]:
    items = holder.values() if isinstance(holder, dict) else holder
    return [item for item in items if isinstance(item, dict | list | tuple)] if items else []  # type: ignore[attr-defined]


def _reason(exc: Exception) -> str:
    """Where a document is no schema, and why not."""
    if isinstance(exc, jsonschema_rs.ValidationError):
        return _told(exc)
    return _short(str(exc))


def _told(error: jsonschema_rs.ValidationError) -> str:
    where = pointer(list(error.instance_path))
    return f"at {where}: {_short(error.message)}" if where else _short(error.message)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 20]} ... {text[-15:]}"
