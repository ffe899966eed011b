"""Child processes of the bench: programs given to `-c`, and how they are started."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from time import perf_counter

from saggar.errors import PlatformError

PRINT = "print(1)"
ANSWER = b"1\n"

NAKED = """
import os, sys, time
start = time.perf_counter()
done = 0
while (now := time.perf_counter()) - start < float(sys.argv[1]):
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(into, 1)
        os.close(out)
        os.close(into)
        print(1, flush=True)
        if sys.argv[2] == "sys.exit":
            sys.exit()
        os._exit(0)
    os.close(into)
    while os.read(out, 4096):
        pass
    os.close(out)
    os.waitpid(child, 0)
    done += 1
print(done / (now - start))
"""
"""`fork` and nothing else: no walls, no limits, no files; how many it does in a second."""

SYNCHRONOUS = """
import sys, time, saggar
for turn in range(20 + int(sys.argv[1])):
    start = time.perf_counter()
    assert saggar.run("print(1)").stdout == "1\\n"
    if turn >= 20:
        print(time.perf_counter() - start)
"""
"""`saggar.run` in a process without an event loop of its own."""

FLOOD = """
import sys
block = b"x" * 65536
for _ in range(1024):
    sys.stdout.buffer.write(block)
"""
"""64 MiB."""


def bare_python() -> list[str]:
    """The interpreter without site and without the caller's settings, as fast as it starts."""
    return [os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable), "-I", "-S"]


def ourselves() -> list[str]:
    """The console script beside this interpreter."""
    script = os.path.join(os.path.dirname(sys.executable), "saggar")
    return [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "saggar"]


def timed_start(argv: Sequence[str], answer: bytes | None = None) -> float:
    """
    Seconds from the start of a process to its end, its output read.

    Raises:
        PlatformError: It failed, or did not say what it should.
    """
    start = perf_counter()
    ended = subprocess.run(
        argv, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    took = perf_counter() - start
    if ended.returncode or answer not in (None, ended.stdout):
        said = (ended.stderr or ended.stdout).decode(errors="replace").strip()
        raise PlatformError(f"{argv[0]} ended with {ended.returncode}: {said[-200:]}")
    return took


def lines(argv: Sequence[str]) -> list[float]:
    """The numbers a process prints, one a line."""
    return numbers(start(argv))


def start(argv: Sequence[str]) -> "subprocess.Popen[bytes]":
    """A process whose output is wanted later."""
    return subprocess.Popen(
        argv, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )


def numbers(process: "subprocess.Popen[bytes]") -> list[float]:
    """What it prints, once it has ended. PlatformError if it failed."""
    printed, _ = process.communicate()
    if process.returncode:
        raise PlatformError(f"{process.args!r:.60} ended with {process.returncode}")
    return [float(line) for line in printed.split()]


def naked_rate(clients: int, seconds: float, ending: str) -> float:
    """Naked forks per second, in as many processes at once; "os._exit" or "sys.exit" ends each."""
    argv = [*bare_python(), "-c", NAKED, str(seconds), ending]
    running = [start(argv) for _ in range(clients)]
    return sum(sum(numbers(process)) for process in running)


@cache
def environment() -> dict[str, str]:
    """
    Our variables, with byte code cached in a folder of the bench's own.

    Where the caller has forbidden byte code, or cannot write beside the sources, every start
    would compile everything anew, which no installed program does.
    """
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": _cache().name}


@cache
def _cache() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="saggar-bench-")
