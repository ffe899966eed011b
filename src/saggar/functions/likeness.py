"""
What a remote function raised, as an exception here.

A class that this process has loaded keeps its type, and is a `RemoteError` besides. Which one is
meant a guest says by name, and may lie: nothing is imported for it, no code of the class runs (not
to look it up, nor to derive from it, make one, or give it its attributes), and only what
`except Exception` would catch is ever raised.
"""

import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from saggar.errors import SaggarError
from saggar.functions.errors import (
    RESULT,
    InvalidAnswer,
    RemoteCancelled,
    RemoteCrash,
    RemoteError,
    RemoteOutOfMemory,
    RemoteTimeout,
    variables,
)
from saggar.model.result import Result, Status

STOPS: Final = (StopIteration, StopAsyncIteration)
"""Raised here they would end a loop of the caller's without a word."""
MAX_TEXT: Final = 1 << 16
MOST_LEAVES: Final = 256
"""Exceptions in groups, those in groups of groups among them."""
_UNSEEN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TOLD: Final = "_saggar_told"
_HEAP: Final = 1 << 9
"""Of a class that was not made by Python itself."""


def failure(result: Result[Any], raised: Mapping[str, Any] | None, what: str) -> RemoteError:
    """The exception that a result stands for; `raised` is what the function said of its own."""
    kinds = {
        Status.TIMEOUT: RemoteTimeout,
        Status.MEMORY: RemoteOutOfMemory,
        Status.CANCELLED: RemoteCancelled,
    }
    trace = shown(result.error.traceback) if result.error is not None else ""
    kind = kinds.get(result.status)
    if kind is not None:
        return _noted(kind(result, f"{what}: {result.summary()}", trace), trace)
    if result.status is Status.ERROR and raised is not None:
        return _noted(like(raised, result), _trace(raised))
    if result.error is not None and result.error.type in {"InvalidValue", "NoAnswer"}:
        return InvalidAnswer(result, f"{what}: {result.error.message}")
    return _noted(RemoteCrash(result, f"{what}: {result.summary()}", trace), trace)


def like(raised: Mapping[str, Any], result: Any) -> RemoteError:
    """An exception of the class that was raised, if this process knows it; else a RemoteError."""
    found = known(str(raised.get("module", ""))[:500], str(raised.get("name", ""))[:500])
    made = None if found is None else _made(found, raised, result)
    return made or _unknown(raised, result)


def _unknown(raised: Mapping[str, Any], result: Any) -> RemoteError:
    name, message = shown(raised.get("name", ""))[:500], _message(raised)
    said = f"{name}: {message}" if name else message
    return RemoteError(result, said or "it failed, and said nothing of it", _trace(raised))


def known(module: str, name: str) -> type[Exception] | None:
    """The exception of this name, if it is loaded here: looked up, and never imported or called."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        # Not getattr or vars, which a module, a class or a proxy of one may answer by code.
        found = _space(found).get(part)
    if not issubclass(type(found), type) or not issubclass(found, Exception):
        return None
    if issubclass(found, (*STOPS, SaggarError)):  # what we have to say is said by us
        return None
    kind: type[Exception] = found
    return kind


_of_module: Any = vars(types.ModuleType)["__dict__"]
_of_class: Any = vars(type)["__dict__"]


def _space(holder: Any) -> Mapping[str, Any]:
    if issubclass(type(holder), types.ModuleType):
        return cast("dict[str, Any]", _of_module.__get__(holder))
    if issubclass(type(holder), type):
        return cast("Mapping[str, Any]", _of_class.__get__(holder))
    return {}


def _made(kind: type[Exception], raised: Mapping[str, Any], result: Any) -> RemoteError | None:
    """One of a class that is both; None where there is no way to it but through the class."""
    if type(kind) is not type:
        return None  # a metaclass is code, also for what is looked up by the class
    try:
        both = _both(cast("Any", kind))
        native = next(base for base in kind.__mro__ if not base.__flags__ & _HEAP)
        made = _empty(both, native, raised, result)
    except Exception:  # noqa: BLE001 - layouts that do not fit, words that make no sense
        return None
    for name, value in _slots(native, raised):
        _slot(native, name).__set__(made, value)
    held = variables(made)
    held.update(_attributes(native, raised))
    for name, value in (
        ("result", result),
        ("message", _message(raised)),
        ("remote_traceback", _trace(raised)),
    ):
        held.setdefault(name, value)
    held[RESULT], held[_TOLD] = result, (kind, dict(raised))
    return made


class _Quiet:
    """First among the bases: whoever derives from the others is not asked."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Say nothing to them."""


@lru_cache(maxsize=256)
def _both(kind: type[Exception]) -> type[RemoteError]:
    """A class that is `kind` and a RemoteError, called as `kind` is."""
    doc = _space(cast("Any", kind)).get("__doc__")
    said = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__str__": _said,
        "__reduce__": _reduced,
        "__doc__": doc if type(doc) is str else None,
    }
    bases = (_Quiet, kind, RemoteError)
    return cast("type[RemoteError]", type.__new__(type, kind.__name__, bases, said))


