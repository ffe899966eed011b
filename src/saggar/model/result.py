"""
What came of a run.

Status, limit, exit code, usage and isolation were seen from outside. Value, output, displays,
error and file contents are the guest's own words, which may be lies.
"""

import base64
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field, computed_field, model_validator

from saggar.errors import GuestError
from saggar.model.task import File
from saggar.model.value import Value

T = TypeVar("T")


class Status(StrEnum):
    """How a run ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    KILLED = "killed"
    CANCELLED = "cancelled"
    FAULT = "fault"


class ErrorInfo(Value):
    """The exception that ended a program, as text."""

    type: str
    message: str = ""
    traceback: str = ""


class Display(Value):
    """Something to show, in one or several media types."""

    data: Mapping[str, str]
    metadata: Mapping[str, Any] = {}
    role: Literal["display", "result"] = "display"
    """`result`: the value of a cell's last expression."""
    id: str | None = None
    """The name under which a later display may replace this one."""
    update: bool = False
    """Whether it replaces what was shown under its id."""


class Usage(Value):
    """What a run consumed, measured from outside; None where it cannot be measured."""

    wall: float = 0.0
    """Seconds."""
    cpu: float | None = None
    """Seconds of processor time of the whole tree."""
    memory: int | None = None
    """Peak bytes of the whole tree."""
    processes: int | None = None


class Skipped(Value):
    """A file that was asked for and not collected."""

    path: str
    reason: str


class Outcome(Value):
    """How a run ended and what it left: all of a `Result` but its streams."""

    status: Status
    limit: str | None = None
    """The limit it met, if any, by its name in `Limits`."""
    exit_code: int | None = None
    signal: str | None = None
    """The signal that ended it, by name."""
    truncated: bool = False
    """Whether output was dropped."""
    value: Any = None
    files: tuple[File, ...] = ()
    files_skipped: tuple[Skipped, ...] = ()
    error: ErrorInfo | None = None
    usage: Usage = Usage.model_construct()
    isolation: str
    """The rung that really held."""
    execution_count: int | None = None
    """Which execution of its session it was; None outside one."""
    session_reset: bool = False
    """
    Whether what its session remembered is lost: the interpreter ended in this run, or before it
    while nothing ran. The next run has a fresh one.
    """


def _is_none(value: object) -> bool:
    return value is None


def _utf8(text: object) -> object:
    return text.encode() if isinstance(text, str) else text


def _unless_text(data: bytes) -> str | None:
    try:
        data.decode()
    except UnicodeDecodeError:
        return base64.urlsafe_b64encode(data).decode()
    return None


_DUMPED = frozenset({"stdout", "stderr", "stdout_base64", "stderr_base64"})


class Result(Outcome, Generic[T]):
    """What came of a run."""

    value: T | None = None
    stdout_bytes: bytes = Field(default=b"", exclude=True)
    stderr_bytes: bytes = Field(default=b"", exclude=True)
    displays: tuple[Display, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the program ended well."""
        return self.status is Status.OK

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def stdout(self) -> str:
        """What it printed, with a replacement mark for what is not UTF-8."""
        return self.stdout_bytes.decode(errors="replace")

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def stderr(self) -> str:
        """What it printed as errors, with a replacement mark for what is not UTF-8."""
        return self.stderr_bytes.decode(errors="replace")

    @computed_field(repr=False, exclude_if=_is_none)  # type: ignore[prop-decorator]
    @property
    def stdout_base64(self) -> str | None:
        """The bytes of stdout where they are not valid UTF-8; a dump has it only then."""
        return _unless_text(self.stdout_bytes)

    @computed_field(repr=False, exclude_if=_is_none)  # type: ignore[prop-decorator]
    @property
    def stderr_base64(self) -> str | None:
        """The bytes of stderr where they are not valid UTF-8; a dump has it only then."""
        return _unless_text(self.stderr_bytes)

    @model_validator(mode="before")
    @classmethod
    def _from_dump(cls, fields: Any) -> Any:
        """Back from the names that a dump has to the bytes they were made of."""
        if not isinstance(fields, dict) or _DUMPED.isdisjoint(fields):
            return fields
        plain = {name: value for name, value in fields.items() if name not in _DUMPED}
        for stream in ("stdout", "stderr"):
            if f"{stream}_base64" in fields:
                # Pydantic reads text in a field of bytes as base64.
                plain[f"{stream}_bytes"] = fields[f"{stream}_base64"]
            elif stream in fields:
                plain[f"{stream}_bytes"] = _utf8(fields[stream])
        return plain

    def unwrap(self) -> T:
        """
        The value.

        Raises:
            GuestError: The run did not end well; the error carries this result.
        """
        if not self.ok:
            raise GuestError(self, self.summary())
        return self.value  # type: ignore[return-value]

    def summary(self) -> str:
        """How it ended, in a few words."""
        # Whatever was interrupted says KeyboardInterrupt, and so tells nothing of why.
        if self.error is not None and self.status is Status.ERROR:
            return f"{self.error.type}: {self.error.message}"
        ended = f"{self.status} ({self.limit})" if self.limit else str(self.status)
        if self.signal:
            return f"{ended}, ended by {self.signal}"
        return f"{ended}, exit code {self.exit_code}" if self.exit_code else ended
