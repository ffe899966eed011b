"""
What can go wrong that is not the guest's doing, as exceptions with a stable `code`.

What a guest does wrong is a value (`Result`); only `Result.unwrap()` turns it into an
exception. Everything else is the caller's mistake (`UsageError`) or ours (`PlatformError`).
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, Self


class SaggarError(Exception):
    """something went wrong in saggar"""

    code: ClassVar[str] = "error"
    """A slug that stays the same for ever; doors put it in their own error formats."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__ or self.code)


class UsageError(SaggarError):
    """saggar was asked for something it does not do"""

    code = "usage"


class InvalidTask(UsageError, ValueError):
    """the task is not well formed"""

    code = "invalid-task"

    @classmethod
    def from_validation(cls, exc: _Rejection, fields: Iterable[str] = ()) -> Self:
        """
        One short line from pydantic's many: which field, what was wanted, what was found.

        `fields` are the names the outermost value has, to propose the nearest one.
        """
        problems = exc.errors(include_url=False)
        lines = [_problem(exc.title, problem, fields) for problem in problems[:3]]
        if len(problems) > 3:
            lines.append(f"and {len(problems) - 3} more")
        return cls("; ".join(lines))


class PolicyDenied(UsageError):
    """the policy does not allow it"""

    code = "policy-denied"


class NotFound(UsageError):
    """there is nothing of that name"""

    code = "not-found"

    @classmethod
    def among(cls, kind: str, name: str, names: Iterable[str]) -> Self:
        """No `kind` is named `name`: says which exist and which was probably meant."""
        known = sorted(names)
        message = f"no {kind} named {_shown(name)}; there are: {', '.join(known) or 'none'}"
        return cls(message + _nearest(name, known))


class Expired(NotFound):
    """it was kept for its time, and is gone"""

    code = "expired"


class Conflict(UsageError):
    """it is not in a state that allows this"""

    code = "conflict"


class PlatformError(SaggarError):
    """saggar could not do its part; trying again may help"""

    code = "platform"


class DriverUnavailable(PlatformError):
    """the driver cannot build its walls on this machine"""

    code = "driver-unavailable"


class SandboxBroken(PlatformError):
    """the sandbox broke before it could be judged"""

    code = "sandbox-broken"


class PrepareFailed(PlatformError):
    """the environment could not be built"""

    code = "prepare-failed"

    def __init__(self, message: str | None = None, log: str = "") -> None:
        super().__init__(message)
        self.log = log
        """What the installer printed; Python shows its end below the message."""
        if log.strip():
            self.add_note(f"the installer said:\n{log.strip()[-4000:]}")


class QueueUnavailable(PlatformError):
    """the queue does not answer"""

    code = "queue-unavailable"


class BlobsUnavailable(QueueUnavailable):
    """what is large can be neither kept nor found"""

    code = "blobs-unavailable"


class ServerUnavailable(PlatformError):
    """the server does not answer"""

    code = "server-unavailable"


class Overloaded(PlatformError):
    """there is no room for another run now"""

    code = "overloaded"

    def __init__(self, message: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which another try makes sense, where that is known."""


class GuestError(SaggarError):
    """the program failed"""

    code = "guest"

    def __init__(self, result: Any, message: str | None = None) -> None:
        super().__init__(message)
        self.result = result
        """The `Result` that was unwrapped."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.result, str(self))


class InvalidInput(InvalidTask):
    """input validation failed"""

    code = "invalid-input"

    def __init__(self, problem: str) -> None:
        super().__init__(f"input validation failed: {problem}")
        self.problem = problem
        """What about the input is not allowed, with the JSON pointer to it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problem,)


class _Execution(GuestError):
    """a typed function did not answer as it should"""

    code = "execution"
    _prefix: ClassVar[str]

    def __init__(self, result: Any, problem: str) -> None:
        super().__init__(result, f"{self._prefix} {problem}")
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.result, self.problem)


class ExecutionFailed(_Execution):
    """the function raised, crashed or met a limit"""

    code = "execution-failed"
    _prefix = "execution failed:"


class ExecutionTimeout(_Execution, TimeoutError):
    """the function took too long"""

    code = "execution-timeout"
    _prefix = "execution timed out after"


class InvalidOutput(_Execution):
    """what the function answered is not what its schema says"""

    code = "invalid-output"
    _prefix = "output validation failed:"


class _Rejection(Protocol):
    """What is used of pydantic's `ValidationError`: importing this file must not load pydantic."""

    @property
    def title(self) -> str: ...
    def errors(self, *, include_url: bool = True) -> list[Any]: ...


def _problem(title: str, problem: Mapping[str, Any], fields: Iterable[str]) -> str:
    path = [title.partition("[")[0].lower(), *map(str, problem["loc"])]
    if path[-1] == "[key]":
        # The key itself is in the complaint, and may hold anything.
        del path[-2:]
    if problem["type"] == "extra_forbidden":
        name = path.pop()
        nearest = _nearest(name, list(fields)) if len(path) == 1 else ""
        return f"{'.'.join(path)}: no field named {_shown(name)}{nearest}"
    return f"{'.'.join(path)}: {_complaint(problem)}"


def _complaint(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] in ("value_error", "assertion_error"):
        return str(problem["ctx"]["error"])
    if problem["type"] == "string_unicode":
        return "holds characters that have no UTF-8 form"
    if problem["type"] == "union_tag_invalid":
        # Pydantic spells members of an enumeration as Python would: <CodeKind.INLINE: 'inline'>.
        tags = ", ".join(re.findall(r"'(\w+)'", problem["ctx"]["expected_tags"]))
        return f"must be one of {tags}, found {_shown(problem['ctx']['tag'])}"
    rule = str(problem["msg"]).replace("Input should ", "must ", 1)
    return f"{rule[:1].lower()}{rule[1:]}, found {_shown(problem['input'])}"


def _nearest(name: str, names: list[str]) -> str:
    # difflib takes milliseconds to import, and most processes never see a misspelled name.
    from difflib import get_close_matches

    near = get_close_matches(str(name), names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _shown(value: object) -> str:
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
