"""
What can become of a call of a remote function, beside an answer.

`saggar.functions.likeness` makes one of these of what a guest has said.
"""

from typing import Any, Final

from saggar.errors import GuestError, UsageError

RESULT: Final = "_saggar_result"
"""Where an exception that is a user's as well keeps its result: `result` may be the user's."""
_variables: Any = BaseException.__dict__["__dict__"]


def variables(error: BaseException) -> dict[str, Any]:
    """What an exception has been given; no code of its class is asked, as `vars` may do."""
    found: dict[str, Any] = _variables.__get__(error)
    return found


class _Printed:
    """What a call printed, unless the exception has an attribute of that name of its own."""

    def __init__(self, stream: str) -> None:
        self._stream = stream

    def __get__(self, error: Any, kind: type | None = None) -> str:
        if error is None:
            return ""
        held = variables(error)
        return str(getattr(held.get(RESULT, held.get("result")), self._stream, ""))


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

    stdout = _Printed("stdout")
    """What it had printed."""
    stderr = _Printed("stderr")
    """What it had printed as errors."""

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
