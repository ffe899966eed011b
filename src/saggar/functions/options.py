"""What can be said about a remote function or class, checked when it is said."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from typing_extensions import TypedDict

from saggar.config import SECRET, operators_secret
from saggar.errors import InvalidTask, NotFound
from saggar.model.environment import Environment
from saggar.model.limits import Limits
from saggar.model.policy import Network, Policy
from saggar.model.secrets import Secrets, parted

if TYPE_CHECKING:
    from saggar.functions.resources import LiveServerless

Log = Callable[[Literal["stdout", "stderr"], str], None]
PLACES: Final = ("here", "queue")
SERVERS: Final = ("http://", "https://")


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
    gpu: int | None
    """How many GPUs it sees; where there are not so many a call is refused."""
    policy: Policy | None
    driver: str | None
    result: Literal["json", "pickle"]
    """How answers come back; "pickle" lets the function run code here, and is to be asked for."""
    log: bool | Log
    """Where what it prints is shown as it comes: True is here."""
    secrets: Sequence[str] | Mapping[str, str]
    """
    Variables whose values are kept out of everything but the sandbox: names, looked up where it is
    opened, or values by their names.
    """
    where: str
    """
    "here", in a sandbox of this machine; "queue", as a job that a worker runs; or the URL of a
    Saggar server.
    """
    idle: float | None
    """Of an instance: seconds without a call after which it ends; the operator's if None."""
    max_age: float | None
    """Of an instance: seconds after which it ends in any case."""
    restart: bool
    """Of an instance: whether one that was lost is made anew, and has forgotten everything."""
    resource_config: "LiveServerless | None"
    """Workers that several functions share; it may stand first instead, without this word."""
    dependencies: Sequence[str]
    """Packages, as RunPod has it; and so are those that follow."""
    system_dependencies: Sequence[str]
    hf_models_to_cache: Sequence[str]
    accelerate_downloads: bool
    """Changes nothing: what can be fetched at the same time is."""


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
    gpu: int | None = None
    policy: Policy | None = None
    driver: str | None = None
    result: Literal["json", "pickle"] = "json"
    log: bool | Log = False
    secrets: Sequence[str] | Mapping[str, str] | Secrets = ()
    where: str = field(default="here", repr=False)  # a password may stand in it
    idle: float | None = None
    max_age: float | None = None
    restart: bool = False
    resource: "LiveServerless | None" = None

    def but(self, options: Options) -> "Said":
        """The same with these changes. UsageError if one of them is none."""
        known = Options.__annotations__.keys()
        for name in options.keys() - known:
            raise NotFound.among("option of remote functions", name, known)
        own: Mapping[str, Any] = options
        if options.keys() - {one.name for one in fields(self)}:
            from saggar.functions.resources import translated

            own = translated(options)
        said = replace(self, **own)
        # Values are held by what says only their names when it is printed.
        names, given = parted(said.secrets)
        said = replace(said, secrets=given or names)
        said.check()
        return said

    def check(self) -> None:
        """InvalidTask for what cannot be meant."""
        for name, wanted, fits in _KINDS:
            found = getattr(self, name)
            if not fits(found):
                raise InvalidTask(f"{name}: wanted {wanted}, found {found!r:.80}")
        if self.server:
            from saggar.functions.calling import parts_of

            parts_of(self.server)
            if self.driver is not None:
                raise InvalidTask("driver: which one a server uses is its operator's to say")
        elif self.where not in PLACES:
            raise InvalidTask(
                f"where: wanted {', '.join(map(repr, PLACES))} or the URL of a server,"
                f" found {self._place!r:.80}"
            )
        self.given(queued=self.where == "queue", look=False)
        if self.resource is not None and self.where != "here":
            raise InvalidTask(
                f"where: {self._place!r:.80} has workers of its own, and those of the resource"
                f" {self.resource.name!r:.80} are on this machine; say one of them"
            )
        if self.result not in ("json", "pickle"):
            raise InvalidTask(f"result: wanted 'json' or 'pickle', found {self.result!r:.80}")
        if self.environment is not None and not self.server:  # what is there is not known here
            _refuse_other_python(self.environment)
        self.walls()

    @property
    def server(self) -> str:
        """The URL of the server where it runs; empty if it is none."""
        return self.where if str(self.where).startswith(SERVERS) else ""

    @property
    def _place(self) -> str:
        """Where it runs, as it may be shown: what stands before a host may be a password."""
        return str(self.where).rpartition("@")[2]

    @property
    def secret_names(self) -> tuple[str, ...]:
        """What its secrets are called."""
        return parted(self.secrets)[0]

    def given(self, *, queued: bool = False, look: bool = True) -> Secrets:
        """
        The values that go along with a call: none with a job, where only names lie.

        Raises:
            InvalidTask: Values were given, and a job was asked for.
            NotFound: A name has no value here, where the sandbox is opened.
        """
        names, values = parted(self.secrets)
        if queued and values:
            raise InvalidTask(
                "secrets: a job waits in a queue, where no value should lie; give names, and the"
                " operator of its workers keeps the values as SAGGAR_SECRET_<NAME>"
            )
        if values or queued or not look or self.server:
            return values
        return Secrets({name: _kept_here(name) for name in names})

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
        if self.gpu is not None:
            wanted = wanted.replace(gpu=self.gpu)
        return wanted

    def around(self) -> Environment:
        """The environment of a call, with the models that were named beside it."""
        found = self.environment or Environment()
        return found.replace(models=(*found.models, *self.models)) if self.models else found


