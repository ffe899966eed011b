"""
What whoever operates Saggar decides: the ceiling, the driver, how much is kept warm, where
things are kept.

`Settings` is a plain value. Only `load()` looks for SAGGAR_ variables, and pydantic-settings is
imported only when there are some: a single run does without.
"""

import os
import stat
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from saggar.errors import InvalidTask, PlatformError, UsageError
from saggar.model.policy import Policy
from saggar.model.value import Value

PREFIX: Final = "SAGGAR_"


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
    warm: Annotated[int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    """How many children are kept parked; "auto" follows the load."""
    cache_dir: Path | None = None
    """Where layers are kept. None: a folder of the user's."""
    runtime_dir: Path | None = None
    """Where sockets, locks and leases of this boot are kept. None: a folder of the user's."""
    log_level: Literal["debug", "info", "warning", "error"] = "warning"


def load() -> Settings:
    """
    Settings from the environment: SAGGAR_DRIVER, SAGGAR_CEILING__LIMITS__MEMORY and so on.

    Raises:
        UsageError: A variable has a value that does not fit.
    """
    if not any(name.upper().startswith(PREFIX) for name in os.environ):
        return Settings()
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class FromEnvironment(BaseSettings, Settings):
        model_config = SettingsConfigDict(
            title="settings", env_prefix=PREFIX, env_nested_delimiter="__"
        )

    try:
        return Settings(**dict(FromEnvironment()))
    except ValidationError as exc:
        raise UsageError(str(InvalidTask.from_validation(exc))) from None


def cache_dir(settings: Settings | None = None) -> Path:
    """
    The folder for what could be built again, made if it is missing.

    Raises:
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
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "saggar"


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
