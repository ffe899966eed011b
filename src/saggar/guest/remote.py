"""
A remote function, inside: the function and its modules arrive as bytes, are called once, and what
they come to goes back as a document with buffers beside it.

Imported in the fork server, so that a call finds pickle and its helper there. Bytes of the host are
unpickled here; of what is written here the host unpickles nothing unless its caller said so.
"""

import _socket
import asyncio
import atexit
import errno
import fcntl
import functools
import inspect
import io
import json
import linecache
import logging
import marshal
import math
import mmap
import os
import pickle
import struct
import sys
import time
import traceback
import types

import cloudpickle
import cloudpickle.cloudpickle

from saggar.boundary import frames
from saggar.boundary.order import Order
from saggar.guest import hooks, program, runner

ANSWER = "application/vnd.saggar.answer"
JSON = "application/json"
SHARED = 1 << 16
"""Bytes of buffers from which on they go through shared memory."""
EDGE = 64
"""Buffers begin at multiples of it, as processors like numbers to."""
SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
ADD_SEALS = 1033
UNREAD = 0x5411  # TIOCOUTQ
FIRST_LOOK, LAST_LOOK = 0.0002, 0.01
MAX_TEXT = program.MAX_TEXT
DEEPEST = 60
LONGEST = 32 << 20
"""Bytes of a document, as many as the host reads."""
MOST_OF_ERROR = 1 << 20
"""Bytes of what an exception was made of, roughly."""
MOST_GROUPS = 8
"""Groups within groups of exceptions."""
SLOTS = (
    *("errno", "strerror", "filename", "filename2"),
    *("msg", "name", "path", "message"),
    *("text", "lineno", "offset", "end_lineno", "end_offset"),
)
"""What Python's own exceptions keep beside their arguments."""
MOST_HELD = 200_000
"""Lists and objects in a document, as many as the host reads."""
SPELLED = {
    **dict.fromkeys(("timedelta", "datetime", "date", "time"), "datetime"),
    **dict.fromkeys(("PosixPath", "PurePosixPath"), "pathlib"),
    "Decimal": "decimal",
    "Fraction": "fractions",
    "UUID": "uuid",
    "deque": "collections",
    "bytearray": "builtins",
}
"""Classes that have parts of their own, and where they are found if they are there."""
HOLDERS = frozenset((list, tuple, dict, set, frozenset))
PLAIN = frozenset((str, int, bool, type(None)))
LENGTH = struct.Struct("<I")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Buffers = list[memoryview]
    Send = Callable[[bytes, bytes, "Buffers"], None]


class Mismatch(Exception):
    """What arrived was made by another Python than this one."""


class Modules:
    """An importer over the project's own modules: `{name: (is package, code, source, path)}`."""

    def __init__(self) -> None:
        self._modules: dict[str, tuple[bool, bytes, str, str]] = {}

    def add(self, modules: "dict[str, tuple[bool, bytes, str, str]]") -> None:
        """More of them. What is there stays as it is: it may be imported already."""
        self._modules = {**modules, **self._modules}
        finders: list[Any] = sys.meta_path
        if self not in finders:
            finders.insert(0, self)

    def forget(self) -> None:
        """All of them."""
        self._modules = {}
        finders: list[Any] = sys.meta_path
        if self in finders:
            finders.remove(self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """The importer's question; what is not ours is somebody else's to find."""
        from importlib.machinery import ModuleSpec

        if name.startswith("saggar."):
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        if name not in self._modules:
            return None
        package, _, _, place = self._modules[name]
        spec = ModuleSpec(name, self, origin=place, is_package=package)  # type: ignore[arg-type]
        if place:
            spec.has_location = True
        else:
            spec.submodule_search_locations = portions(name, path)
        return spec

    def create_module(self, spec: object) -> None:
        """An ordinary module will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run its code, which the host has compiled."""
        if module.__name__.startswith("saggar."):
            furnish(module)
            return
        exec(marshal.loads(self._modules[module.__name__][1]), module.__dict__)

    def get_source(self, name: str) -> str:
        """For tracebacks, and whoever inspects."""
        return self._modules[name][2]


def portions(name: str, path: "Any") -> "list[str]":
    """Where else a package without a file of its own has parts: what is installed in here."""
    from importlib.machinery import PathFinder

    found = PathFinder.find_spec(name, path)
    return list((found and found.submodule_search_locations) or ())


FOUND = Modules()


class Inert:
    """What a module of the project finds of Saggar in here: words that mean nothing."""

    def __getattr__(self, name: str) -> "Inert":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: object, **named: object) -> "Inert":
        """Whatever is called says nothing."""
        return self

    def __getitem__(self, key: object) -> "Inert":
        return self

    def __mro_entries__(self, bases: object) -> "tuple[type, ...]":
        """Whoever derives from one derives from nothing."""
        return (object,)


