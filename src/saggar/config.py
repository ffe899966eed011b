"""
What whoever operates Saggar decides: the ceiling, the driver, how much is kept warm, where
things are kept.

`Settings` is a plain value. Only `load()` looks for SAGGAR_ variables, and pydantic-settings is
imported only when there are some: a single run does without.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import from_json

from saggar.errors import InvalidTask, PlatformError, UsageError
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.program import CodeKind
from saggar.model.quantity import Bytes, GiB, Seconds, parse_count
from saggar.model.value import Value

PREFIX: Final = "SAGGAR_"
NOT_OURS: Final = frozenset(
    f"{PREFIX}{name}" for name in ("CONFORMANCE", "ESCAPE_SECRET", "LEFT", "SCENE")
)
"""Names that the suites in `saggar.testing` give to the programs they run; they set nothing."""
SECRET: Final = f"{PREFIX}SECRET_"
"""What begins so is no setting, but the value of a secret of the operator's."""
MOST_WARM: Final = 1024


def _warm(kept: object) -> object:
    wanted = f"must be 'auto' or a whole number up to {MOST_WARM}, found {kept!r:.60}"
    if kept == "auto":
        return kept
    try:
        number = parse_count(kept)
    except ValueError:
        raise ValueError(wanted) from None
    if number > MOST_WARM:
        raise ValueError(wanted)
    return number


def _absolute(path: Path) -> Path:
    # A relative one would be another folder wherever one happens to stand.
    if not path.is_absolute():
        raise ValueError(f"must be an absolute path, found {str(path)!r:.60}")
    return path


_Folder = Annotated[Path, AfterValidator(_absolute)]


RETRIED: Final = ("timeout", "memory", "oserror")
"""Failures of a program itself that may be tried again, as settings and jobs spell them."""


def _retried(names: str) -> str:
    for name in filter(None, map(str.strip, names.split(","))):
        if name not in RETRIED:
            raise ValueError(f"wanted some of {', '.join(RETRIED)}, found {name!r:.60}")
    return names


TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


def _keys(keys: Mapping[str, str]) -> Mapping[str, str]:
    for tenant, key in keys.items():
        if not TENANT.fullmatch(tenant):
            raise ValueError(f"wanted tenants such as 'team-a', found {tenant!r:.80}")
        if not key:
            raise ValueError(f"the key of {tenant} is empty")
    if len(set(keys.values())) < len(keys):
        raise ValueError("two tenants have the same key")
    return keys


class Quota(Value):
    """What one tenant may have in the queue; what goes beyond is refused as Overloaded."""

    running: Annotated[int, Field(ge=1)] | None = None
    """Jobs at once, over all workers. None: as many as there are workers for."""
    waiting: Annotated[int, Field(ge=1)] = 100_000
    """Jobs that wait."""
    rate: Annotated[float, Field(gt=0)] | None = None
    """Jobs a second that are taken in. None: no limit."""
    burst: Annotated[int, Field(ge=1)] = 10
    """Jobs that may come at once where there is a rate."""


_NESTED: Final = (Limits, Quota)


