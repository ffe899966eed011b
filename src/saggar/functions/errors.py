"""
What a remote function raised, as an exception here.

A class that this process has loaded keeps its type, and is a `RemoteError` besides. Which one is
meant a guest says by name, and may lie: nothing is imported for it, no code of the class runs, and
only what `except Exception` would catch is ever raised.
"""

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from saggar.errors import GuestError, UsageError
from saggar.model.result import Result, Status

STOPS = (StopIteration, StopAsyncIteration)
"""Raised here they would end a loop of the caller's without a word."""


class RemoteError(GuestError):
    """
    A remote function failed.

    `result` is all that came of the call; `remote_traceback` where it was raised, in its own words.
    """

    code = "remote"

    def __init__(self, result: Any, message: str | None = None, traceback: str = "") -> None:
        super().__init__(result, message)
        self.message = str(message or "")
        self.remote_traceback = traceback

    @property
    def stdout(self) -> str:
        """What it had printed."""
        return str(getattr(self.result, "stdout", ""))

    @property
    def stderr(self) -> str:
        """What it had printed as errors."""
        return str(getattr(self.result, "stderr", ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.result, self.message, self.remote_traceback)


class RemoteCrash(RemoteError):
    """it ended without an answer"""

    code = "remote-crash"


class RemoteTimeout(RemoteError, TimeoutError):
    """its time was over"""

    code = "remote-timeout"


class RemoteOutOfMemory(RemoteError, MemoryError):
    """it wanted more memory than its limit"""

    code = "remote-memory"


class RemoteCancelled(RemoteError):
    """it was cancelled"""

    code = "remote-cancelled"


class InvalidAnswer(RemoteError, ValueError):
    """what it answered is no answer, or is not of its annotated type"""

    code = "remote-answer"


class StateLost(RemoteError):
    """an instance ended, and what it remembered with it"""

    code = "state-lost"


class Unportable(UsageError, TypeError):
    """something that the function needs cannot leave this process"""

    code = "unportable"


def failure(result: Result[Any], raised: Mapping[str, Any] | None, what: str) -> RemoteError:
    """The exception that a result stands for; `raised` is what the function said of its own."""
    kinds = {
        Status.TIMEOUT: RemoteTimeout,
        Status.MEMORY: RemoteOutOfMemory,
        Status.CANCELLED: RemoteCancelled,
    }
    trace = result.error.traceback if result.error is not None else ""
    kind = kinds.get(result.status)
    if kind is not None:
        return _noted(kind(result, f"{what}: {result.summary()}", trace))
    if result.status is Status.ERROR and raised is not None:
        return _noted(like(raised, result))
    if result.error is not None and result.error.type in {"InvalidValue", "NoAnswer"}:
        return InvalidAnswer(result, f"{what}: {result.error.message}")
    return _noted(RemoteCrash(result, f"{what}: {result.summary()}", trace))


def like(raised: Mapping[str, Any], result: Any) -> RemoteError:
    """An exception of the class that was raised, if this process knows it; else a RemoteError."""
    module, name = str(raised.get("module", "")), str(raised.get("name", ""))
    message, trace = str(raised.get("message", "")), str(raised.get("traceback", ""))
    found = known(module, name)
    if found is not None:
        args = raised.get("args")
        plain = (
            tuple(args) if isinstance(args, list) and raised.get("whole") is True else (message,)
        )
        made = _made(found, plain, message, trace, result)
        if made is not None:
            return made
    said = f"{name}: {message}" if name else message
    return RemoteError(result, said, trace)


def known(module: str, name: str) -> type[Exception] | None:
    """The exception of this name, if it is loaded here: looked up, and never imported or called."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        try:
            # Not getattr, which a module may answer by importing.
            found = vars(found).get(part)
        except TypeError:
            return None
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    if issubclass(found, (*STOPS, RemoteError)):
        return None
    return found


def _made(
    kind: type[Exception], args: tuple[Any, ...], message: str, trace: str, result: Any
) -> RemoteError | None:
    """One of a class that is both; without a call of anything that the class defines."""
    try:
        both = _both(cast("Any", kind))
        native = next(base for base in kind.__mro__ if not base.__flags__ & _HEAP)
        made: Any = native.__new__(both, *args)
        if issubclass(kind, OSError):
            OSError.__init__(made, *args)
    except (TypeError, ValueError):  # classes of two layouts, or of arguments that are not plain
        return None
    made.result, made.message, made.remote_traceback = result, message, trace
    found: RemoteError = made
    return found


_HEAP = 1 << 9
"""Of a class that was made by Python code."""


@lru_cache(maxsize=256)
def _both(kind: type[Exception]) -> type[RemoteError]:
    """A class that is `kind` and a RemoteError, called as `kind` is."""
    said = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__str__": lambda self: self.message,
        "__reduce__": lambda self: (
            _again,
            (kind, self.args, self.message, self.remote_traceback, self.result),
        ),
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (kind, RemoteError), said)


def _again(
    kind: type[Exception], args: tuple[Any, ...], message: str, trace: str, result: Any
) -> RemoteError:
    """One that was pickled here, by whoever keeps exceptions."""
    return _made(kind, args, message, trace, result) or RemoteError(result, message, trace)


def _noted(error: RemoteError) -> RemoteError:
    """With the traceback from the other side, where Python shows it."""
    if error.remote_traceback:
        error.add_note(f"in the sandbox:\n{error.remote_traceback.rstrip()}")
    return error
