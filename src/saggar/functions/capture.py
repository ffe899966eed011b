"""
Capture: a function with all that it needs, as bytes; and what goes in and comes out of a call.

The one door for cloudpickle. What is defined beside the function travels by value, the project's
own modules as a bundle known by its digest, and installed packages not at all: those are the
environment's to have.
"""

import hashlib
import io
import linecache
import marshal
import os
import pickle
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import cloudpickle

from saggar.functions.errors import Unportable
from saggar.functions.modules import bundle, codes, digest_of, imported, is_project
from saggar.model.codec import CALL, JSON, Answer, Large, Payload
from saggar.model.quantity import MiB

SHARED: Final = 1 << 16
"""Bytes of buffers from which on they go through shared memory."""
EDGE: Final = 64
_PLAIN: Final = (str, int, float, bool, bytes, complex, type(None))
_LENGTH: Final = struct.Struct("<I")


class Marked(Protocol):
    """What a decorator has made of a function, and what it was made of."""

    __saggar_function__: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Captured:
    """A function or class as bytes; unpickled inside a sandbox only."""

    payload: bytes
    digest: str
    """Of the function, as SHA-256."""
    bundle: str
    """Of the project's modules that go along; empty if there are none."""
    modules: tuple[str, ...]
    seen: "Seen" = field(repr=False, compare=False)


@dataclass(slots=True)
class Seen:
    """The values that were captured, to tell whether they are still those."""

    names: list[tuple[Mapping[str, Any], str, Any]] = field(default_factory=list)
    cells: list[tuple[types.CellType, Any]] = field(default_factory=list)
    changeable: bool = False
    """Whether one of them can change and remain the same object."""

    def same(self) -> bool:
        """Whether nothing has changed since."""
        if self.changeable:
            return False
        return all(space.get(name, _GONE) is value for space, name, value in self.names) and all(
            _content(cell) is value for cell, value in self.cells
        )


_GONE: Final = object()
_dumping = threading.RLock()
"""What is pickled by value is a list of cloudpickle's own, for all threads."""


def capture(thing: Any, *, pickles: bool = False, streams: bool = False) -> Captured:
    """
    A function or class as bytes.

    Args:
        thing: What is to be called.
        pickles: Whether its answers are pickled.
        streams: Whether what it yields is sent one by one.

    Raises:
        Unportable: It needs something that cannot leave this process; says what, and what holds it.
        InvalidTask: The modules that it needs are too many, or have no source.
    """
    needs = _Needs()
    needs.follow(thing)
    home = sys.modules.get(getattr(thing, "__module__", None) or "")
    with _dumping, _by_value(home):
        try:
            pickled, named = _dumped(thing)
        except RecursionError:
            raise Unportable(f"{called(thing)} cannot travel: it nests too deep") from None
        except Exception as exc:
            raise Unportable(_why(thing, needs, exc)) from exc
    modules = bundle(named | needs.modules, without=getattr(home, "__name__", "__main__"))
    said = {
        "made_by": (*sys.version_info[:2], cloudpickle.__version__),
        "pickle": pickled,
        "modules": modules,
        "sources": needs.sources(),
        "pickles": pickles,
        "streams": streams,
    }
    return Captured(
        payload=marshal.dumps(said, 2),
        digest=hashlib.sha256(pickled).hexdigest(),
        bundle=digest_of(modules),
        modules=tuple(modules),
        seen=needs.seen,
    )


class _by_value:  # noqa: N801 - read as a word of the `with` it stands in
    """Let a function's own module travel with it: remote ones in it are none inside."""

    def __init__(self, module: types.ModuleType | None) -> None:
        own = module is not None and module.__name__ != "__main__" and is_project(module)
        self._module = module if own else None

    def __enter__(self) -> None:
        if self._module is not None:
            cloudpickle.register_pickle_by_value(self._module)

    def __exit__(self, *exc: object) -> None:
        if self._module is not None:
            cloudpickle.unregister_pickle_by_value(self._module)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's, which tells us what modules are named in what it writes."""

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(file, protocol=5, **options)
        self.named: set[str] = set()

    def persistent_id(self, obj: Any) -> Any:
        """A remote function among what is captured is an ordinary one inside."""
        found = getattr(type(obj), "__saggar_marked__", False)
        return ("remote", obj.__saggar_function__) if found is True else None

    def reducer_override(self, obj: Any) -> Any:
        """What is pickled by its name is to be found there; a file is not what was read of it."""
        if isinstance(obj, io.IOBase) and not isinstance(obj, io.StringIO | io.BytesIO):
            raise pickle.PicklingError(f"cannot pickle an open file: {obj!r:.200}")
        if isinstance(obj, types.ModuleType):
            self.named.add(obj.__name__)
        elif isinstance(obj, type | types.FunctionType):
            self.named.add(getattr(obj, "__module__", None) or "")
        return super().reducer_override(obj)


