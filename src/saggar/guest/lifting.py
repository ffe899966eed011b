"""
Between JSON and what annotations say, inside: for baked functions, whose callers send plain values.

The host does the same with pydantic, which need not be here. A schema has judged what comes, so
what fits nothing is passed on as it is, and the function says what it thinks of it.
"""

import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import json
import pathlib
import types
import typing
import uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Lift = Callable[[Any], Any]

DEEPEST = 200
SEQUENCES = frozenset(("list", "Sequence", "Iterable", "Collection", "MutableSequence"))
SETS = frozenset(("set", "Set", "MutableSet", "AbstractSet"))
MAPPINGS = frozenset(("dict", "Mapping", "MutableMapping", "OrderedDict", "defaultdict"))
SPOKEN: "dict[Any, Lift]" = {
    float: lambda plain: float(plain) if type(plain) is int else plain,
    bytes: lambda plain: plain.encode() if type(plain) is str else plain,
    complex: lambda plain: complex(plain) if type(plain) in (str, int, float) else plain,
    set: lambda plain: set(plain) if type(plain) is list else plain,
    frozenset: lambda plain: frozenset(plain) if type(plain) is list else plain,
    tuple: lambda plain: tuple(plain) if type(plain) is list else plain,
    dt.datetime: dt.datetime.fromisoformat,
    dt.date: dt.date.fromisoformat,
    dt.time: dt.time.fromisoformat,
    decimal.Decimal: lambda plain: decimal.Decimal(str(plain)),
    uuid.UUID: uuid.UUID,
    pathlib.Path: pathlib.Path,
}


class Signature:
    """What a callable wants its arguments to be."""

    def __init__(self, function: "Any", hinted: "Any" = None) -> None:
        """With `hinted`, that is where the annotations are: a class's are its constructor's."""
        hints = hints_of(function if hinted is None else hinted)
        self._each: list[Lift | None] = []
        self._named: dict[str, Lift | None] = {}
        self._more: Lift | None = None
        self._others: Lift | None = None
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # of C, without a signature
            parameters = []
        for one in parameters:
            lift = lifter(hints.get(one.name, typing.Any))
            if one.kind is one.VAR_POSITIONAL:
                self._more = lift
            elif one.kind is one.VAR_KEYWORD:
                self._others = lift
            else:
                if one.kind is not one.KEYWORD_ONLY:
                    self._each.append(lift)
                self._named[one.name] = lift
        self._idle = not any((*self._each, *self._named.values(), self._more, self._others))

    def lifted(
        self, args: "list[Any]", named: "dict[str, Any]"
    ) -> "tuple[list[Any], dict[str, Any]]":
        """The arguments as they are annotated."""
        if self._idle:
            return args, named
        lifts = [*self._each, *[self._more] * max(0, len(args) - len(self._each))]
        lifted = [
            one if lift is None else lift(one) for one, lift in zip(args, lifts, strict=False)
        ]
        return lifted, {
            name: one if (lift := self._named.get(name, self._others)) is None else lift(one)
            for name, one in named.items()
        }