class Settings(Value):
    """How Saggar is operated here."""

    ceiling: Policy | None = None
    """What every policy is narrowed to. None: the caller decides, as it is his machine."""
    driver: str = "jail"
    """The driver of runs that name none."""
    preload: tuple[str, ...] = ()
    """
    Modules that an environment may have preloaded where there is a ceiling; without one whoever
    asks decides. They are imported by the fork server, which has the power to build walls.
    """
    image: str = "saggar/runner-python:latest"
    """The image of containers for which none is named."""
    runtime: str = ""
    """What the container engine builds walls with ("runsc"); empty is the engine's own choice."""
    warm: Annotated[int | Literal["auto"], BeforeValidator(_warm)] = "auto"
    """How many children are kept parked; "auto" follows the load."""
    most_live: int = Field(default=256, ge=1, le=100_000)
    """How many live sandboxes and sessions there may be at once."""
    most_live_each: int = Field(default=256, ge=1, le=100_000)
    """The same for one owner."""
    session_idle: Seconds = 1800.0
    """After which a session that executes nothing ends."""
    session_age: Seconds = 86400.0
    """After which a session ends in any case."""
    cache_dir: _Folder | None = None
    """Where layers are kept. None: a folder of the user's."""
    environments_size: Bytes = 20 * GiB
    """What layers may take on disk; beyond it those go that were unused longest."""
    prepare_timeout: Annotated[Seconds, Field(gt=0)] = 300.0
    """For each program that installs something; models get an hour at least."""
    owns_system: bool = False
    """
    Whether system packages are installed on this very machine, as its root: for a container that
    is ours alone. Elsewhere they are unpacked into a layer and the machine stays as it is.
    """
    models: tuple[str, ...] = ()
    """
    Models that are fetched with HF_TOKEN where there is a ceiling, "org/*" for all of one; without
    a ceiling all are.
    """
    secrets: tuple[str, ...] = ()
    """
    Secrets of the operator's, SAGGAR_SECRET_<NAME>, that a task may name where there is a ceiling,
    "TEAM_*" for all that begin so; without a ceiling all are.
    """
    server_key: str | None = Field(default=None, repr=False, min_length=1)
    """What we show to a server that a remote function names as its `where`."""
    uploads_size: Bytes = 2 * GiB
    """What the uploads and large answers of one tenant of `saggar serve` may take on disk."""
    runtime_dir: _Folder | None = None
    """Where sockets, locks and leases of this boot are kept. None: a folder of the user's."""
    state_dir: _Folder | None = None
    """Where the embedded broker keeps jobs and their results. None: a folder of the user's."""
    broker_url: str = ""
    """Redis for jobs; CELERY_BROKER_URL is read as well. Empty: one of our own is started."""
    result_backend: str = ""
    """Redis for results; CELERY_RESULT_BACKEND too. Empty: database 1 of the broker."""
    blobs: str = ""
    """Where large results go: a folder, "redis", or a URL. Empty: what fits the broker."""
    code_environment: str = "host"
    """What CodeTools runs in: "host" (the packages beside us), "bare", or requirements."""
    retry_on: Annotated[str, AfterValidator(_retried)] = ""
    """Failures of a program itself after which its job is tried again: "timeout,memory,oserror"."""
    queues: tuple[str, ...] = ()
    """Queues beside ours that callers of `saggar serve` may name."""
    quota: Quota = Quota.model_construct()
    """What one tenant may have in the queue."""
    tenants: Mapping[str, Quota] = {}
    """The same for some of them by name."""
    dead_letter_alert: str = ""
    """A URL or a command that is told of every job that is given up."""
    private_webhooks: bool = False
    """Whether webhooks of jobs may lead into private networks."""
    webhook_secret: str | None = Field(default=None, repr=False, min_length=8)
    """What webhooks are signed with, so that their receivers know who sent them."""
    log_file: _Folder | None = None
    """Where logs are written to as well."""
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    key: str | None = Field(default=None, repr=False, min_length=1)
    """What a caller over HTTP has to show. None: nothing, which is for the loopback only."""
    keys: Annotated[Mapping[str, str], AfterValidator(_keys)] = Field(default={}, repr=False)
    """Keys of tenants by their names: whoever shows one is that tenant to `saggar serve`."""
    hosts: tuple[str, ...] = ()
    """Further names that our HTTP servers are called by; `*.example.org` for all below one."""
    origins: tuple[str, ...] = ()
    """Whose pages may call our HTTP servers from a browser: `https://app.example.org`."""
    insecure_bind: bool = False
    """Whether an HTTP server without a key may listen on more than the loopback."""
    engine: Literal["shell", "kernel"] = "shell"
    """The interpreter of sessions for which none is named."""
    accept: Literal["", "named"] = ""
    """"named": every door takes baked programs only; TETRA_BAKED_MODE is read as well."""
    baked_strict: bool = True
    """Whether baked mode refuses what is not baked, rather than to run it as it came."""