def _dumped(thing: Any) -> tuple[bytes, set[str]]:
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(thing)
    return file.getvalue(), pickler.named


class _Needs:
    """What a function refers to: its globals, its cells, what it imports; and what those do."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.modules: set[str] = set()
        self.files: dict[str, None] = {}
        self.held: list[tuple[str, Any]] = []
        """What holds each value, in words."""
        self._known: set[int] = set()

    def follow(self, thing: Any, within: str = "") -> None:
        """Everything that is reached from a function or class without leaving what is ours."""
        if id(thing) in self._known:
            return
        self._known.add(id(thing))
        if getattr(type(thing), "__saggar_marked__", False) is True:
            thing = thing.__saggar_function__
        if isinstance(thing, types.FunctionType):
            self._function(thing, within)
        elif isinstance(thing, type):
            if _travels(thing):
                for name, member in list(vars(thing).items()):
                    self._member(thing, name, member)
        elif isinstance(thing, types.MethodType):
            self.follow(thing.__func__, within)
            self._hold("the object it is a method of", thing.__self__)

    def _member(self, kind: type, name: str, member: Any) -> None:
        plain = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if isinstance(plain, types.FunctionType | type):
            self.follow(plain, f" of {kind.__name__}")
        elif not name.startswith("__"):
            self._hold(f"{kind.__name__}.{name}", member)

    def _function(self, function: types.FunctionType, within: str) -> None:
        if not _travels(function):
            return
        self.files.setdefault(function.__code__.co_filename)
        own = function.__qualname__ + within
        names: set[str] = set()
        for code in codes(function.__code__):
            names.update(code.co_names)
            self.modules.update(imported(code, function.__globals__))
        for name in sorted(names):
            if name in function.__globals__:
                value = function.__globals__[name]
                self.seen.names.append((function.__globals__, name, value))
                self._value(f"the global {name!r} that {own} uses", value)
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            value = _content(cell)
            self.seen.cells.append((cell, value))
            self._value(f"the variable {name!r} around {own}", value)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._value(f"a default of {own}", default)
        if (inner := getattr(function, "__wrapped__", None)) is not None:
            self.follow(inner)

    def _value(self, where: str, value: Any) -> None:
        if isinstance(value, types.FunctionType | type | types.MethodType) or getattr(
            type(value), "__saggar_marked__", False
        ):
            self.follow(value)
        else:
            self._hold(where, value)

    def _hold(self, where: str, value: Any) -> None:
        self.held.append((where, value))
        if not _is_constant(value):
            self.seen.changeable = True

    def sources(self) -> dict[str, str]:
        """The files that are pickled by value, for tracebacks."""
        found = {name: "".join(linecache.getlines(name)) for name in self.files}
        return {name: text for name, text in found.items() if text and len(text) < MiB}


def _is_constant(value: Any) -> bool:
    """Whether it will be the same for as long as it is the same object."""
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    kinds = (*_PLAIN, types.ModuleType, types.BuiltinFunctionType, type)
    return type(value) in _PLAIN or isinstance(value, kinds)


def _travels(thing: Any) -> bool:
    """Whether a function or class is the project's own, and not of an installed package."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    return module is None or module.__name__ == "__main__" or is_project(module)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _GONE


# Why something cannot travel.

_KINDS: Final = {
    "TextIOWrapper": "an open file",
    "BufferedReader": "an open file",
    "BufferedWriter": "an open file",
    "BufferedRandom": "an open file",
    "FileIO": "an open file",
    "lock": "a lock",
    "RLock": "a lock",
    "Condition": "a lock",
    "Thread": "a thread",
    "socket": "a socket",
    "SSLSocket": "a socket",
    "generator": "a generator",
    "async_generator": "a generator",
    "coroutine": "a coroutine",
    "Task": "a task of an event loop",
    "Popen": "a running process",
    "Connection": "a connection",
    "frame": "a frame of the interpreter",
    "mmap": "mapped memory",
}


def _why(thing: Any, needs: _Needs, exc: Exception) -> str:
    """What cannot travel, and what holds it."""
    for where, value in needs.held:
        culprit = _culprit(value, where, 0)
        if culprit is not None:
            place, found = culprit
            return (
                f"{called(thing)} cannot travel: {place} is {_described(found)};"
                " make it inside the function, or pass what it is made of"
            )
    return f"{called(thing)} cannot travel: {exc}"


def _culprit(value: Any, where: str, depth: int) -> tuple[str, Any] | None:
    """The innermost thing that does not pickle, and the way to it."""
    if _portable(value):
        return None
    if depth < 8:
        for place, inner in _within(value, where):
            deeper = _culprit(inner, place, depth + 1)
            if deeper is not None:
                return deeper
    return where, value


