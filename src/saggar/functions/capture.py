"""
Capture: a function with all that it needs, as bytes; and what goes in and comes out of a call.

The one door for cloudpickle. What is defined beside the function travels by value, the project's
own modules as a bundle known by its digest, and installed packages not at all: those are the
environment's to have.
"""

import functools
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
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NewType, Protocol

import cloudpickle

from saggar.functions.errors import Unportable
from saggar.functions.modules import (
    Stamp,
    bundle,
    codes,
    digest_of,
    imported,
    is_made_by_hand,
    is_project,
    stamp_of,
)
from saggar.model.codec import CALL, JSON, Answer, Large, Payload
from saggar.model.quantity import MiB, format_bytes
from saggar.model.task import LARGEST_TASK

SHARED: Final = 1 << 16
"""Bytes of buffers from which on they go through shared memory."""
EDGE: Final = 64
FEW: Final = 64
SHORT: Final = 1 << 10
"""Items and bytes of a container that is looked at before each call; a longer one travels anew."""
_PLAIN: Final = (str, int, float, bool, bytes, complex, type(None))
_CONSTANT: Final = (types.ModuleType, types.BuiltinFunctionType, types.MemberDescriptorType, Enum)
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
    seams: tuple[int, int] = (0, 0)
    """Where in the payload the bundle begins and ends."""
    home: types.ModuleType | None = field(default=None, repr=False, compare=False)
    """The module that it was made in, which travels by value."""


@dataclass(slots=True)
class Seen:
    """What was captured, to tell whether it is still that."""

    names: list[tuple[Mapping[str, Any], str, Any]] = field(default_factory=list)
    cells: list[tuple[types.CellType, Any]] = field(default_factory=list)
    functions: list[tuple[types.FunctionType, tuple[Any, ...]]] = field(default_factory=list)
    """What they run, which whoever reloads them in place replaces."""
    spaces: list[tuple[Mapping[str, Any], dict[str, Any]]] = field(default_factory=list)
    """What classes and functions have for attributes."""
    contents: list[tuple[Any, bytes]] = field(default_factory=list)
    """What is in short lists, sets and dictionaries of plain values."""
    loaded: list[tuple[types.ModuleType, Any]] = field(default_factory=list)
    """Modules of the bundle: whoever reloads one gives it another spec."""
    files: list[tuple[str, Stamp | None]] = field(default_factory=list)
    """Those of the bundle that are not loaded here."""
    changeable: bool = False
    """Whether one of them can change and remain the same object."""

    def same(self) -> bool:
        """Whether nothing has changed since."""
        if self.changeable:
            return False
        return (
            all(space.get(name, _GONE) is value for space, name, value in self.names)
            and all(_content(cell) is value for cell, value in self.cells)
            and all(
                function.__code__ is code
                and function.__defaults__ is defaults
                and function.__kwdefaults__ is named
                for function, (code, defaults, named) in self.functions
            )
            and all(_is_still(space, kept) for space, kept in self.spaces)
            and all(_content_of(value) == content for value, content in self.contents)
            and all(module.__spec__ is spec for module, spec in self.loaded)
            and all(stamp_of(path) == stamp for path, stamp in self.files)
        )

    def bundled(self, modules: Mapping[str, tuple[Any, ...]]) -> None:
        """The project's modules as they were."""
        for name, (_, _, _, path) in modules.items():
            if isinstance(module := sys.modules.get(name), types.ModuleType):
                self.loaded.append((module, module.__spec__))
            elif path:
                self.files.append((path, stamp_of(path)))