def load() -> Settings:
    """
    Settings from the environment: SAGGAR_DRIVER, SAGGAR_CEILING__LIMITS__MEMORY and so on.

    Raises:
        UsageError: A variable has a value that does not fit, or a name that no setting has: a
            ceiling that was misspelled would be no ceiling.
    """
    return _production(load_plain())


def _production(settings: Settings) -> Settings:
    """Those of baked mode, where it is on."""
    tetra = os.environ.get("TETRA_BAKED_MODE", "").strip().lower()
    if not settings.baked_strict or (not settings.accept and tetra not in {"true", "1", "yes"}):
        return settings
    return names_only(settings)


def names_only(settings: Settings) -> Settings:
    """The settings of baked mode: a ceiling that accepts names only, whatever else it allows."""
    names = frozenset({CodeKind.NAMED})
    if settings.ceiling is not None:
        return settings.replace(ceiling=settings.ceiling.replace(accept=names))
    # Who names models and secrets then is whoever baked: what is his needs no list of his.
    return settings.replace(ceiling=Policy(accept=names), models=("*",), secrets=("*",))


def load_plain() -> Settings:
    """`load` without what baked mode makes of it, for the one door that resolves its names."""
    said = {name.upper(): name for name in os.environ if name.upper().startswith(PREFIX)}
    if not said:
        return Settings()
    known = dict(_variables(Settings, PREFIX))
    for name in sorted(said.keys() - known.keys() - NOT_OURS):
        if name.startswith(SECRET):
            continue
        raise UsageError(_unknown(said[name], known))
    from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

    class FromEnvironment(BaseSettings, Settings):
        model_config = SettingsConfigDict(
            title="settings", env_prefix=PREFIX, env_nested_delimiter="__"
        )

    try:
        return Settings(**vars(FromEnvironment()))
    except InvalidTask as exc:
        raise UsageError(_respelled(str(exc), said)) from None
    except SettingsError:
        raise UsageError(_not_json(said, known)) from None


def _variables(model: type[Value], prefix: str) -> Iterator[tuple[str, Any]]:
    """Every variable that is read for a field of `model`, and the type of what it says."""
    for field, described in model.model_fields.items():
        kind = described.annotation
        yield (name := f"{prefix}{field.upper()}"), kind
        for inner in (kind, *get_args(kind)):
            if isinstance(inner, type) and issubclass(inner, Value):
                yield from _variables(inner, f"{name}__")


def _unknown(name: str, known: dict[str, Any]) -> str:
    from difflib import get_close_matches

    # Without what all of them begin with: it would make any two alike.
    names = [other.removeprefix(PREFIX) for other in known]
    if near := get_close_matches(name.upper().removeprefix(PREFIX), names, n=1):
        return f"no setting is named {name}; did you mean {PREFIX}{near[0]}?"
    return f"no setting is named {name}; there are: {', '.join(n for n in known if '__' not in n)}"


def _not_json(said: dict[str, str], known: dict[str, Any]) -> str:
    """Which of the variables that are read as JSON is none: the parser names the outermost only."""
    for name in sorted(said.keys() & known.keys()):
        text = os.environ[said[name]]
        try:
            if known[name] in _NESTED or get_origin(known[name]) in (tuple, frozenset, Mapping):
                from_json(text)
        except ValueError:
            example = '{"wall": "5s"}' if known[name] is Limits else '["one", "other"]'
            return f"{said[name]}: must be JSON such as {example}, found {text!r:.60}"
    return f"{', '.join(sorted(said.values()))}: not readable"


def _respelled(complaint: str, said: dict[str, str]) -> str:
    """What the model says of its fields, said of the variables they came from."""

    def variable(found: re.Match[str]) -> str:
        path, below = found[1].split("."), list[str]()
        while len(path) > 1 and f"{PREFIX}{'__'.join(path)}".upper() not in said:
            below.insert(0, path.pop())
        inside = f"{'.'.join(below)}: " if below else ""
        return f"{PREFIX}{'__'.join(path)}: ".upper() + inside

    return re.sub(r"\bsettings\.([a-z0-9_.]+): ", variable, complaint)