def _within(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    match value:
        case dict():
            yield from ((f"{where}[{key!r:.40}]", item) for key, item in list(value.items())[:1000])
        case list() | tuple() | set() | frozenset():
            items = enumerate(list(value)[:1000])
            yield from ((f"item {number} of {where}", item) for number, item in items)
        case types.GeneratorType() | types.CoroutineType() | threading.Thread() | io.IOBase():
            return
        case _:
            held = getattr(value, "__dict__", None)
            if isinstance(held, dict):
                yield from ((f"the attribute {name!r} of {where}", v) for name, v in held.items())


def _portable(value: Any) -> bool:
    try:
        with _dumping:
            _dumped(value)
    except Exception:  # noqa: BLE001 - whatever a class of somebody else's raises, it does not travel
        return False
    return True


def _described(value: Any) -> str:
    name = type(value).__name__
    for kind in type(value).__mro__:
        if kind.__name__ in _KINDS:
            return f"{_KINDS[kind.__name__]} ({name})"
    return f"of the class {name}, which cannot be pickled"


def called(thing: Any) -> str:
    """What a function is called."""
    return str(getattr(thing, "__qualname__", None) or type(thing).__name__)


# What goes in, and what comes out.


def encoded(args: Sequence[Any], named: Mapping[str, Any], what: str) -> Payload:
    """
    Arguments: as JSON where that says the same, else pickled, with large buffers beside it.

    Raises:
        Unportable: One of them cannot leave this process.
    """
    if _survives(args, named):
        # The whole is JSON: no part of it need be looked at again.
        return _json((list(args), dict(named)))
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    with _dumping:
        try:
            _Pickler(file, buffer_callback=buffers.append).dump((tuple(args), dict(named)))
        except Exception as exc:
            raise Unportable(_why_not(args, named, what, exc)) from exc
    return _pickled(file.getvalue(), [one.raw() for one in buffers])


def _json(pair: object) -> Payload:
    return Payload.model_construct(media_type=JSON, data=Payload.json(pair).data)


def _survives(  # noqa: C901 - one look at each, as it is asked for every argument
    args: Sequence[Any], named: Mapping[str, Any]
) -> bool:
    """Whether everything comes out of JSON as it went in."""
    left: list[Any] = [*args, *named.values()]
    count = 0
    while left:
        value = left.pop()
        kind = type(value)
        if kind is str:
            if not value.isascii() and not _encodes(value):
                return False
        elif kind is float:
            if value - value != 0.0:  # infinite, or no number
                return False
        elif kind is list:
            left += value
        elif kind is dict:
            if not all(type(key) is str and _encodes(key) for key in value):
                return False
            left += value.values()
        elif kind is not int and kind is not bool and value is not None:
            return False
        count += 1
        if count > 100_000:  # it may contain itself, and a pickle is quicker to make
            return False
    return True


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pickled(data: bytes, buffers: Sequence[memoryview]) -> Payload:
    sizes = [len(data), *(one.nbytes for one in buffers)]
    head = _LENGTH.pack(len(buffers)) + struct.pack(f"<{len(sizes)}Q", *sizes) + data
    if sum(sizes[1:]) < SHARED or not hasattr(os, "memfd_create"):
        return Payload(media_type=CALL, data=b"".join([head, *buffers]))
    return Large.of(head, buffers)


def _why_not(args: Sequence[Any], named: Mapping[str, Any], what: str, exc: Exception) -> str:
    places = [(f"argument {number}", value) for number, value in enumerate(args)]
    places += [(f"the argument {name!r}", value) for name, value in named.items()]
    for where, value in places:
        culprit = _culprit(value, where, 0)
        if culprit is not None:
            return f"{what} cannot be called: {culprit[0]} is {_described(culprit[1])}"
    return f"{what} cannot be called with these arguments: {exc}"


def opened(answer: Answer, *, pickles: bool) -> Any:
    """
    The value of an answer. It is unpickled only where the caller's own code has said so.

    Raises:
        ValueError: It is none, or not of the form that was asked for.
    """
    sizes = answer.document.get("pickle")
    if sizes is None:
        return answer.value()
    if not pickles:
        raise ValueError("it answered with a pickle, which nobody has asked for: result='pickle'")
    whole, offset, parts = answer.buffers, 0, []
    for size in sizes if isinstance(sizes, list) else ():
        if type(size) is not int or not 0 <= offset <= offset + size <= whole.nbytes:
            raise ValueError("its pickle is at no place of the answer")
        parts.append(whole[offset : offset + size])
        offset += -(-size // EDGE) * EDGE
    if not parts:
        raise ValueError("its pickle is empty")
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - as its caller has asked for