def _times(said: object) -> bool:
    return type(said) is int and said >= 0


def _seconds(said: object) -> bool:
    return type(said) in (int, float) and 0 < cast("float", said) < float("inf")


def _texts(said: object) -> bool:
    if isinstance(said, str | bytes) or not isinstance(said, Iterable):
        return False
    return all(isinstance(one, str) for one in said)


def _retried(said: object) -> bool:
    if not isinstance(said, Retry):
        return _times(said)
    on: object = said.on
    kinds = isinstance(on, tuple) and all(isinstance(one, type) for one in on)
    return _times(said.times) and kinds and (said.delay == 0 or _seconds(said.delay))


def _named(said: object) -> bool:
    return isinstance(said, Mapping) and _texts([*said, *said.values()])


_KINDS: Final[tuple[tuple[str, str, Callable[[Any], bool]], ...]] = (
    (
        "environment",
        "an Environment, such as Environment(packages=('numpy',))",
        lambda said: said is None or isinstance(said, Environment),
    ),
    (
        "limits",
        "Limits, or such as {'memory': '1GiB'}",
        lambda said: said is None or isinstance(said, Limits | Mapping),
    ),
    ("retries", "a number from 0 on, or a Retry(times, on=(ValueError,))", _retried),
    ("models", "several names, such as ['org/name']", _texts),
    ("env", "texts by names, such as {'NAME': 'value'}", _named),
    ("policy", "a Policy", lambda said: said is None or isinstance(said, Policy)),
    (
        "driver",
        "the name of a driver",
        lambda said: said is None or isinstance(said, str),
    ),
    (
        "log",
        "True, False or a function of stream and text",
        lambda said: isinstance(said, bool) or callable(said),
    ),
    ("where", "a text", lambda said: isinstance(said, str)),
    ("idle", "seconds, more than 0", lambda said: said is None or _seconds(said)),
    ("max_age", "seconds, more than 0", lambda said: said is None or _seconds(said)),
    ("restart", "True or False", lambda said: isinstance(said, bool)),
)
"""What an option is, and whether that is one; what a policy has is the policy's to judge."""


def _kept_here(name: str) -> str:
    value = operators_secret(name)
    value = os.environ.get(name) if value is None else value
    if value is None:
        raise NotFound(
            f"secrets: neither {name} nor {SECRET}{name} is set here; set one of them, or give the"
            f" value: secrets={{{name!r}: ...}}"
        )
    return value


def _refuse_other_python(environment: Environment) -> None:
    """A pickled function is byte code, which is one minor version's own."""
    if environment.python is None:
        return
    theirs = _version(environment.python)
    if theirs != sys.version_info[: len(theirs)]:
        raise InvalidTask(
            "environment.python: a function is captured as byte code of this Python,"
            f" {sys.version_info[0]}.{sys.version_info[1]}, and {_as_version(environment.python)};"
            " run Saggar under that one, or use Executor.from_source, which sends text"
        )


def _version(python: str) -> tuple[int, ...]:
    if python.startswith("/"):
        from saggar.drivers.interpreter import find

        return find(python).version[:2]
    return tuple(map(int, python.split(".")))[:2]


def _as_version(python: str) -> str:
    version = ".".join(map(str, _version(python)))
    return f"{python} is {version}" if python.startswith("/") else f"{version} was asked for"


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
