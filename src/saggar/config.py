"""
What whoever operates Saggar decides: the ceiling, the driver, how much is kept warm, where
things are kept.

`Settings` is a plain value. Only `load()` looks for SAGGAR_ variables, and pydantic-settings is
imported only when there are some: a single run does without.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import from_json

from saggar.errors import InvalidTask, PlatformError, UsageError
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.quantity import parse_count
from saggar.model.value import Value

PREFIX: Final = "SAGGAR_"
NOT_OURS: Final = frozenset(
    f"{PREFIX}{name}" for name in ("CONFORMANCE", "ESCAPE_SECRET", "LEFT", "SCENE")
)
"""Names that the suites in `saggar.testing` give to the programs they run; they set nothing."""
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
    cache_dir: _Folder | None = None
    """Where layers are kept. None: a folder of the user's."""
    runtime_dir: _Folder | None = None
    """Where sockets, locks and leases of this boot are kept. None: a folder of the user's."""
    log_level: Literal["debug", "info", "warning", "error"] = "warning"


def load() -> Settings:
    """
    Settings from the environment: SAGGAR_DRIVER, SAGGAR_CEILING__LIMITS__MEMORY and so on.

    Raises:
        UsageError: A variable has a value that does not fit, or a name that no setting has: a
            ceiling that was misspelled would be no ceiling.
    """
    said = {name.upper(): name for name in os.environ if name.upper().startswith(PREFIX)}
    if not said:
        return Settings()
    known = dict(_variables(Settings, PREFIX))
    for name in sorted(said.keys() - known.keys() - NOT_OURS):
        raise UsageError(_unknown(said[name], known))
    from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

    class FromEnvironment(BaseSettings, Settings):
        model_config = SettingsConfigDict(
            title="settings", env_prefix=PREFIX, env_nested_delimiter="__"
        )

    try:
        return Settings(**dict(FromEnvironment()))
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
            if known[name] is Limits or get_origin(known[name]) in (tuple, frozenset):
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
    _keep_to_ourselves(path)
    return path


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


def _keep_to_ourselves(path: Path) -> None:
    # In /tmp anybody may have been faster; a link would lead to a folder of his choice.
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PlatformError(
            f"{path} is not a folder that only we can write to;"
            " remove it or name another one in SAGGAR_RUNTIME_DIR"
        )
    # Who can open a lock can hold it, even if he can only read.
    if found.st_mode & 0o055:
        path.chmod(0o700)
