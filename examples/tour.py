"""
The tour: real code on real data behind the walls, then three programs that mean harm.

Ends with 0 when all of them went as expected, with 1 when something did not.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).parent
SCRATCH = EXAMPLES.parent / "build" / "tour"
CANARY = secrets.token_hex(8)


@dataclass(frozen=True)
class Stop:
    """One run on the tour: what is typed, and what must be seen."""

    title: str
    argv: tuple[str, ...]
    exit_code: int
    seen: Callable[[str], bool]
    verdict: str

    def visit(self) -> bool:
        """Run it, show what it shows, and say whether it went as expected."""
        print(f"\n# {self.title}\n$ saggar run {' '.join(self.argv)}", flush=True)
        run = subprocess.run(
            ["saggar", "run", *self.argv],
            cwd=SCRATCH,
            env=os.environ | {"PATH": search_path(), "SECRET": CANARY},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        text = run.stdout.decode(errors="replace")
        print(text, end="")
        return run.returncode == self.exit_code and CANARY not in text and self.seen(text)


def search_path() -> str:
    """PATH, with the `saggar` of this interpreter first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def collected(text: str) -> bool:
    """The table came out of the sandbox, as text and as a file."""
    summary = SCRATCH / "summary.csv"
    return "Seattle" in text and summary.exists() and len(summary.read_text().splitlines()) == 25


def stops() -> tuple[Stop, ...]:
    """The tour, in order."""
    secret = SCRATCH.parent / "secret.txt"
    secret.write_text(CANARY)
    return (
        Stop(
            "An ordinary script on four years of weather in two cities",
            ("analyse.py", "--input", "weather.csv", "--output", "summary.csv"),
            exit_code=0,
            seen=collected,
            verdict="analysed, summary.csv collected",
        ),
        Stop(
            "Reads the host's files, environment and processes",
            ("hostile/read_host.py", "--", str(secret)),
            exit_code=0,
            seen=lambda text: "/etc/shadow: READ" not in text,
            verdict="saw none of the host's secrets",
        ),
        Stop(
            "Forks without end",
            ("hostile/fork_bomb.py", "--wall", "2s", "--processes", "32"),
            exit_code=124,
            seen=lambda text: "refused" in text,
            verdict="was refused forks, then ended at its deadline",
        ),
        Stop(
            "Allocates without end",
            ("hostile/eat_memory.py", "--memory", "128MiB"),
            exit_code=137,
            seen=lambda text: "memory" in text,
            verdict="was ended at 128 MiB",
        ),
    )


def main() -> int:
    """Visit every stop, then say what became of each."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    shutil.copytree(EXAMPLES, SCRATCH)
    print(f"$ cd {SCRATCH}")
    outcomes = [(stop, stop.visit()) for stop in stops()]
    print("\n# What became of them")
    for stop, good in outcomes:
        print(f"{stop.argv[0]:<24}{stop.verdict if good else 'NOT AS EXPECTED: see above'}")
    return 0 if all(good for _, good in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