def _said(self: RemoteError) -> str:
    return _message(variables(self)[_TOLD][1])


def _reduced(self: RemoteError) -> tuple[Any, ...]:
    held = variables(self)
    return _again, (*held[_TOLD], held[RESULT], held.get("__notes__", []))


def _again(
    kind: type[Exception], raised: Mapping[str, Any], result: Any, notes: list[str]
) -> RemoteError:
    """One that was pickled here, by whoever keeps exceptions."""
    made = _made(kind, raised, result) or _unknown(raised, result)
    variables(made)["__notes__"] = notes
    return made


def _empty(both: Any, native: Any, raised: Mapping[str, Any], result: Any) -> RemoteError:
    """One with nothing but its arguments, made by what Python itself has among its classes."""
    found: RemoteError
    if issubclass(native, BaseExceptionGroup):
        found = native.__new__(both, _group_message(raised), list(_leaves(raised, result)))
        return found
    args = raised.get("args")
    whole = isinstance(args, list | tuple) and raised.get("whole") is True
    for each in ((*cast("Any", args),), (_message(raised),)) if whole else ((_message(raised),),):
        try:
            found = native.__new__(both, *each)
            if issubclass(native, OSError | UnicodeError):
                native.__init__(found, *each)
        except Exception:  # noqa: BLE001, S112 - arguments that it never had
            continue
        return found
    found = native.__new__(both)
    _slot(native, "args").__set__(found, (_message(raised),))
    return found


def _group_message(raised: Mapping[str, Any]) -> str:
    slots = raised.get("slots")
    said = slots.get("message") if isinstance(slots, dict) else None
    return said if isinstance(said, str) else _message(raised)


def _leaves(raised: Mapping[str, Any], result: Any) -> Iterator[RemoteError]:
    """What a group holds. ValueError if that is too much."""
    if _count(raised) > MOST_LEAVES:
        raise ValueError("a group of too many")
    inner = raised.get("exceptions")
    for one in inner if isinstance(inner, list) else ():
        yield like(one, result)


def _count(raised: Any) -> int:
    """Exceptions in an exception; no more are counted than matter."""
    inner = raised.get("exceptions") if isinstance(raised, dict) else None
    if not isinstance(inner, list) or len(inner) > MOST_LEAVES:
        return 1 if inner is None else MOST_LEAVES + 1
    return 1 + sum(map(_count, inner))


def _number(value: Any) -> bool:
    return value is None or (type(value) is int and abs(value) < 1 << 31)


def _place(value: Any) -> bool:
    # Traceback writes as many marks below a line as it says.
    return value is None or (type(value) is int and -1 <= value <= MAX_TEXT)


def _text(value: Any) -> bool:
    return value is None or (type(value) is str and len(value) <= MAX_TEXT)


def _name(value: Any) -> bool:
    return value is None or type(value) in (str, bytes, int)


_SLOTS: Final[Mapping[type, Mapping[str, Callable[[Any], bool]]]] = {
    OSError: {"errno": _number, "strerror": _text, "filename": _name, "filename2": _name},
    # Without `name_from`: to propose another one, traceback would import the module.
    ImportError: {"msg": _text, "name": _text, "path": _text},
    SyntaxError: {
        **dict.fromkeys(("msg", "filename", "text"), _text),
        **dict.fromkeys(("lineno", "offset", "end_lineno", "end_offset"), _place),
    },
}
"""What Python's own classes keep beside their arguments, and what may stand there."""


def _slots(native: type, raised: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    said = raised.get("slots")
    for kind, checks in _SLOTS.items():
        if issubclass(native, kind) and isinstance(said, dict):
            yield from (
                (name, said[name])
                for name, fits in checks.items()
                if name in said and fits(said[name])
            )


def _slot(native: type, name: str) -> Any:
    return next(_space(base)[name] for base in native.__mro__ if name in _space(base))


def _attributes(native: type, raised: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What it had been given; nothing that Python's own classes mean something by."""
    said = raised.get("vars")
    for name, value in said.items() if isinstance(said, dict) else ():
        if name == "__notes__":
            if isinstance(value, list) and all(type(note) is str for note in value):
                yield name, list(map(shown, value))
        elif name.isidentifier() and not any(name in _space(base) for base in native.__mro__):
            yield name, value


def _message(raised: Mapping[str, Any]) -> str:
    return shown(raised.get("message", ""))


def _trace(raised: Mapping[str, Any]) -> str:
    return shown(raised.get("traceback", ""))


def shown(words: Any) -> str:
    """A guest's words, as a terminal may have them: not too long, and no commands to it."""
    said = words if type(words) is str else ""
    return _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", said[:MAX_TEXT])


def _noted(error: RemoteError, trace: str) -> RemoteError:
    """With the traceback from the other side, where Python shows it."""
    if trace:
        notes = variables(error).setdefault("__notes__", [])
        notes.append(f"in the sandbox:\n{trace.rstrip()}")
    return error
