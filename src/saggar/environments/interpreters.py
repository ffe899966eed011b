"""
Interpreters by version: the one that an environment asks for, as uv finds them on this machine.

Those that uv has installed, those on PATH, and those that a version manager keeps. Nothing is
downloaded: an interpreter is the operator's to install.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from glob import glob
from shutil import which
from typing import Final

from saggar.environments import commands, uv
from saggar.environments.commands import Command
from saggar.errors import NotFound, PrepareFailed

OLDEST: Final = [3, 11]
"""What runs inside needs it."""
_found: Final[dict[str, str]] = {}


async def of_version(version: str) -> str:
    """
    The path of a Python such as "3.12".

    Raises:
        NotFound: There is none; says which there are, and what brings one.
    """
    named = [int(number) for number in version.split(".")[:2]]
    if named < OLDEST[: len(named)]:
        oldest = ".".join(map(str, OLDEST))
        raise NotFound(
            f"environment.python: {oldest} is the oldest that will do, and {version} was named"
        )
    if version not in _found or not os.access(_found[version], os.X_OK):
        _found[version] = _ours(version) or await _asked(version) or _on_path(version)
    if path := _found[version]:
        return path
    known = ", ".join(await versions()) or "none"
    short = ".".join(version.split(".")[:2])
    raise NotFound(
        f"no Python {version} on this machine; there are: {known}; uv python install {version}, or"
        f" apt install python{short}, or name another one by its absolute path"
    )


async def versions() -> tuple[str, ...]:
    """The versions of every Python that uv finds here and that will do, the oldest first."""
    try:
        said = await commands.attempt(_command("list", "--only-installed", "--output-format=json"))
        found = {str(one["version"]) for one in json.loads(said.output)}
    except (PrepareFailed, ValueError, KeyError, TypeError):
        found = {".".join(map(str, sys.version_info[:3]))}  # without uv ours is what we know of
    return tuple(sorted((one for one in found if _numbers(one) >= OLDEST), key=_numbers))


def _ours(version: str) -> str:
    """Our own one, if that is meant: nothing else is known so well."""
    if list(sys.version_info[: version.count(".") + 1]) != _numbers(version):
        return ""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


async def _asked(version: str) -> str:
    try:
        said = await commands.attempt(_command("find", version, "--system", "--no-project"))
    except PrepareFailed:
        return ""
    return said.output.decode(errors="replace").strip() if said.code == 0 else ""


def _on_path(version: str) -> str:
    return which(f"python{version}", path=os.pathsep.join(_folders(os.environ))) or ""


def _command(*words: str) -> Command:
    env = uv.surroundings(os.environ) | {"PATH": os.pathsep.join(_folders(os.environ))}
    return Command([uv.find_uv(), "python", *words, "--offline"], env=env, timeout=20)


def _folders(environ: Mapping[str, str]) -> Iterator[str]:
    """
    Where programs are, with the folders of a version manager in the place of its shims.

    A shim is a script that starts one of them: the one that is chosen where one happens to stand.
    """
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        if not folder.rstrip("/").endswith("/shims"):
            yield folder
            continue
        manager = os.path.dirname(folder.rstrip("/"))
        for kept in ("versions/*/bin", "installs/python/*/bin"):
            yield from sorted(glob(os.path.join(manager, kept)), reverse=True)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]
