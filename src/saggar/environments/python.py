"""
Python packages: what a requirement may say, and how uv turns requirements into a folder.

Everything here runs on the host, with the rights of whoever runs Saggar. So requirements are
rebuilt from parsed parts before uv reads them, only wheels are installed (building a source
distribution executes it), and every file has to match the hash in the lock.
"""

import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream

from saggar.environments import tree
from saggar.errors import InvalidTask, PrepareFailed

Progress = Callable[[str], None]
"""Is called with one line of text for people at a time."""

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
_LOG_KEPT: Final = 64 << 10
# Each try waits longer than the one before: uv's own three take ten seconds to learn that there is
# no network. Only what comes first is so impatient; a download that broke is worth more of them.
_IMPATIENT: Final = {"UV_HTTP_RETRIES": "1"}
_NOTHING: Final[Mapping[str, str]] = {}


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
    argv = [interpreter, "-I", "-S", "-c", _IDENTIFY]
    try:
        with anyio.fail_after(10):
            answer = await anyio.run_process(argv, env={}, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise PrepareFailed(f"{interpreter} does not answer as Python does: {exc}") from None
    return answer.stdout.decode(errors="replace").strip()


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


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a build happens, and who hears of it."""

    folder: Path
    turn: int
    """The lock of this build. The installer keeps it, too: killed, we may leave it behind
    at work, and nobody must sweep its folder or start over before it has ended."""
    progress: Progress


async def resolve(requirements: tuple[str, ...], interpreter: str, at: Workshop) -> str:
    """
    The lock: every package with its exact version and the hashes of its files.

    Raises:
        PrepareFailed: uv is missing, reaches no index, or found no set of wheels that fits.
    """
    at.progress(f"resolving {_count(requirements)}")
    tree.write(at.folder / "requirements.in", "".join(f"{line}\n" for line in requirements))
    await _uv(
        at,
        f"no set of wheels fits {', '.join(requirements)}",
        ["pip", "compile", "requirements.in", "--output-file", "lock.txt"],
        ["--generate-hashes", "--no-header", "--no-annotate", "--only-binary", ":all:"],
        ["--python", interpreter],
        unless_said=_IMPATIENT,
    )
    return tree.read(at.folder / "lock.txt")


async def install(lock: str, interpreter: str, at: Workshop) -> None:
    """
    Install what a lock names into `site` in the workshop's folder.

    Raises:
        PrepareFailed: uv is missing, a file could not be fetched or has another hash.
    """
    pinned = [line.split()[0].partition("==")[::2] for line in lock.splitlines() if "==" in line]
    at.progress(f"installing {_names([f'{name} {version}' for name, version in pinned])}")
    tree.write(at.folder / "lock.txt", lock)
    await _uv(
        at,
        "the packages could not be installed",
        ["pip", "install", "--requirements", "lock.txt", "--target", "site"],
        ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", interpreter],
        # Copies: a hard link into uv's cache would share its modes and its later changes.
        # Bytecode: the layer is read-only later, so every import would compile again.
        ["--link-mode", "copy", "--compile-bytecode"],
    )


def _count(requirements: tuple[str, ...]) -> str:
    return requirements[0] if len(requirements) == 1 else f"{len(requirements)} packages"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def find_uv() -> str:
    """
    The uv beside the interpreter that runs us, on PATH, or in the package that ships it.

    Raises:
        PrepareFailed: There is none.
    """
    beside = os.path.join(sys.prefix, "bin", "uv")
    if os.access(beside, os.X_OK):
        return beside
    if found := shutil.which("uv"):
        return found
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError):
        raise PrepareFailed("packages need uv, which is not installed; pip install uv") from None


async def _uv(
    at: Workshop, failure: str, *arguments: list[str], unless_said: Mapping[str, str] = _NOTHING
) -> None:
    """Run uv to its end; there is no deadline but the caller's cancellation, which kills it."""
    argv = [find_uv(), *(word for words in arguments for word in words)]
    try:
        process = await anyio.open_process(
            argv,
            cwd=at.folder,
            env={**unless_said, **_surroundings(os.environ)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(at.turn,),
            umask=0o022,
        )
    except OSError as exc:
        raise PrepareFailed(f"uv could not be started: {exc}") from None
    async with process:
        assert process.stderr is not None  # noqa: S101 (asked for above)
        log = await _listen(process.stderr, at.progress)
        code = await process.wait()
    if code != 0:
        raise PrepareFailed(_unreachable(log) or failure + _advice(log), log)


async def _listen(stream: ByteReceiveStream, progress: Progress) -> str:
    """All that uv says, its last part if it is much; downloads are passed on as they start."""
    heard, line = b"", b""
    async for piece in stream:
        heard = (heard + piece)[-_LOG_KEPT:]
        *lines, line = (line + piece).split(b"\n")
        for complete in lines:
            if complete.lstrip().startswith(b"Downloading "):
                progress(_readable(complete.strip()).replace("Downloading", "downloading", 1))
        line = line[-_LOG_KEPT:]
    return _readable(heard)


def _readable(log: bytes) -> str:
    # An index may be named with its password in the URL.
    return re.sub(r"://[^/\s@]+@", "://***@", log.decode(errors="replace"))


def _unreachable(log: str) -> str:
    """What to say where no index answered at all; empty if that was not it."""
    if not re.search(r"error sending request|client error \(Connect\)", log):
        return ""
    # The chain of causes ends with what the system or the library below said.
    *_, cause = log.strip().splitlines()
    reason = re.sub(r"^\s*(?:[0-9]+: |[Cc]ause(?:d by)?: )", "", cause)
    return f"the package index cannot be reached: {reason}"


def _advice(log: str) -> str:
    if "building from source is disabled" in log:
        return "; only wheels are installed: building a source distribution would run it here"
    return ""


_KEPT: Final = {
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "NETRC"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_HOME"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
}
# uv's own settings are the operator's and stay, but for those that would undo ours.
_DROPPED: Final = re.compile(
    r"UV_(NO_VERIFY_HASHES|REQUIRE_HASHES|NO_BINARY.*|NO_BUILD.*|PYTHON|SYSTEM_PYTHON|TARGET|PREFIX"
    r"|WORKING_DIR.*|PROJECT.*|LINK_MODE|CUSTOM_COMPILE_COMMAND)"
)
# uv does not read pip's settings; where only these are given, the index is meant all the same.
_TRANSLATED: Final = {
    "PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "PIP_EXTRA_INDEX_URL": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "PIP_CERT": ("SSL_CERT_FILE",),
}


def _surroundings(ours: Mapping[str, str]) -> dict[str, str]:
    """The environment of uv: index, proxies and certificates of ours, nothing else of ours."""
    env = {
        name: value
        for name, value in ours.items()
        if name in _KEPT or (name.startswith("UV_") and not _DROPPED.fullmatch(name))
    }
    for theirs, names in _TRANSLATED.items():
        if theirs in ours and not any(name in ours for name in names):
            env[names[0]] = ours[theirs]
    return env | {"UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
