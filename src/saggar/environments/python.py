"""
Python packages: how uv turns requirements into a folder.

Everything here runs on the host, with the rights of whoever runs Saggar. So requirements are
rebuilt from parsed parts before uv reads them, only wheels are installed (building a source
distribution executes it), and every file has to match the hash in the lock.
"""

import os
import re
import site
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saggar.environments import commands, tree, uv
from saggar.environments.commands import Command
from saggar.environments.recipe import Workshop
from saggar.errors import PrepareFailed
from saggar.model.plan import Layer

INSIDE: Final = "/opt/saggar/layers"

_IDENTIFY: Final = (
    "import sys, sysconfig; print('.'.join(map(str, sys.version_info[:3])),"
    " sysconfig.get_config_var('SOABI'), sysconfig.get_platform())"
)
_identified: Final[dict[tuple[str, int, int], str]] = {}


async def identify(interpreter: str) -> str:
    """
    What a compiled package depends on: version, ABI and platform of an interpreter.

    Raises:
        PrepareFailed: It is not an interpreter that answers.
    """
    try:
        found = os.stat(interpreter)
    except OSError as exc:
        raise PrepareFailed(f"no interpreter at {interpreter}: {exc.strerror}") from None
    if interpreter == sys.executable:
        version = ".".join(map(str, sys.version_info[:3]))
        return f"{version} {sysconfig.get_config_var('SOABI')} {sysconfig.get_platform()}"
    # An upgrade in place changes inode or time, and then it is another interpreter.
    key = (interpreter, found.st_ino, found.st_mtime_ns)
    if key not in _identified:
        _identified[key] = await _ask(interpreter)
    return _identified[key]


async def _ask(interpreter: str) -> str:
    command = Command([interpreter, "-I", "-S", "-c", _IDENTIFY], timeout=10)
    said = await commands.run(command, lambda _: f"{interpreter} does not answer as Python does")
    return said.output.decode(errors="replace").strip()