def stand_in() -> types.ModuleType:
    """`import saggar` in here: what is remote elsewhere is an ordinary function."""
    module = types.ModuleType("saggar", "Saggar, as a remote function finds it: nothing is remote.")
    module.__path__ = []
    furnish(module)
    return module


def furnish(module: types.ModuleType) -> None:
    """What decorates has a meaning; nothing else has."""
    module.__dict__.update(remote=remote, enter=hooks.marker("enter"), exit=hooks.marker("exit"))
    module.__getattr__ = Inert().__getattr__  # type: ignore[method-assign]


def remote(thing: "Any" = None, **options: object) -> "Any":
    """The decorator, in here: the function itself, with the names it is called by elsewhere."""
    # A resource of ours that is named first means as little as everything else.
    return remote if thing is None or isinstance(thing, Inert) else local(thing)


def local(thing: "Any") -> "Any":
    """A function that answers to `.remote` and `.local` as well."""
    if isinstance(thing, types.FunctionType):
        thing.remote = thing.local = thing  # type: ignore[attr-defined]
        if inspect.iscoroutinefunction(thing):
            thing.aremote = thing  # type: ignore[attr-defined]
    return thing


STAND_IN = stand_in()
# It is called at the end of every program, and most have nothing for it to do.
atexit.unregister(logging.shutdown)


class Unpickler(pickle.Unpickler):
    """What the host pickled. A remote function among it is an ordinary one in here."""

    def __init__(self, file: io.BytesIO, **options: "Any") -> None:
        super().__init__(file, **options)
        self._large: dict[int, object] = {}

    def persistent_load(self, said: "Any") -> object:
        """What the host has told apart."""
        match said:
            case "remote", thing:
                return local(thing)
            case "modules", modules:
                FOUND.add(marshal.loads(modules))
            case "again", number:
                return self._large[number]
            case "bytes", number, buffer:
                self._large[number] = bytes(buffer)
                return self._large[number]
            case "bytearray", number, buffer:
                self._large[number] = bytearray(buffer)
                return self._large[number]
        return None


class Code:
    """A function or a class that has arrived."""

    def __init__(self, data: bytes) -> None:
        said = marshal.loads(data)
        ours = (*sys.version_info[:2], cloudpickle.__version__)
        if tuple(said["made_by"]) != ours:
            raise Mismatch(
                "the function was captured by Python {}.{} with cloudpickle {}, and this is"
                " Python {}.{} with cloudpickle {}".format(*said["made_by"], *ours)
            )
        self._sources: dict[str, str] = said["sources"]
        FOUND.add(said["modules"])
        sys.modules.setdefault("saggar", STAND_IN)
        self.thing: Any = Unpickler(io.BytesIO(said["pickle"])).load()
        self.pickles: bool = said["pickles"]
        """Whether its caller wants pickled answers."""
        self.streams: bool = said["streams"]
        """Whether its caller wants what it yields, one by one."""

    def forget(self) -> None:
        """Undo what it has added to this interpreter, for a rehearsal."""
        FOUND.forget()
        sys.modules.pop("saggar", None)

    def show_sources(self) -> None:
        """Let tracebacks have the lines of what was pickled by value."""
        for filename, text in self._sources.items():
            lines = text.splitlines(keepends=True)
            linecache.cache.setdefault(filename, (len(text), None, lines, filename))


