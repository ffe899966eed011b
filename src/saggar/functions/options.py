"""What can be said about a remote function or class, checked when it is said."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

from typing_extensions import TypedDict

from saggar.errors import InvalidTask, NotFound
from saggar.model.environment import Environment
from saggar.model.limits import Limits
from saggar.model.policy import Network, Policy

Log = Callable[[Literal["stdout", "stderr"], str], None]
PLACES: Final = ("here", "queue")


@dataclass(frozen=True, slots=True)
class Retry:
    """When a call is made again: after our own failures, and after exceptions of these classes."""

    times: int
    on: tuple[type[Exception], ...] = ()
    delay: float = 0.0
    """Seconds before the first repetition; each later one waits twice as long."""


class Options(TypedDict, total=False):
    """What can be said about a remote function."""

    environment: Environment | None
    limits: Limits | Mapping[str, Any] | None
    timeout: float | str | None
    """Seconds of one call; the limit of wall."""
    retries: int | Retry
    models: Sequence[str]
    env: Mapping[str, str]
    network: Network | str | None
    policy: Policy | None
    driver: str | None
    result: Literal["json", "pickle"]
    """How answers come back; "pickle" lets the function run code here, and is to be asked for."""
    log: bool | Log
    """Where what it prints is shown as it comes: True is here."""
    where: str
    """ "here", in a sandbox of this machine; "queue", as a job that a worker runs."""
    idle: float | None
    """Of an instance: seconds without a call after which it ends; the operator's if None."""
    max_age: float | None
    """Of an instance: seconds after which it ends in any case."""
    restart: bool
    """Of an instance: whether one that was lost is made anew, and has forgotten everything."""


@dataclass(frozen=True, slots=True)
class Said:
    """The same, complete and checked."""

    environment: Environment | None = None
    limits: Limits | Mapping[str, Any] | None = None
    timeout: float | str | None = None
    retries: int | Retry = 0
    models: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    network: Network | str | None = None
    policy: Policy | None = None
    driver: str | None = None
    result: Literal["json", "pickle"] = "json"
    log: bool | Log = False
    where: str = "here"
    idle: float | None = None
    max_age: float | None = None
    restart: bool = False

    def but(self, options: Options) -> "Said":
        """The same with these changes. UsageError if one of them is none."""
        known = {one.name for one in fields(self)}
        if "secrets" in options:
            raise InvalidTask(
                "secrets: nothing keeps secrets here yet; there is env={'NAME': value}"
            )
        for name in options.keys() - known:
            raise NotFound.among("option of remote functions", name, known)
        said = replace(self, **options)
        said.check()
        return said

    def check(self) -> None:
        """InvalidTask for what cannot be meant."""
        if self.where not in PLACES:
            raise InvalidTask(
                f"where: wanted one of {', '.join(map(repr, PLACES))}, found {self.where!r:.80}"
            )
        if self.result not in ("json", "pickle"):
            raise InvalidTask(f"result: wanted 'json' or 'pickle', found {self.result!r:.80}")
        _refuse_other_python(self.environment)
        self.walls()

    @property
    def retry(self) -> Retry:
        """When a call is made again."""
        return self.retries if isinstance(self.retries, Retry) else Retry(self.retries)

    def walls(self) -> Policy:
        """The policy of a call."""
        wanted = self.policy or Policy()
        limits: dict[str, Any] = {}
        if isinstance(self.limits, Limits):
            wanted = wanted.replace(limits=self.limits)
        else:
            limits |= self.limits or {}
        if self.timeout is not None:
            limits["wall"] = self.timeout
        if limits:
            wanted = wanted.replace(limits=wanted.limits.replace(**limits))
        if not isinstance(self.limits, Limits) and "file_size" not in limits:
            # An answer is shared memory, which has a file's length and no place on a disk.
            most = max(wanted.limits.memory, wanted.limits.file_size)
            wanted = wanted.replace(limits=wanted.limits.replace(file_size=most))
        if self.network is not None:
            wanted = wanted.replace(network=self.network)
        return wanted

    def around(self) -> Environment:
        """The environment of a call, with the models that were named beside it."""
        found = self.environment or Environment()
        return found.replace(models=(*found.models, *self.models)) if self.models else found


def _refuse_other_python(environment: Environment | None) -> None:
    """A pickled function is byte code, which is one minor version's own."""
    if environment is None or environment.python is None:
        return
    theirs: tuple[int, ...]
    if environment.python.startswith("/"):
        from saggar.drivers.interpreter import find

        theirs = find(environment.python).version[:2]
    else:
        theirs = tuple(map(int, environment.python.split(".")))[:2]
    if theirs != sys.version_info[: len(theirs)]:
        raise InvalidTask(
            "environment.python: a function is captured as byte code of this Python,"
            f" {sys.version_info[0]}.{sys.version_info[1]}, and {environment.python} is"
            f" {'.'.join(map(str, theirs))}; run Saggar under that one, or use"
            " Executor.from_source, which sends text"
        )


def log_of(log: bool | Log) -> Log | None:  # noqa: FBT001
    """Where to show what is printed; the caller's own streams as they are now."""
    if not isinstance(log, bool):
        return log
    if not log:
        return None
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}

    def show(stream: Literal["stdout", "stderr"], text: str) -> None:
        streams[stream].write(text)
        streams[stream].flush()

    return show
