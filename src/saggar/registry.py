"""
Plugs by name: the drivers and languages there are, ours and those of other packages.

Ours stand in a table, so that finding one imports its module and nothing else. Entry points
are read when a name is not in the table, or when all names are wanted.
"""

from importlib import import_module
from typing import Any, Final

from saggar.errors import NotFound, PlatformError

DRIVERS: Final = "saggar.drivers"
LANGUAGES: Final = "saggar.languages"

_OURS: Final = {
    DRIVERS: {
        "docker": "saggar.drivers.docker:DockerDriver",
        "jail": "saggar.drivers.jail.driver:JailDriver",
        "process": "saggar.drivers.process:ProcessDriver",
    },
    LANGUAGES: {
        "python": "saggar.languages.python:Python",
        "command": "saggar.languages.command:CommandLanguage",
        "node": "saggar.languages.node:Node",
        "go": "saggar.languages.go:Go",
        "bash": "saggar.languages.bash:Bash",
    },
}
_KINDS: Final = {DRIVERS: "driver", LANGUAGES: "language"}


def driver(name: str) -> Any:
    """The class of the driver called `name`. NotFound if there is none."""
    return _find(DRIVERS, name)


def language(name: str) -> Any:
    """The class of the language called `name`. NotFound if there is none."""
    return _find(LANGUAGES, name)


def drivers() -> tuple[str, ...]:
    """The names of all drivers."""
    return tuple(sorted(_targets(DRIVERS)))


def languages() -> tuple[str, ...]:
    """The names of all languages."""
    return tuple(sorted(_targets(LANGUAGES)))


def _find(group: str, name: str) -> Any:
    target = _OURS[group].get(name) or _targets(group).get(name)
    if target is None:
        raise NotFound.among(_KINDS[group], name, _targets(group))
    try:
        return _load(target)
    except (ImportError, AttributeError) as exc:
        raise PlatformError(f"{_KINDS[group]} {name!r} ({target}) does not load: {exc}") from exc


def _targets(group: str) -> dict[str, str]:
    """Name to "module:attribute". No other package can take the name of one of ours."""
    # Milliseconds, and not needed by a process that uses our own plugs only.
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=group)} | _OURS[group]


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