def arguments(
    media_type: str, data: bytes, memory: "memoryview | None"
) -> "tuple[Sequence[Any], dict[str, Any]]":
    """What to call it with."""
    if media_type == JSON:
        args, named = json.loads(data)
    else:
        *_, args, named = unpacked(data, memory)
    return args, named


def unpacked(data: bytes, memory: "memoryview | None") -> "Any":
    """A pickle and its buffers, which follow it, or lie in shared memory."""
    (count,) = LENGTH.unpack_from(data)
    sizes = struct.unpack_from(f"<{count + 1}Q", data, 4)
    start = 4 + 8 * (count + 1)
    pickled = memoryview(data)[start : start + sizes[0]]
    # Of memory that nobody else writes to, so that arrays can be changed.
    place, offset = (
        (memoryview(bytearray(data)), start + sizes[0]) if memory is None else (memory, 0)
    )
    found = []
    for size in sizes[1:]:
        found.append(place[offset : offset + size])
        offset += size if memory is None else aligned(size)
    return Unpickler(io.BytesIO(pickled), buffers=found).load()


def aligned(size: int) -> int:
    """The room that a buffer takes."""
    return -(-size // EDGE) * EDGE


def mapped(fd: int) -> memoryview:
    """A shared memory file as memory of our own: what we change in it nobody sees."""
    try:
        size = os.fstat(fd).st_size
        kind = mmap.MAP_PRIVATE
        return memoryview(mmap.mmap(fd, size, kind, mmap.PROT_READ | mmap.PROT_WRITE))
    finally:
        os.close(fd)


class Lowered:
    """
    A value as JSON, and what JSON cannot say of it: parts by their paths, and buffers.

    A part stands behind those that it holds, so that the host makes the inner ones first.
    """

    def __init__(self, value: object) -> None:
        self.parts: list[list[Any]] = []
        self.buffers: Buffers = []
        self.size = self.count = 0
        self.tree = self._lower(value, [])
        if self.count > MOST_HELD:
            raise ValueError(
                f"the answer holds more than {MOST_HELD:,} lists, dictionaries and parts; an array,"
                " a text or result='pickle' may hold more"
            )

    def _lower(self, value: "Any", path: "list[Any]") -> "Any":
        kind = type(value)
        if kind in PLAIN:
            return value
        if kind is float:
            return value if math.isfinite(value) else self._part(path, "float", repr(value))
        if len(path) > DEEPEST:
            raise ValueError(f"{at(path)}nests deeper than {DEEPEST}, or contains itself")
        if kind is dict:
            return self._mapping(value, path)
        if kind is list:
            return self._items(value, path)
        return self._other(value, kind, path)

    def _items(self, items: "Iterable[Any]", path: "list[Any]") -> "list[Any]":
        self.count += 1
        return [self._lower(item, [*path, number]) for number, item in enumerate(items)]

    def _mapping(self, value: "dict[Any, Any]", path: "list[Any]") -> "Any":
        if all(type(key) is str for key in value):
            self.count += 1
            return {key: self._lower(item, [*path, key]) for key, item in value.items()}
        pairs = self._items([[key, item] for key, item in value.items()], path)
        self._part(path, "dict")
        return pairs

    def _other(self, value: "Any", kind: type, path: "list[Any]") -> "Any":
        if kind in (tuple, set, frozenset):
            items = self._items(value, path)
            self._part(path, kind.__name__)
            return items
        if kind is bytes:
            return self._part(path, "bytes", *self._keep(memoryview(value)))
        if kind is complex:
            return self._part(path, "complex", repr(value))
        fields = getattr(kind, "__dataclass_fields__", None)
        if fields is not None:
            # Of what else is declared there an instance has nothing to tell.
            names = [name for name, one in fields.items() if one._field_type.name == "_FIELD"]  # noqa: SLF001
            return {name: self._lower(getattr(value, name), [*path, name]) for name in names}
        if hasattr(kind, "__pydantic_fields__") or hasattr(kind, "model_dump"):
            return self._model(value, path)
        return self._spelled(value, kind, path)

    def _model(self, value: "Any", path: "list[Any]") -> "Any":
        """Its fields as they are; as pydantic writes them, where one has no form of ours."""
        said = {"by_alias": True, "round_trip": True}
        before = self.size, self.count, len(self.parts), len(self.buffers)
        try:
            return self._lower(value.model_dump(**said), path)
        except ValueError:
            self.size, self.count, parts, buffers = before
            del self.parts[parts:], self.buffers[buffers:]
        return self._lower(value.model_dump(mode="json", **said), path)

    def _spelled(self, value: "Any", kind: type, path: "list[Any]") -> "Any":
        """What the standard library has a text for."""
        name = kind.__name__
        module = sys.modules.get(SPELLED.get(name, ""))
        if module is None or getattr(module, name, None) is not kind:
            return self._foreign(value, path)
        if name == "timedelta":
            return self._part(path, name, value.days, value.seconds, value.microseconds)
        if name == "Fraction":
            return self._part(path, name, value.numerator, value.denominator)
        if name == "deque":
            items = self._items(value, path)
            self._part(path, name, value.maxlen)
            return items
        if name == "bytearray":
            return self._part(path, name, *self._keep(memoryview(value)))
        return self._part(
            path, name, value.isoformat() if module.__name__ == "datetime" else str(value)
        )

    def _of_numpy(self, value: "Any", path: "list[Any]", numpy: "Any") -> "Any":
        if isinstance(value, numpy.ndarray):
            return self._array("array", value, path)
        known = value.item() if value.dtype.kind in "biufcSU" else value
        if isinstance(known, numpy.generic):  # wider than any number of Python's, or a date
            return self._array("scalar", value, path)
        return self._lower(known, path)

    def _array(self, kind: str, value: "Any", path: "list[Any]") -> None:
        np: Any = sys.modules["numpy"]
        masked = isinstance(value, np.ma.MaskedArray)
        if masked or value.dtype.kind not in "biufcSUmM":
            odd = "a mask" if masked else f"the dtype {value.dtype}"
            raise ValueError(
                f"{at(path)}an array with {odd} is none of numbers, text or dates only;"
                " say result='pickle'"
            )
        whole = np.ascontiguousarray(value)
        flat = whole.reshape(-1).view("u1") if whole.size else np.empty(0, "u1")
        place = self._keep(flat.data)
        self._part(path, kind, value.dtype.str, list(value.shape), *place)

    def _foreign(self, value: "Any", path: "list[Any]") -> "Any":
        """Of numpy's, or of a class made of one of Python's own."""
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
            return self._of_numpy(value, path, numpy)
        enum = sys.modules.get("enum")
        if enum is not None and isinstance(value, enum.Enum):
            return self._lower(value.value, path)
        if isinstance(value, tuple):
            return self._other(tuple(value), tuple, path)
        bare: Any
        for bare in (str, int, float, dict, list):
            if isinstance(value, bare):
                return self._lower(bare(value), path)
        if hasattr(value, "isoformat"):  # a date or a time
            return value.isoformat()
        name = type(value).__name__
        raise ValueError(f"{at(path)}{name} has no JSON form, and no array's; say result='pickle'")

    def _part(self, path: "list[Any]", kind: str, *said: "Any") -> None:
        self.parts.append([path, kind, *said])
        self.count += 2 + (kind == "array")

    def _keep(self, buffer: memoryview) -> "tuple[int, int]":
        """Where a buffer will lie."""
        flat = buffer.cast("B") if buffer.nbytes else memoryview(b"")
        offset = self.size
        self.buffers.append(flat)
        self.size += aligned(flat.nbytes)
        return offset, flat.nbytes


def at(path: "list[Any]") -> str:
    """The beginning of a complaint."""
    return f"at /{'/'.join(map(str, path))}: " if path else ""


class Reply:
    """Documents to the host, with their buffers behind them or in shared memory."""

    def __init__(self, fd: int, largest: int) -> None:
        self._fd, self._largest = fd, largest

    def value(self, value: object, *, pickles: bool, more: bool = False) -> None:
        """An answer; with `more`, one of several. ValueError if it cannot be sent."""
        if pickles:
            self._pickled(value, more=more)
            return
        lowered = Lowered(value)
        document: dict[str, Any] = {"value": lowered.tree}
        if lowered.parts:
            document["parts"] = lowered.parts
        self._send(document, lowered.buffers, lowered.size, more=more)

    def _pickled(self, value: object, *, more: bool) -> None:
        found: list[pickle.PickleBuffer] = []
        data = io.BytesIO()
        cloudpickle.Pickler(data, protocol=5, buffer_callback=found.append).dump(value)
        buffers = [data.getbuffer(), *(one.raw() for one in found)]
        sizes = [one.nbytes for one in buffers]
        self._send({"pickle": sizes}, buffers, sum(map(aligned, sizes)), more=more)

    def raised(self, exc: BaseException) -> None:
        """What the function raised, in words; with what it was made of, as far as that is plain."""
        told = words_of(exc)
        try:
            more = Lowered(details_of(exc, [MOST_OF_ERROR], 0))
        except BaseException:  # an exception class of the user's whose own methods raise
            more = Lowered(None)
        document = {"raised": told, "value": more.tree, "parts": more.parts}
        try:
            self._send(document, more.buffers, more.size)
        except ValueError:  # too long for this caller
            self._send({"raised": told}, [], 0)
        short = {"type": told["name"], "message": told["message"], "traceback": told["traceback"]}
        self._write(frames.pack(frames.ERROR, json.dumps(short).encode()), None)

    def _send(
        self, document: "dict[str, Any]", buffers: "Buffers", size: int, *, more: bool = False
    ) -> None:
        said = text_of(document)
        shared = share(buffers, size) if size >= SHARED else None
        body = [LENGTH.pack(len(said)), said]
        if shared is None and size:
            body += padded(buffers)
        length = sum(map(len, body))
        if length > self._largest:
            raise ValueError(
                f"the answer is {length:,} bytes long, the limit is {self._largest:,}; arrays,"
                " bytes and what result='pickle' sends may be longer"
            )
        head: dict[str, Any] = {"media_type": ANSWER}
        if more:
            head["more"] = True
        if shared is not None:
            head["rights"] = 1
        try:
            self._write(
                frames.pack(frames.VALUE, json.dumps(head).encode(), b"".join(body)), shared
            )
        finally:
            if shared is not None:
                os.close(shared)

    def _write(self, data: bytes, right: "int | None") -> None:
        left = memoryview(data)
        if right is not None:
            channel = _socket.socket(fileno=self._fd)
            # What is on its way is our memory, and what says so is short: without this hundreds
            # would go before one of them is taken.
            usual = channel.getsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF)
            channel.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 1)
            try:
                wait_read(self._fd)
                packed = struct.pack("i", right)
                sent = channel.sendmsg([left], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
            finally:
                channel.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, usual // 2)
                channel.detach()
            left = left[sent:]
        while left:
            left = left[os.write(self._fd, left) :]


def wait_read(fd: int) -> None:
    """Until the host has read all that was sent: even a short buffer has room for several."""
    pause = FIRST_LOOK
    try:
        while any(fcntl.ioctl(fd, UNREAD, bytes(4))):
            time.sleep(pause)
            pause = min(2 * pause, LAST_LOOK)
    except OSError:
        return  # of a kind that does not say


def text_of(document: "dict[str, Any]") -> bytes:
    """A document as the host reads it. ValueError if it would not."""
    try:
        said = json.dumps(
            document, allow_nan=False, ensure_ascii=False, separators=(",", ":")
        ).encode()
    except UnicodeEncodeError:
        raise ValueError(
            "the answer holds characters that have no UTF-8 form; say result='pickle'"
        ) from None
    if len(said) > LONGEST:
        raise ValueError(
            f"the answer's text is {len(said):,} bytes long, the limit is {LONGEST:,}; arrays,"
            " bytes and what result='pickle' sends may be longer"
        )
    return said


def padded(buffers: "Buffers") -> "list[bytes]":
    """Buffers one behind the other, each in the room it takes."""
    return [bytes(one) + bytes(aligned(one.nbytes) - one.nbytes) for one in buffers]


def share(buffers: "Buffers", size: int) -> "int | None":
    """A sealed shared memory file of them; None where there is none to be had."""
    try:
        fd = os.memfd_create("answer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):
        return None  # memory that nobody maps is not seen here, and so refused
    try:
        os.ftruncate(fd, size)
        offset = 0
        for one in buffers:
            left = one
            while left:
                written = os.pwrite(fd, left[: 1 << 30], offset + one.nbytes - left.nbytes)
                left = left[written:]
            offset += aligned(one.nbytes)
        fcntl.fcntl(fd, ADD_SEALS, SEALS)
    except OSError as exc:
        os.close(fd)
        if exc.errno == errno.EFBIG:
            exc.strerror = f"the answer has {size} bytes, more than the limit of file_size"
        raise
    return fd


def words_of(exc: BaseException) -> "dict[str, Any]":
    """An exception: what its class is called, its text, its arguments where they are plain."""
    kind = type(exc)
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in {
        __name__,
        "saggar.guest.instance",
    }:
        trace = trace.tb_next
    message = said_by(str, exc)
    shown = said_by(lambda: "".join(traceback.format_exception(kind, exc, trace)))
    return {**named(kind), "message": message[:MAX_TEXT], "traceback": shown[-MAX_TEXT:]}


def said_by(says: "Callable[..., str]", *args: object) -> str:
    """What an exception class of the user's says, whose own methods may raise."""
    try:
        return says(*args).encode("utf-8", "replace").decode()
    except BaseException as broken:
        return f"<unprintable: {type(broken).__name__}>"


def named(kind: type) -> "dict[str, Any]":
    """What a class is called."""
    return {"module": str(kind.__module__)[:500], "name": str(kind.__qualname__)[:500]}


def details_of(exc: BaseException, left: "list[int]", depth: int) -> "dict[str, Any]":
    """What an exception was made of, as far as that is plain; of a group also what it holds."""
    args, held = exc.args, dict(vars(exc))
    slots = {name: getattr(exc, name, None) for name in SLOTS if hasattr(exc, name)}
    found: dict[str, Any] = {
        "slots": {name: value for name, value in slots.items() if plain(value, left)},
        "vars": {name: value for name, value in held.items() if plain(value, left)},
    }
    if plain(args, left):
        found.update(args=args, whole=True)
    if isinstance(exc, BaseExceptionGroup) and depth < MOST_GROUPS:
        inner = exc.exceptions
        found["exceptions"] = [
            {
                **named(type(one)),
                "message": said_by(str, one)[:MAX_TEXT],
                **details_of(one, left, depth + 1),
            }
            for one in inner
        ]
    return found


def plain(value: "Any", left: "list[int]") -> bool:
    """Whether it is made of Python's own values only, and is not more than is left of room."""
    kind = type(value)
    if kind is str:
        left[0] -= len(value)
        return left[0] > 0 and not any("\ud800" <= letter <= "\udfff" for letter in value)
    if kind is bytes:
        left[0] -= len(value)
        return left[0] > 0
    if kind is int:
        return bool(value.bit_length() < 8192)
    if kind in HOLDERS:
        left[0] -= 64 * (1 + len(value))
        items = (*value, *value.values()) if kind is dict else value
        return left[0] > 0 and all(plain(item, left) for item in items)
    return kind in PLAIN or kind in (float, complex)


def produced(function: "Any", args: "Sequence[Any]", named: "dict[str, Any]") -> object:
    """What a call comes to; awaited, if that is to be done."""
    found = function(*args, **named)
    if hasattr(found, "__await__"):

        async def awaited() -> object:
            return await found

        return asyncio.run(awaited())
    return found


def each(items: "Any", take: "Callable[[object], None]") -> None:
    """Everything that a generator yields, of either kind."""
    if hasattr(items, "__aiter__"):

        async def walk() -> None:
            async for item in items:
                take(item)

        asyncio.run(walk())
        return
    for item in items:
        take(item)


def main(order: Order, rights: "list[int]") -> "tuple[int, str]":
    """One call. Returns the exit code, and the limit that its error met."""
    outcome = program.Outcome()
    program.new_main(order, runner.tell)
    reply = Reply(runner.CHANNEL, order.largest)
    program.guarded(lambda: call(order, rights, reply, outcome), order, runner.tell, outcome)
    if (threading := sys.modules.get("threading")) is not None:
        program.guarded(threading._shutdown, order, runner.tell, outcome)  # noqa: SLF001
    program.guarded(atexit._run_exitfuncs, order, runner.tell, outcome)  # noqa: SLF001
    if len(logging._handlerList) > 1:  # type: ignore[attr-defined]  # noqa: SLF001 - its own is one
        program.guarded(logging.shutdown, order, runner.tell, outcome)
    program.flush()
    if os.getpid() != outcome.process:
        os._exit(outcome.code)
    return outcome.code, outcome.refused


def call(order: Order, rights: "list[int]", reply: Reply, outcome: program.Outcome) -> None:
    """Unpack, call, answer; whatever goes wrong is told, and is our exit code."""
    code = None
    try:
        media_type, payload, data = marshal.loads(order.input or b"")
        memory = mapped(rights.pop()) if rights else None
        code = Code(payload)
        args, named = arguments(media_type, data, memory)
        found = produced(code.thing, args, named)
        if code.streams:
            take = functools.partial(reply.value, pickles=code.pickles, more=True)
            each(found, take)
            found = None
        if os.getpid() == outcome.process:
            reply.value(found, pickles=code.pickles)
    except BaseException as exc:  # SystemExit as well: a function that exits has not answered
        if code is not None:
            code.show_sources()
        outcome.code = program.exit_code(exc.code) or 1 if isinstance(exc, SystemExit) else 1
        outcome.refused = program.refused(exc)
        if os.getpid() == outcome.process:
            reply.raised(exc)


def nothing() -> None:
    """What a rehearsal calls."""


REHEARSED = marshal.dumps(
    {
        "made_by": (*sys.version_info[:2], cloudpickle.__version__),
        "pickle": cloudpickle.dumps(types.FunctionType(nothing.__code__, {"__name__": "__main__"})),
        "modules": {},
        "sources": {},
        "pickles": False,
        "streams": False,
    },
    2,
)


def rehearse(order: Order) -> None:
    """Do, while parked, what every call does; nothing of it stays but touched memory."""
    program.new_main(order, print)
    read, write = os.pipe()
    try:
        code = Code(REHEARSED)
        args, named = arguments(JSON, b"[[],{}]", None)
        Reply(write, 1 << 16).value(produced(code.thing, args, named), pickles=False)
    finally:
        os.close(read)
        os.close(write)
    code.forget()
    program.flush()
    program.reseed()
