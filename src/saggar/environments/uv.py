"""
uv: where it is, what it hears of our surroundings, and what its complaints mean.

Its own settings are the operator's: the index, the cache (UV_CACHE_DIR), proxies and certificates.
What would undo ours, and everything else of our environment, stays here.
"""

import os
import re
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from saggar.environments import commands
from saggar.environments.commands import Command, Said
from saggar.environments.recipe import Workshop
from saggar.errors import PrepareFailed

# Each try waits longer than the one before: uv's own three take ten seconds to learn that there is
# no network. Only what comes first is so impatient; a download that broke is worth more of them.
IMPATIENT: Final = {"UV_HTTP_RETRIES": "1"}
_NOTHING: Final[Mapping[str, str]] = {}


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


async def run(
    at: Workshop, failure: str, *arguments: list[str], unless_said: Mapping[str, str] = _NOTHING
) -> Said:
    """
    Run uv in a workshop.

    Raises:
        PrepareFailed: It is missing, failed, or took too long.
    """

    def hear(line: str) -> None:
        if line.lstrip().startswith("Downloading "):
            at.progress(line.strip().replace("Downloading", "downloading", 1))

    command = Command(
        [find_uv(), *(word for words in arguments for word in words)],
        env={**unless_said, **surroundings(os.environ)},
        cwd=at.folder,
        timeout=at.timeout,
        keeps=(at.turn,),
        hear=hear,
    )
    return await commands.run(command, lambda log: _unreachable(log) or failure + _advice(log))


async def ask(*words: str) -> Said:
    """
    What uv answers to a question about this machine; it fetches nothing for it.

    Raises:
        PrepareFailed: It is missing, or does not answer.
    """
    env = surroundings(os.environ) | {"UV_OFFLINE": "1"}
    return await commands.attempt(Command([find_uv(), *words], env, cwd=Path("/"), timeout=20))


def link_mode(store: Path, environ: Mapping[str, str]) -> str:
    """
    How files get from uv's cache into a layer: as hard links where nobody but us can change them.

    A link shares what is done to the file later. In our own cache that is nothing: uv only ever
    adds to it.
    """
    cache = _cache_dir(environ)
    try:
        found = cache.stat()
    except FileNotFoundError:
        return "hardlink"  # uv makes it now, as ours
    except OSError:
        return "copy"
    ours = found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return "hardlink" if ours and found.st_dev == store.stat().st_dev else "copy"


def _cache_dir(environ: Mapping[str, str]) -> Path:
    if said := environ.get("UV_CACHE_DIR"):
        return Path(said)
    base = environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "uv"


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


def surroundings(ours: Mapping[str, str]) -> dict[str, str]:
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