def site_packages() -> tuple[str, ...]:
    """
    The folders of installed packages that the interpreter running Saggar looks into.

    Not what PYTHONPATH or an editable install adds: these are working copies, not packages.
    """
    known = {os.path.realpath(folder) for folder in site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        known.add(os.path.realpath(site.getusersitepackages()))
    found = dict.fromkeys(os.path.realpath(entry) for entry in sys.path if entry)
    return tuple(entry for entry in found if entry in known and os.path.isdir(entry))


async def host_packages() -> tuple[str, ...]:
    """
    The folders of packages that count as the host's, those that are looked into first before.

    An activated environment (VIRTUAL_ENV) goes before our own: it is what its user works with.
    One of another Python is none of ours.
    """
    folders = site_packages()
    if (active := await _active()) is not None:
        folders = (active.folder, *(folder for folder in folders if folder != active.folder))
    return folders


async def missing(requirements: tuple[str, ...], at: Workshop) -> tuple[str, ...]:
    """
    What of the requirements the host's packages lack, each with its exact version.

    Raises:
        PrepareFailed: uv is missing, reaches no index, or found nothing that fits.
    """
    active = await _active()
    tree.write(at.folder / "requirements.in", "".join(f"{line}\n" for line in requirements))
    said = await uv.run(
        at,
        f"no set of wheels fits {', '.join(requirements)} and the packages of the host",
        ["pip", "install", "--dry-run", "--requirements", "requirements.in"],
        ["--only-binary", ":all:", "--break-system-packages"],
        ["--python", active.python if active else sys.executable],
        unless_said=uv.IMPATIENT,
    )
    return tuple(sorted(re.findall(r"^ *\+ ([A-Za-z0-9._-]+==\S+)$", said.log, re.MULTILINE)))


@dataclass(frozen=True, slots=True)
class _Active:
    """A virtual environment that somebody has activated."""

    python: str
    folder: str


async def _active() -> _Active | None:
    found = _activated(os.environ)
    if found is None or await identify(found.python) != await identify(sys.executable):
        return None
    return found


def _activated(environ: Mapping[str, str]) -> _Active | None:
    """The one that VIRTUAL_ENV names; ours is looked into anyway."""
    home = environ.get("VIRTUAL_ENV", "")
    if not os.path.isabs(home) or os.path.realpath(home) == os.path.realpath(sys.prefix):
        return None
    python = os.path.join(home, "bin", "python")
    folder = sysconfig.get_path("purelib", "venv", vars={"base": home})
    if not os.access(python, os.X_OK) or not os.path.isdir(folder):
        return None
    return _Active(python, os.path.realpath(folder))


@dataclass(frozen=True, slots=True)
class PythonPackages:
    """Requirements for one interpreter, as wheels in a folder that Python looks into."""

    names: tuple[str, ...]
    made_for: str
    interpreter: str
    pinned: bool = False
    """Whether they are all that is to be installed, what they need left out."""
    kind: str = "python"

    @property
    def surroundings(self) -> str:
        """A wheel is for an interpreter; without what they need they are something else."""
        return f"{self.made_for} alone" if self.pinned else self.made_for

    async def resolve(self, at: Workshop) -> str:
        """
        The lock: every package with its exact version and the hashes of its files.

        Raises:
            PrepareFailed: uv is missing, reaches no index, or found no set of wheels that fits.
        """
        at.progress(f"resolving {_count(self.names)}")
        tree.write(at.folder / "requirements.in", "".join(f"{line}\n" for line in self.names))
        if self.pinned:
            found = _entries(await self._compiled(at, "--no-deps"))
            if not all("--hash=" in entry for entry in found):
                # A folder of wheels has no list of hashes: uv looks into what it resolves only.
                whole = _entries(await self._compiled(at))
                found = [entry for entry in whole if entry.split()[0] in self.names]
            return "".join(found)
        # One that names nothing is a lock as well: what was asked for does not apply here.
        return await self._compiled(at) or "\n"

    async def _compiled(self, at: Workshop, *options: str) -> str:
        await uv.run(
            at,
            f"no set of wheels fits {', '.join(self.names)}",
            ["pip", "compile", "requirements.in", "--output-file", "lock.txt", *options],
            ["--generate-hashes", "--no-header", "--no-annotate", "--only-binary", ":all:"],
            ["--python", self.interpreter],
            unless_said=uv.IMPATIENT,
        )
        return tree.read(at.folder / "lock.txt")

    async def install(self, lock: str, at: Workshop) -> None:
        """
        Install what a lock names into `site` in the workshop's folder.

        Raises:
            PrepareFailed: uv is missing, a file could not be fetched or has another hash.
        """
        lines = [line.split()[0] for line in lock.splitlines() if "==" in line]
        at.progress(f"installing {_names([line.replace('==', ' ', 1) for line in lines])}")
        tree.write(at.folder / "lock.txt", lock)
        await uv.run(
            at,
            "the packages could not be installed",
            ["pip", "install", "--requirements", "lock.txt", "--target", "site"],
            ["--no-deps", "--require-hashes", "--only-binary", ":all:"],
            ["--python", self.interpreter, "--link-mode", uv.link_mode(at.folder, os.environ)],
        )
        await self._compile(at)

    async def _compile(self, at: Workshop) -> None:
        """The layer is read-only later: without bytecode every import would compile again."""
        # Not the tests of a package, half of it now and then, which nobody imports. What does not
        # compile was not written for this Python, and is as good or bad as before.
        words = ["-m", "compileall", "-qq", "-j", "0", "-x", "/tests?/", "site"]
        argv = [self.interpreter, "-I", "-S", *words]
        env = commands.inherited("PATH", "TMPDIR")
        await commands.attempt(
            Command(argv, env, cwd=at.folder, timeout=at.timeout, keeps=(at.turn,))
        )

    def layer(self, site: Path, digest: str) -> Layer:
        """A folder that Python looks for modules in."""
        return Layer(path=str(site), target=f"{INSIDE}/{digest[:16]}", python_path=True)


def _entries(lock: str) -> list[str]:
    """One text for each package of a lock, with its hashes."""
    return re.findall(r"^\S.*\n(?:[ \t]+.*\n)*", lock, re.MULTILINE)


def _count(requirements: tuple[str, ...]) -> str:
    return requirements[0] if len(requirements) == 1 else f"{len(requirements)} packages"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
