"""What a function is annotated to answer, made again of what has come over."""

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from typing_extensions import get_type_hints, is_typeddict

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
        bare: Any = get_origin(found)
        if getattr(bare or found, "__name__", "") not in _STREAMS:
            return found
        item = (get_args(found) or (Any,))[0]
        # What yields is asked for each item; what answers with several has a list.
        return item if _yields(self._function) else Each[item]  # type: ignore[valid-type]

    @cached_property
    def _lift(self) -> Callable[[Any], Any]:
        return lifting(self.kind)

    def lifted(self, plain: Any) -> Any:
        """A value of the annotated type. ValueError if it stands for none."""
        return self._lift(plain)


T = TypeVar("T")


class Each(Generic[T]):
    """The annotation of what answers with any number of something, in whatever holds it."""


def _yields(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def lifting(kind: Any) -> Callable[[Any], Any]:
    """
    The way to values of a type.

    JSON's own types are looked at and left as they are; of others pydantic makes what they stand
    for; what it does not know is ours, which knows dataclasses.
    """
    if kind is Any or isinstance(kind, TypeVar):
        return lambda plain: plain
    if get_origin(kind) is Each:
        inner = lifting(get_args(kind)[0])
        return lambda plain: (
            type(plain)(inner(item) for item in plain)
            if type(plain) in (list, tuple, set, frozenset)
            else plain
        )
    try:
        # A schema that allows everything: one is of no use here, and not every type has one.
        side: Side[Any] = Side(kind, {})
    except (InvalidTask, RecursionError):
        return lambda plain: rebuilt(kind, plain)
    if side.plain:
        return checking(kind)
    return lambda plain: _lifted(side, kind, plain)


def _lifted(side: Side[Any], kind: Any, plain: Any) -> Any:
    try:
        return side.lift(plain)
    except ValueError as exc:
        if lacking := _not_kept(kind):
            raise ValueError(
                f"{kind.__name__} cannot be made of its fields: it wants {lacking!r} (InitVar),"
                " which it does not keep; say result='pickle'"
            ) from exc
        raise


def _not_kept(kind: Any) -> str:
    """What a dataclass is made of and has no field for."""
    for name, one in getattr(kind, "__dataclass_fields__", {}).items():
        if isinstance(one.type, dataclasses.InitVar) and one.default is dataclasses.MISSING:
            return str(name)
    return ""


Check = Callable[[Any], Any]


def checking(kind: Any) -> Check:
    """
    A look at values of a type of JSON's own, which are left as they are; a tuple where a list was
    meant becomes one. What it returns raises ValueError for a value of another type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    bare = origin or kind
    if kind is Any:
        return lambda plain: plain
    if origin in {Union, types.UnionType}:
        return _any_of(kind, [checking(one) for one in arguments])
    if bare is list:
        return _list_of(kind, *(arguments or (Any,)))
    if bare in (dict, Mapping):
        return _dict_of(kind, *(arguments or (Any, Any)))
    if is_typeddict(kind):
        return lambda plain: _typed(kind, plain)
    return _one_of(kind, arguments if origin is Literal else None)


_EXACT: Mapping[Any, frozenset[type]] = {
    str: frozenset((str,)),
    int: frozenset((int, bool)),
    float: frozenset((float, int, bool)),
    bool: frozenset((bool,)),
    None: frozenset((type(None),)),
    type(None): frozenset((type(None),)),
}


def _one_of(kind: Any, literals: Sequence[Any] | None) -> Check:
    fits = _EXACT.get(kind, frozenset()) if literals is None else frozenset()

    def check(plain: Any) -> Any:
        if type(plain) in fits:
            return plain
        if any(plain == one and type(plain) is type(one) for one in literals or ()):
            return plain
        raise _misfit(kind, plain)

    return check


def _any_of(kind: Any, checks: Sequence[Check]) -> Check:
    def check(plain: Any) -> Any:
        for one in checks:
            try:
                return one(plain)
            except ValueError:
                continue
        raise _misfit(kind, plain)

    return check


def _list_of(kind: Any, item: Any) -> Check:
    inner, fits = checking(item), _EXACT.get(item, frozenset())

    def check(plain: Any) -> Any:
        if type(plain) not in (list, tuple):
            raise _misfit(kind, plain)
        # Numbers by the million are looked at all at once.
        same = fits and fits.issuperset(map(type, plain))
        return list(plain) if same else [inner(one) for one in plain]

    return check


def _dict_of(kind: Any, key: Any, item: Any) -> Check:
    of_key, of_item = checking(key), checking(item)

    def check(plain: Any) -> Any:
        if type(plain) is not dict:
            raise _misfit(kind, plain)
        return {of_key(name): of_item(one) for name, one in plain.items()}

    return check


def _typed(kind: Any, plain: Any) -> dict[str, Any]:
    if type(plain) is not dict:
        raise _misfit(kind, plain)
    missing = kind.__required_keys__ - plain.keys()
    if missing:
        raise ValueError(f"{kind.__name__} wants {min(missing)!r}")
    checks = _checks_of(kind)
    return {key: checks[key](one) if key in checks else one for key, one in plain.items()}


@lru_cache(maxsize=256)
def _checks_of(kind: Any) -> dict[str, Check]:
    return {name: checking(hint) for name, hint in get_type_hints(kind).items()}


def _misfit(kind: Any, plain: Any) -> ValueError:
    wanted = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    found = f"{type(plain).__name__} {plain!r:.40}"
    return ValueError(f"wanted {wanted.removeprefix('typing.')}, found {found}")


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