def hints_of(function: "Any") -> "dict[str, Any]":
    """Annotations, as far as they name what there is."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation is any expression
        return {}


def lifter(kind: "Any", within: "dict[Any, Lift] | None" = None) -> "Lift | None":
    """What makes a value of this type of a plain one; None where it is one already."""
    within = {} if within is None else within
    if isinstance(kind, typing.NewType):
        return lifter(kind.__supertype__, within)
    if hasattr(kind, "__value__"):  # type X = ...
        return lifter(kind.__value__, within)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Annotated, typing.Required, typing.NotRequired):
        return lifter(arguments[0], within)
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, within)
    if origin is not None:
        return _holder(getattr(origin, "__name__", ""), arguments, within)
    return _class(kind, within) if isinstance(kind, type) else None


def _one_of(kinds: "tuple[Any, ...]", within: "dict[Any, Lift]") -> "Lift | None":
    """The first of them that it can be."""
    lifts = [(kind, lifter(kind, within)) for kind in kinds if kind is not type(None)]
    if not any(lift for _, lift in lifts):
        return None

    def lift(plain: "Any") -> "Any":
        if plain is None:
            return None
        for kind, each in lifts:
            if each is None:
                held = typing.get_origin(kind) or kind
                if not isinstance(held, type) or isinstance(plain, held):
                    return plain
                continue
            try:
                return each(plain)
            except (ValueError, TypeError, ArithmeticError):
                continue
        return plain

    return lift


def _holder(name: str, arguments: "tuple[Any, ...]", within: "dict[Any, Lift]") -> "Lift | None":
    lifts = [lifter(one, within) for one in arguments if one is not Ellipsis]
    if name == "tuple" and len(arguments) == len(lifts):
        return lambda plain: tuple(
            one if lift is None else lift(one) for one, lift in zip(plain, lifts, strict=True)
        )
    if name in MAPPINGS and len(lifts) == 2:
        return _mapping(arguments[0], lifts[1], within)
    make: Any = {"tuple": tuple, "frozenset": frozenset}.get(name)
    if name in SETS:
        make = set
    elif name in SEQUENCES:
        make = list
    inner = lifts[0] if lifts else None
    if make is None or (make is list and inner is None):
        return None
    return lambda plain: make(plain if inner is None else map(inner, plain))


def _mapping(key: "Any", inner: "Lift | None", within: "dict[Any, Lift]") -> "Lift | None":
    of_key: Any = int if key is int else lifter(key, within)
    if of_key is None and inner is None:
        return None
    return lambda plain: {
        name if of_key is None else of_key(name): one if inner is None else inner(one)
        for name, one in plain.items()
    }


def _class(  # noqa: PLR0911 - one for each kind of class
    kind: "Any", within: "dict[Any, Lift]"
) -> "Lift | None":
    if kind in SPOKEN:
        return SPOKEN[kind]
    if kind in within:  # it holds itself
        return within[kind]
    if hasattr(kind, "model_validate"):
        return lambda plain: kind.model_validate(plain) if isinstance(plain, dict) else plain
    if issubclass(kind, enum.Enum):
        return lambda plain: plain if isinstance(plain, kind) else kind(plain)
    if dataclasses.is_dataclass(kind):
        return _fields(kind, within)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple(kind, within)
    if typing.is_typeddict(kind) and issubclass(kind, dict):
        return _typed_dict(kind, within)
    return None


def _fields(kind: "Any", within: "dict[Any, Lift]") -> "Lift":
    """Of an object the dataclass; its fields are looked at when the first one comes."""
    lifts: dict[str, Lift | None] = {}

    def lift(plain: "Any") -> "Any":
        if not isinstance(plain, dict):
            return plain
        if not lifts:
            hints = hints_of(kind)
            for one in dataclasses.fields(kind):
                if one.init:
                    lifts[one.name] = lifter(hints.get(one.name, typing.Any), within)
        if unknown := plain.keys() - lifts.keys():
            raise ValueError(f"{kind.__name__} has no field {min(unknown)!r:.60}")
        said = {
            name: one if (each := lifts[name]) is None else each(one) for name, one in plain.items()
        }
        return kind(**said)

    within[kind] = lift
    return lift


def _named_tuple(kind: "Any", within: "dict[Any, Lift]") -> "Lift":
    hints = hints_of(kind)
    lifts = [lifter(hints.get(name, typing.Any), within) for name in kind._fields]
    return lambda plain: kind(
        *(one if lift is None else lift(one) for one, lift in zip(plain, lifts, strict=False))
    )


def _typed_dict(kind: "Any", within: "dict[Any, Lift]") -> "Lift":
    lifts: dict[str, Lift | None] = {}

    def lift(plain: "Any") -> "Any":
        if not lifts:
            lifts.update((name, lifter(hint, within)) for name, hint in hints_of(kind).items())
        return {
            name: one if (each := lifts.get(name)) is None else each(one)
            for name, one in plain.items()
        }

    within[kind] = lift
    return lift


def lowered(value: "Any") -> bytes:
    """A value as JSON. ValueError where it has no JSON form; says where."""
    return json.dumps(_plain(value, ()), allow_nan=False).encode()


def _plain(value: "Any", path: "tuple[Any, ...]") -> "Any":
    kind = type(value)
    if kind in (str, int, bool, float, type(None)):
        return value
    if len(path) > DEEPEST:
        raise ValueError(f"{_at(path[:9])}it nests deeper than {DEEPEST}, or contains itself")
    if isinstance(value, dict):
        return {_key(name, path): _plain(one, (*path, name)) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one, (*path, number)) for number, one in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (one.name for one in dataclasses.fields(value))
        return {name: _plain(getattr(value, name), (*path, name)) for name in names}
    return _spoken(value, path)


def _spoken(  # noqa: PLR0911 - one for each kind of value
    value: "Any", path: "tuple[Any, ...]"
) -> "Any":
    """What JSON says by a text or a number."""
    if isinstance(value, enum.Enum):
        return _plain(value.value, path)
    if isinstance(value, (bytes, bytearray)):
        return value.decode()
    for held in (str, bool, int, float):
        if isinstance(value, held):
            return held(value)
    if isinstance(value, dt.timedelta):
        return f"PT{value.total_seconds():g}S"
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID, pathlib.PurePath, complex)):
        return str(value)
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="json", by_alias=True), path)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # an array's, and one of its numbers
        return _plain(value.tolist(), path)
    # As json.dumps has it, with the place where it is.
    raise TypeError(f"{_at(path)}Object of type {type(value).__name__} is not JSON serializable")


def _key(name: "Any", path: "tuple[Any, ...]") -> str:
    if isinstance(name, str):
        return str(name)
    said = _plain(name, (*path, name))
    return said if isinstance(said, str) else json.dumps(said)


def _at(path: "tuple[Any, ...]") -> str:
    return f"at /{'/'.join(map(str, path))}: " if path else ""
