"""What one would use instead, started for the same work: one print, its output read."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from shlex import join
from time import perf_counter

from saggar.cli.bench.programs import ANSWER, PRINT, bare_python, timed_start
from saggar.cli.bench.row import Effort, Row, timed
from saggar.errors import PlatformError

CLIENTS = 2


def peers(effort: Effort) -> list[Row]:
    """Bare Python, bubblewrap, Docker; a row with the reason where one cannot be had."""
    return [
        started("bare python3 -I -S -c", [*bare_python(), "-c", PRINT], effort),
        bubblewrap(effort),
        docker(effort),
    ]


def bubblewrap(effort: Effort) -> Row:
    """Namespaces and a read-only root; no limits, no system call filter."""
    title = "bwrap --unshare-all"
    if shutil.which("bwrap") is None:
        return Row(title=title, command="bwrap", note="not installed")
    try:
        return started(title, bubblewrapped([*bare_python(), "-c", PRINT]), effort)
    except PlatformError as exc:
        return Row(title=title, command="bwrap", note=f"does not work here: {exc}")


def bubblewrapped(argv: Sequence[str]) -> list[str]:
    """A usual command line for it."""
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            words += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            words += ["--ro-bind", f"/{name}", f"/{name}"]
    if not sys.base_prefix.startswith("/usr"):
        words += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    return [*words, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", *argv]


def docker(effort: Effort) -> Row:
    """A container for each run, where an engine answers and has an image of Python."""
    title = "docker run --rm --network none"
    image = python_image()
    if image is None:
        return Row(title=title, command="docker", note="no engine answers, or it has no python")
    words = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", image]
    fewer = replace(effort, others=max(3, effort.others // 6))
    try:
        return started(title, [*words, "-I", "-S", "-c", PRINT], fewer)
    except PlatformError as exc:
        return Row(title=title, command=join(words), note=f"does not work here: {exc}")


def python_image() -> str | None:
    """An image of Python that the engine already has; nothing is fetched."""
    names = ("python", "saggar/runner-python")
    filters = [word for name in names for word in ("--filter", f"reference={name}")]
    words = ["docker", "image", "ls", *filters, "--format"]
    try:
        found = subprocess.run(
            [*words, "{{.Repository}}:{{.Tag}}"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(found.stdout.split()), None)


def started(title: str, argv: Sequence[str], effort: Effort) -> Row:
    """Starts one after the other, then with two clients at once for the rate."""
    timed_start(argv, ANSWER)
    times = [timed_start(argv, ANSWER) for _ in range(effort.others)]
    rate = together(argv, effort.others)
    return replace(
        timed(title, join(argv), times), rate=rate, note=f"runs/s with {CLIENTS} clients"
    )


def together(argv: Sequence[str], n: int) -> float:
    """Starts per second of two clients that never pause."""
    start = perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda _: timed_start(argv, ANSWER), range(n)))
    return n / (perf_counter() - start)
