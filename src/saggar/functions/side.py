"""One side of a typed function: its Python type, its JSON Schema, and the way between the two."""

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

# Pydantic brings it, and reads no other TypedDict before Python 3.12.
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from saggar.errors import InvalidTask
from saggar.model.schema import Schema, Source, pointer

T = TypeVar("T")

_PLAIN: Final = (str, int, float, bool, type(None))
_HOLDERS: Final = (dict, list, tuple, set, frozenset)
_CONTAINERS: Final = (list, dict, Mapping, Union, types.UnionType, Literal)


class Side(Generic[T]):
    """
    What may stand on one side, and how it becomes JSON and comes back.

    A given schema wins over the one derived from the type; without either anything may pass.
    """

    def __init__(self, kind: Any = Any, schema: Source | None = None) -> None:
        self._kind = kind
        self._adapter: TypeAdapter[T] | None = None if _is_plain(kind) else _adapter(kind)
        self.plain = self._adapter is None
        """Whether its values are JSON already."""
        derived = None if schema is not None or kind is Any else _derived(kind)
        source = schema if schema is not None else derived
        self.schema: Schema | None = None if source is None else Schema.of(source)

    @property
    def is_valid(self) -> Callable[[object], bool] | None:
        """The quick form of `problem`, where there is a schema."""
        return None if self.schema is None else self.schema.is_valid

    def problem(self, plain: object) -> str | None:
        """What the schema does not allow about a JSON value; None when it allows it."""
        return None if self.schema is None else self.schema.problem(plain)

    def lower(self, value: object) -> Any:
        """
        A value in the form that has a JSON text.

        Raises:
            ValueError: It is not of this side's type; says where.
        """
        if self._adapter is None:
            return value
        try:
            return self._dumped(value, "error")
        except Exception as exc:  # a serializer of the caller's own may raise anything
            if not isinstance(value, _HOLDERS) and not self._is_kind(value):
                if isinstance(value, _PLAIN):
                    return value  # its JSON form already: the schema judges it
                raise ValueError(f"wanted {_name(self._kind)}, found {_name(type(value))}") from exc
        try:
            # Wrong somewhere within: the schema, and `lift`, say where.
            return self._dumped(value, "none")
        except Exception as exc:
            raise ValueError(_first_line(exc)) from exc

    def _dumped(self, value: object, warnings: Literal["none", "error"]) -> Any:
        adapter = typing.cast("TypeAdapter[Any]", self._adapter)
        return adapter.dump_python(
            value, mode="json", by_alias=True, round_trip=True, warnings=warnings
        )

    def _is_kind(self, value: object) -> bool:
        return isinstance(self._kind, type) and isinstance(value, self._kind)

    def lift(self, plain: Any) -> T:
        """
        The typed value that a JSON value stands for.

        Raises:
            ValueError: It stands for none; says where.
        """
        if self._adapter is None:
            return typing.cast("T", plain)
        try:
            return self._adapter.validate_python(plain)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = pointer(list(first["loc"]))
            raise ValueError(f"at {where}: {first['msg']}" if where else first["msg"]) from None


def _is_plain(kind: Any, within: tuple[Any, ...] = ()) -> bool:
    """Whether its values are what JSON has: nothing to convert on either way."""
    if kind is Any or kind is None or kind in (*_PLAIN, list, dict, *within):
        return True
    if is_typeddict(kind):
        return all(_is_plain(hint, (*within, kind)) for hint in _hints(kind).values())
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return all(isinstance(value, _PLAIN) for value in arguments)
    if origin in {dict, Mapping} and arguments[0] is not str:
        return False  # a key that is no text becomes one
    if origin in {Required, NotRequired, *_CONTAINERS}:
        return all(_is_plain(each, within) for each in arguments)
    return False


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return get_type_hints(kind, include_extras=True)
    except (NameError, TypeError) as exc:
        raise InvalidTask(f"{_name(kind)} names a type that cannot be found: {exc}") from None


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind if sys.version_info >= (3, 12) else _portable(kind))
    except RecursionError:
        raise InvalidTask(
            f"{_name(kind)} holds itself: before Python 3.12 a TypedDict that does must be"
            " typing_extensions.TypedDict"
        ) from None
    except PydanticUserError as exc:
        raise InvalidTask(
            f"{kind!r:.80} is no type of an input or output; there are: JSON's own, Any,"
            f" dataclasses, TypedDicts, pydantic models ({_first_line(exc)})"
        ) from None


def _portable(kind: Any) -> Any:
    """The type with TypedDicts that pydantic reads: before Python 3.12, `typing`'s it does not."""
    origin, arguments = get_origin(kind), get_args(kind)
    if typing.is_typeddict(kind):
        return _extended(kind)
    if origin in {Union, types.UnionType}:
        return Union[tuple(map(_portable, arguments))]  # noqa: UP007 - of however many
    if origin in {Required, NotRequired}:
        return typing.cast("Any", origin)[_portable(arguments[0])]
    if arguments and origin in {list, dict, tuple, set, Mapping}:
        return typing.cast("Any", origin)[tuple(map(_portable, arguments))]
    return kind


def _extended(kind: Any) -> Any:
    """The same TypedDict by the name of another module."""
    fields = {}
    for name, hint in _hints(kind).items():
        found = _portable(hint)
        if get_origin(hint) not in {Required, NotRequired}:
            found = Required[found] if name in kind.__required_keys__ else NotRequired[found]
        fields[name] = found
    return TypedDict(kind.__name__, fields)  # type: ignore[operator]


def _derived(kind: Any) -> dict[str, Any]:
    try:
        found = _adapter(kind).json_schema()
    except PydanticUserError as exc:
        raise InvalidTask(f"no JSON Schema for {kind!r:.80}: {_first_line(exc)}") from None
    if dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        found.setdefault("type", "object")
    return found


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or f"{kind!r:.80}"


def _first_line(exc: Exception) -> str:
    """The line that says something: pydantic's first one is a heading."""
    lines = [line.strip() for line in str(exc).splitlines() if not line.endswith(":")]
    return (lines or [type(exc).__name__])[0][:300]
