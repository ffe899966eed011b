"""
Requirements: what a caller may say about a package.

They are read by an installer on the host, so each is taken apart and put together again: an option,
a second line, a path or a URL has no place in what comes of it.
"""

import re
from collections.abc import Iterable
from typing import Final

from saggar.errors import InvalidTask

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE: Final = r"(?:===|==|~=|!=|<=|>=|<|>)\ *[A-Za-z0-9.*+!_-]+"
# What no marker needs and a requirements file gives a meaning stays out: - $ # \ and newlines.
_REQUIREMENT: Final = re.compile(
    rf"""\ *(?P<name>{_NAME})\ *
    (?:\[\ *(?P<extras>{_NAME}(?:\ *,\ *{_NAME})*)\ *\])?\ *
    (?P<versions>{_CLAUSE}(?:\ *,\ *{_CLAUSE})*)?\ *
    (?:;(?P<marker>[A-Za-z0-9_.,<>=!~'"()*+\ ]+))?""",
    re.VERBOSE,
)
_LONGEST: Final = 1000


def normalised(packages: Iterable[str]) -> tuple[str, ...]:
    """
    The same requirements, however they were written: sorted, canonical, each once.

    Raises:
        InvalidTask: One of them is not a name with versions.
    """
    return tuple(sorted({_normalised(package) for package in packages}))


def _normalised(package: str) -> str:
    found = _REQUIREMENT.fullmatch(package) if len(package) <= _LONGEST else None
    if found is None:
        raise InvalidTask(
            f"wanted a package with or without versions, such as 'numpy==2.*', found"
            f" {package!r:.80}; {_why_not(package)}"
        )
    # The canonical name matters: uv would take `evil.zip` for a file beside the lock.
    extras = sorted({_canonical(extra) for extra in _split(found["extras"])})
    versions = sorted({clause.replace(" ", "") for clause in _split(found["versions"])})
    marker = f" ; {' '.join(found['marker'].split())}" if found["marker"] else ""
    chosen = f"[{','.join(extras)}]" if extras else ""
    return f"{_canonical(found['name'])}{chosen}{','.join(versions)}{marker}"


def _why_not(package: str) -> str:
    if package.lstrip().startswith("-"):
        return "options are not accepted here"
    if "@" in package or "/" in package:
        return "URLs and paths are not accepted: building what lies there would run it on the host"
    return "it is not a requirement as PEP 508 defines it"


def _split(listed: str | None) -> list[str]:
    return [part.strip() for part in listed.split(",")] if listed else []


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
