"""What a function is annotated to answer, made again of what has come over."""

import dataclasses
import types
from collections.abc import Callable
from functools import cached_property
from typing import Any, Union, get_args, get_origin

from typing_extensions import get_type_hints

from saggar.errors import InvalidTask
from saggar.functions.side import Side


class Annotation:
    """The return annotation of a function; nothing is asked of it before the first answer."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @cached_property
    def kind(self) -> Any:
        """The type; Any where there is none, or none that can be found."""
        try:
            hints = get_type_hints(self._function)
        except Exception:  # noqa: BLE001 - an annotation is any expression, and may name what is not there
            return Any
        found = hints.get("return", Any)
        if getattr(get_origin(found), "__name__", "") in _STREAMS:
            return (get_args(found) or (Any,))[0]
        return found

    @cached_property
    def _lift(self) -> Callable[[Any], Any]:
        """Pydantic's way where it knows the type; else ours, which knows dataclasses."""
        if self.kind is Any or self.kind is None:
            return lambda plain: plain
        try:
            side: Side[Any] = Side(self.kind)
        except InvalidTask:
            return lambda plain: rebuilt(self.kind, plain)
        return side.lift

    def lifted(self, plain: Any) -> Any:
        """A value of the annotated type. ValueError if it stands for none."""
        return self._lift(plain)


_STREAMS = frozenset(
    ("Generator", "Iterator", "Iterable", "AsyncGenerator", "AsyncIterator", "AsyncIterable")
)


def rebuilt(kind: Any, plain: Any) -> Any:
    """
    Dataclasses of fields that have no schema, an array among them; anything else as it is.

    Raises:
        ValueError: A dataclass cannot be made of it.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        found = [each for each in arguments if each is not type(None)]
        return rebuilt(found[0], plain) if plain is not None and len(found) == 1 else plain
    if origin in {list, tuple, set, frozenset} and isinstance(
        plain, list | tuple | set | frozenset
    ):
        inner = arguments[0] if arguments else Any
        return type(plain)(rebuilt(inner, item) for item in plain)
    if origin is dict and isinstance(plain, dict):
        return {key: rebuilt(arguments[1], item) for key, item in plain.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(plain, dict):
        return _dataclass(kind, plain)
    return plain


def _dataclass(kind: type, plain: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    names = {one.name: one.init for one in dataclasses.fields(kind)}
    unknown = plain.keys() - names.keys()
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {min(unknown)!r:.60}")
    said = {
        name: rebuilt(hints.get(name, Any), item) for name, item in plain.items() if names[name]
    }
    try:
        return kind(**said)
    except TypeError as exc:
        raise ValueError(str(exc)) from None