def operators_secret(name: str) -> str | None:
    """The value that the operator keeps under this name, if there is one."""
    return os.environ.get(SECRET + name)


def cache_dir(settings: Settings | None = None) -> Path:
    """
    The folder for what could be built again, made if it is missing.

    Raises:
        UsageError: HOME is not an absolute path.
        PlatformError: It cannot be made.
    """
    path = (settings and settings.cache_dir) or _default_cache_dir()
    _make(path, "SAGGAR_CACHE_DIR")
    return path


def runtime_dir(settings: Settings | None = None) -> Path:
    """
    The folder for sockets, locks and leases, made if it is missing; nobody else can enter it.

    Raises:
        PlatformError: It cannot be made, belongs to somebody else, or others can write to it.
    """
    path = (settings and settings.runtime_dir) or _default_runtime_dir()
    _make(path, "SAGGAR_RUNTIME_DIR")
    _keep_to_ourselves(path, "SAGGAR_RUNTIME_DIR")
    return path


def state_dir(settings: Settings | None = None) -> Path:
    """
    The folder for what must outlive us, made if it is missing; nobody else can enter it.

    Raises:
        UsageError: HOME is not an absolute path.
        PlatformError: It cannot be made, belongs to somebody else, or others can write to it.
    """
    path = (settings and settings.state_dir) or _default_state_dir()
    _make(path, "SAGGAR_STATE_DIR")
    _keep_to_ourselves(path, "SAGGAR_STATE_DIR")
    return path


def queue_urls(settings: Settings) -> tuple[str, str]:
    """
    The URLs of the broker and of the results, as settings or the documented variables say.

    Raises:
        UsageError: Two of them say different things.
    """
    broker = _agreed(settings.broker_url, "SAGGAR_BROKER_URL", "CELERY_BROKER_URL")
    backend = _agreed(settings.result_backend, "SAGGAR_RESULT_BACKEND", "CELERY_RESULT_BACKEND")
    return broker, backend


def _agreed(said: str, *names: str) -> str:
    found = {value for name in names if (value := os.environ.get(name, ""))}
    if said:
        found = {said}  # whoever made the settings in Python knows what he wants
    if len(found) > 1:
        raise UsageError(f"{' and '.join(names)} say different things; set one of them")
    return found.pop() if found else ""


def _default_state_dir() -> Path:
    if os.path.isabs(base := os.environ.get("XDG_STATE_HOME", "")):
        return Path(base) / "saggar"
    base = os.path.expanduser("~/.local/state")
    if not os.path.isabs(base):
        raise UsageError(
            f"HOME must be an absolute path, found {os.environ.get('HOME', '')!r:.60};"
            " or name a folder in SAGGAR_STATE_DIR"
        )
    return Path(base) / "saggar"


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has a relative path ignored.
    path = base if os.path.isabs(base) else os.path.expanduser("~/.cache")
    if not os.path.isabs(path):
        raise UsageError(
            f"HOME must be an absolute path, found {os.environ.get('HOME', '')!r:.60};"
            " or name a folder in SAGGAR_CACHE_DIR"
        )
    return Path(path) / "saggar"


def _default_runtime_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/run/saggar")
    if os.path.isabs(base := os.environ.get("XDG_RUNTIME_DIR", "")):
        return Path(base) / "saggar"
    return Path(f"/tmp/saggar-{os.geteuid()}")


def _make(path: Path, variable: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise PlatformError(
            f"cannot make the folder {path}: {exc.strerror}; name another one in {variable}"
        ) from exc


def _keep_to_ourselves(path: Path, variable: str) -> None:
    # In /tmp anybody may have been faster; a link would lead to a folder of his choice.
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PlatformError(
            f"{path} is not a folder that only we can write to;"
            f" remove it or name another one in {variable}"
        )
    # Who can open a lock can hold it, even if he can only read.
    if found.st_mode & 0o055:
        path.chmod(0o700)