def _is_still(space: Mapping[str, Any], kept: dict[str, Any]) -> bool:
    return len(space) == len(kept) and all(
        space.get(name, _GONE) is value for name, value in kept.items()
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
    home = home_of(thing)
    with _dumping, _by_value(home):
        try:
            pickled, named = _dumped(thing)
        except RecursionError:
            raise Unportable(f"{called(thing)} cannot travel: it nests too deep") from None
        except Exception as exc:
            raise Unportable(_why(thing, needs, exc)) from exc
    # Its own module travels by value; besides, it goes along only where somebody imports it.
    others = named - {_name_of(home)} | needs.modules
    _refuse_made_by_hand(others, called(thing))
    modules = bundle(others)
    needs.seen.bundled(modules)
    said = {
        "made_by": (*sys.version_info[:2], cloudpickle.__version__),
        "pickle": pickled,
        "modules": modules,
        "sources": needs.sources(),
        "pickles": pickles,
        "streams": streams,
    }
    payload = marshal.dumps(said, 2)
    return Captured(
        payload=payload,
        digest=hashlib.sha256(pickled).hexdigest(),
        bundle=digest_of(modules),
        modules=tuple(modules),
        seen=needs.seen,
        seams=_seams(payload, modules),
        home=home,
    )


def home_of(thing: Any) -> types.ModuleType | None:
    """The module that something was made in."""
    return sys.modules.get(getattr(thing, "__module__", None) or "")


def _name_of(home: types.ModuleType | None) -> str:
    return getattr(home, "__name__", "__main__")


def _refuse_made_by_hand(names: Iterable[str], what: str) -> None:
    for name in sorted(names):
        if is_made_by_hand(name):
            raise Unportable(
                f"{what} cannot travel: the module {name!r} was made by hand, and has no source;"
                " make what is needed of it inside the function"
            )


def _seams(payload: bytes, modules: dict[str, Any]) -> tuple[int, int]:
    """Where the bundle lies. This version of marshal writes it the same wherever it stands."""
    inner = marshal.dumps(modules, 2)
    start = payload.find(inner) if modules else -1
    return (0, 0) if start < 0 else (start, start + len(inner))


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

    def __init__(self, file: Any, ahead: bytes = b"", **options: Any) -> None:
        super().__init__(file, protocol=5, **options)
        self.named: set[str] = set()
        self._apart = options.get("buffer_callback") is not None
        self._large: dict[int, tuple[int, Any]] = {}
        self.modules = Ahead(ahead)

    def persistent_id(self, obj: Any) -> Any:
        """What is told apart: remote functions, which are ordinary ones inside, and many bytes."""
        kind = type(obj)
        if kind is bytes or kind is bytearray:
            return self._bytes(obj) if self._apart and len(obj) >= SHARED else None
        if kind is Ahead:
            return "modules", obj.data
        found = getattr(kind, "__saggar_marked__", False)
        return ("remote", obj.__saggar_function__) if found is True else None

    def _bytes(self, obj: Any) -> tuple[Any, ...]:
        """Beside the rest, where a pickle would have copied them into it."""
        known = self._large.get(id(obj))
        if known is not None:
            return "again", known[0]
        number = len(self._large)
        self._large[id(obj)] = number, obj  # kept, so that no other has its id meanwhile
        return type(obj).__name__, number, pickle.PickleBuffer(obj)

    def reducer_override(self, obj: Any) -> Any:
        """What is pickled by its name is to be found there; a file is not what was read of it."""
        if isinstance(obj, io.IOBase) and not isinstance(obj, io.StringIO | io.BytesIO):
            raise pickle.PicklingError(f"cannot pickle an open file: {obj!r:.200}")
        if isinstance(obj, types.ModuleType):
            self.named.add(obj.__name__)
        elif isinstance(obj, type | types.FunctionType):
            self.named.add(getattr(obj, "__module__", None) or "")
        elif type(obj) is NewType and _travels(obj):
            return NewType, (obj.__name__, obj.__supertype__)
        elif type(obj) is _Cached and _travels(obj):
            return _cached(obj)
        return super().reducer_override(obj)


@dataclass(frozen=True, slots=True)
class Ahead:
    """Modules that have to be there before what follows them is read."""

    data: bytes


_Cached: Final[Any] = functools._lru_cache_wrapper  # noqa: SLF001 - what lru_cache makes has no other name


def _cached(obj: Any) -> tuple[Any, ...]:
    """What `lru_cache` has made of a function, with nothing in it."""
    said = obj.cache_parameters()
    made = (obj.__wrapped__, said["maxsize"], said["typed"], functools._CacheInfo)  # noqa: SLF001
    return _Cached, made, dict(vars(obj))


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
                self._space(vars(thing))
                for name, member in list(vars(thing).items()):
                    self._member(thing, name, member)
        elif isinstance(thing, _Cached):
            self.follow(thing.__wrapped__, within)
        elif isinstance(thing, types.MethodType):
            self.follow(thing.__func__, within)
            self._hold(f"the object of the method {thing.__qualname__}", thing.__self__)

    def _member(self, kind: type, name: str, member: Any) -> None:
        plain = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if isinstance(plain, types.FunctionType | type):
            self.follow(plain, f" of {kind.__name__}")
        elif not (name.startswith("__") or name == "_abc_impl" or _is_own(kind, name)):
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
        defaults, named = function.__defaults__, function.__kwdefaults__
        self.seen.functions.append((function, (function.__code__, defaults, named)))
        for default in (*(defaults or ()), *(named or {}).values()):
            self._value(f"a default of {own}", default)
        self._space(vars(function))
        if named:
            self._space(named)
        for name, value in list(vars(function).items()):
            self._value(f"the attribute {name!r} of {own}", value)

    def _space(self, space: Mapping[str, Any]) -> None:
        self.seen.spaces.append((space, dict(space)))

    def _value(self, where: str, value: Any) -> None:
        if isinstance(value, types.FunctionType | type | types.MethodType | _Cached) or getattr(
            type(value), "__saggar_marked__", False
        ):
            self.follow(value)
        else:
            self._hold(where, value)

    def _hold(self, where: str, value: Any) -> None:
        self.held.append((where, value))
        if _is_constant(value):
            return
        content = _content_of(value)
        if content is None:
            self.seen.changeable = True
        else:
            self.seen.contents.append((value, content))

    def sources(self) -> dict[str, str]:
        """The files that are pickled by value, for tracebacks."""
        found = {name: "".join(linecache.getlines(name)) for name in self.files}
        return {name: text for name, text in found.items() if text and len(text) < MiB}


def _is_own(kind: type, name: str) -> bool:
    """Whether Python keeps it in an enumeration, beside the members."""
    return issubclass(kind, Enum) and name[:1] == name[-1:] == "_"


def _is_constant(value: Any) -> bool:
    """Whether it will be the same for as long as it is the same object."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(_is_constant, value))
    return kind in _PLAIN or isinstance(value, _CONSTANT)


def _content_of(value: Any) -> bytes | None:
    """What is in a short container, types and all; None for anything else."""
    if type(value) not in (list, dict, set) or len(value) > FEW:
        return None
    try:
        content = marshal.dumps(value, 2)
    except ValueError:
        return None
    return content if len(content) <= SHORT else None


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
    "WeakKeyDictionary": "a dictionary of weak references, as functools.singledispatch keeps one",
    "WeakValueDictionary": "a dictionary of weak references",
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
        case weakref.WeakKeyDictionary() | weakref.WeakValueDictionary():
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


def encoded(
    args: Sequence[Any],
    named: Mapping[str, Any],
    what: str,
    home: types.ModuleType | None = None,
    there: Sequence[str] = (),
) -> Payload:
    """
    Arguments: as JSON where that says the same, else pickled, with large buffers beside it.

    Args:
        args: By their places.
        named: By their names.
        what: What is called, for messages.
        home: The module of what is called: classes of it travel by value, as that does.
        there: Modules of the project that travel with it. Others that are named go ahead of what
            names them.

    Raises:
        Unportable: One of them cannot leave this process.
    """
    if _survives(args, named):
        # The whole is JSON: no part of it need be looked at again.
        return _light(_json((list(args), dict(named))), what)
    with _dumping, _by_value(home):
        try:
            pickled, buffers, modules = _arguments(args, named)
        except Exception as exc:
            raise Unportable(_why_not(args, named, what, exc)) from exc
        _refuse_made_by_hand(modules, what)
        missing = modules - {*there, _name_of(home)}
        found = bundle(missing) if missing else {}
        if found:
            pickled, buffers, _ = _arguments(args, named, marshal.dumps(found, 2))
    return _light(_pickled(pickled, [one.raw() for one in buffers]), what)


def refuse_beyond(room: int, payload: Payload, what: str) -> None:
    """Unportable if large arguments have more bytes than there is memory for them."""
    weight = sum(one.nbytes for one in payload.beside) if isinstance(payload, Large) else 0
    if weight > room:
        raise Unportable(
            f"{what} cannot be called: its arguments have {format_bytes(weight)}, more than its"
            f" limit of memory ({format_bytes(room)}); limits={{'memory': ...}} says another one"
        )


def _arguments(
    args: Sequence[Any], named: Mapping[str, Any], ahead: bytes = b""
) -> tuple[bytes, list[pickle.PickleBuffer], set[str]]:
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    pickler = _Pickler(file, ahead, buffer_callback=buffers.append)
    whole = (tuple(args), dict(named))
    pickler.dump((pickler.modules, *whole) if ahead else whole)
    return file.getvalue(), buffers, pickler.named


def _light(payload: Payload, what: str) -> Payload:
    """It, if a queue and a channel have room for it; bytes and arrays beside it do not count."""
    if len(payload.data) > LARGEST_TASK:
        raise Unportable(
            f"{what} cannot be called: its arguments have {format_bytes(len(payload.data))} beside"
            f" arrays and bytes, more than {format_bytes(LARGEST_TASK)}; pass what is large as"
            " bytes or an array, or its path"
        )
    return payload


def _json(pair: object) -> Payload:
    return Payload.model_construct(media_type=JSON, data=Payload.json(pair).data)


def _survives(  # noqa: C901, PLR0911 - one look at each, as it is asked for every argument
    args: Sequence[Any], named: Mapping[str, Any]
) -> bool:
    """Whether everything comes out of JSON as it went in."""
    left: list[Any] = [*args, *named.values()]
    held: set[int] = set()
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
        elif kind is list or kind is dict:
            if id(value) in held:
                return False  # two places of one list: what changes it in one changes both
            held.add(id(value))
            if kind is list:
                left += value
            elif all(type(key) is str and _encodes(key) for key in value):
                left += value.values()
            else:
                return False
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
