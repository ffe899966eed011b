"""
Interpreters: what a driver must know of the Python it starts inside, and the code it starts there.

The interpreter that runs Saggar is asked directly; any other one is run once and remembered.
"""

import _imp
import functools
import importlib.util
import json
import marshal
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from shutil import which

from saggar.errors import DriverUnavailable, NotFound

OPTIONS = ("-I", "-S", "-B", "-X", "utf8")
"""Isolated from the caller's variables, folders and site; no byte code written; text is UTF-8."""

_ASK = """
import json, os, sys, sysconfig
executable = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
schemes = {"posix_prefix", "posix_local", "deb_system"}.intersection(sysconfig.get_scheme_names())
paths = {sysconfig.get_path(k, s, vars=base) for k in ("purelib", "platlib") for s in schemes}
print(json.dumps([executable, sys.base_prefix, list(sys.version_info[:3]), sorted(paths)]))
"""
SCHEMES = frozenset({"posix_prefix", "posix_local", "deb_system"})
"""Where distributions put third-party packages: upstream's place, and Debian's two."""
_OLDEST = (3, 11)
_GUEST = Path(__file__).parent.parent
_PACKAGES = ("saggar.boundary", "saggar.guest")
_BESIDE = ("cloudpickle",)
"""What our modules inside import of others: it comes along, of the very version that is here."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One Python installation of the host."""

    executable: str
    """The real binary: no shim, no virtual environment's link."""
    prefix: str
    version: tuple[int, ...]
    site: tuple[str, ...]
    """Where its own third-party packages are: what a bare environment must not see."""


def find(wanted: str | None) -> Interpreter:
    """
    The interpreter an environment asks for, by absolute path or version; ours for None.

    Raises:
        NotFound: There is none; says which there are.
        DriverUnavailable: It does not answer, or is too old.
    """
    if wanted is None:
        return _ours()
    path = wanted if wanted.startswith("/") else which(f"python{wanted}")
    if path is None:
        raise NotFound(
            f"no python{wanted} on PATH; there are: {_on_path()};"
            " another one is named by its absolute path"
        )
    return _other(path)


def _on_path() -> str:
    """The versions that could have been asked for."""
    found = {
        (int(name[1]), int(name[2]))
        for folder in os.get_exec_path()
        for entry in _entries(folder)
        if (name := re.fullmatch(r"python([0-9]{1,3})\.([0-9]{1,3})", entry)) and which(entry)
    }
    return ", ".join(f"{a}.{b}" for a, b in sorted(found) if (a, b) >= _OLDEST) or "none"


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


@functools.cache
def _ours() -> Interpreter:
    import sysconfig

    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    schemes = SCHEMES.intersection(sysconfig.get_scheme_names())
    kinds = ("purelib", "platlib")
    site = {sysconfig.get_path(kind, scheme, vars=base) for kind in kinds for scheme in schemes}
    executable = getattr(sys, "_base_executable", "") or sys.executable
    version = sys.version_info[:3]
    return Interpreter(os.path.realpath(executable), sys.base_prefix, version, tuple(sorted(site)))


@functools.cache
def _other(path: str) -> Interpreter:
    try:
        answer = subprocess.run(
            [path, "-I", "-S", "-c", _ASK], capture_output=True, timeout=20, check=True
        )
        executable, prefix, version, site = json.loads(answer.stdout)
        old = tuple(version) < _OLDEST
    except (FileNotFoundError, NotADirectoryError, PermissionError) as exc:
        reason = os.strerror(exc.errno or 0).lower()
        raise NotFound(f"{path} cannot be run: {reason}; on PATH there are: {_on_path()}") from None
    except subprocess.CalledProcessError as exc:
        raise DriverUnavailable(
            f"{path} does not answer as a Python interpreter: it exits with {exc.returncode}"
        ) from exc
    except (OSError, subprocess.SubprocessError, TypeError, ValueError) as exc:
        raise DriverUnavailable(f"{path} does not answer as a Python interpreter: {exc}") from exc
    if old:
        found = ".".join(map(str, version))
        raise DriverUnavailable(f"{path} is Python {found}; the runner inside needs 3.11 or later")
    return Interpreter(executable, prefix, tuple(version), tuple(site))


@functools.cache
def bootstrap() -> str:
    """The program given to `-c`: it imports everything else from the bundle."""
    return (_GUEST / "guest" / "bootstrap.py").read_text(encoding="utf-8")


@functools.cache
def bundle() -> bytes:
    """All modules of the guest, for the bootstrap; compiled once and cached like any import."""
    modules = {"saggar": (True, _compiled("saggar", ""), "")}
    for package in _PACKAGES:
        folder = _GUEST / package.rpartition(".")[2]
        for path in sorted(folder.glob("*.py")):
            name = package if path.stem == "__init__" else f"{package}.{path.stem}"
            source = path.read_text(encoding="utf-8")
            code = SourceFileLoader(name, str(path)).get_code(name)
            # Or it would tell where we are installed.
            _imp._fix_co_filename(code, f"<{name}>")  # type: ignore[attr-defined]  # noqa: SLF001
            modules[name] = (name == package, marshal.dumps(code), source)
    for package in _BESIDE:
        modules |= _modules_of(package)
    return marshal.dumps((importlib.util.MAGIC_NUMBER, modules))


def _modules_of(package: str) -> dict[str, tuple[bool, bytes, str]]:
    """A package in plain Python of somebody else's, by the names of its modules."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return {}
    found = {}
    for path in sorted(Path(spec.origin).parent.glob("*.py")):
        name = package if path.stem == "__init__" else f"{package}.{path.stem}"
        code = SourceFileLoader(name, str(path)).get_code(name)
        _imp._fix_co_filename(code, f"<{name}>")  # type: ignore[attr-defined]  # noqa: SLF001
        found[name] = (name == package, marshal.dumps(code), path.read_text(encoding="utf-8"))
    return found


def _compiled(name: str, source: str) -> bytes:
    return marshal.dumps(compile(source, name, "exec"))


def memory_file(name: str, content: bytes) -> int:
    """A descriptor of `content`, which nobody can change any more."""
    import fcntl

    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
