"""Go: compiled in a sandbox of its own, offline, against the standard library; then executed."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from saggar.errors import InvalidTask
from saggar.languages.base import USUAL, cores, mebibytes, refuse_stdin, source
from saggar.model.limits import Limits
from saggar.model.plan import Compile, Plan, Runtime
from saggar.model.protocol import encode_request
from saggar.model.task import File, Task

GO: Final = Runtime(name="go", least=(1, 18), purpose="Go")
RUNNER: Final = "saggar_runner.go"
MAIN: Final = "saggar_main.go"
PROGRAM: Final = "program"
BUILD: Final = ("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", PROGRAM)
OFFLINE: Final = {
    "CGO_ENABLED": "0",  # a static program, and no C compiler
    "GO111MODULE": "on",
    "GOENV": "off",
    "GOPROXY": "off",
    "GOSUMDB": "off",
    "GOTOOLCHAIN": "local",
    "GODEBUG": "goindex=0",  # its index is kept in a cache that is read-only here
    "GOMAXPROCS": "2",
}
SOURCES: Final = (".go", ".s", ".h")
MODULE: Final = ("go.mod", "go.sum", "go.work")
_EMBED: Final = re.compile(rb"^//go:embed\s", re.MULTILINE)
_BLOCK: Final = re.compile(rb"^import\s*\(([^)]*)\)", re.MULTILINE)
_SINGLE: Final = re.compile(rb'^import\s+[\w.]*\s*"([^"\n]+)"', re.MULTILINE)
_QUOTED: Final = re.compile(rb'"([^"\n]+)"')
_LIBRARY: Final = re.compile(r"[a-z][a-z0-9]*(/[a-z0-9]+)*")


class Go:
    """A program with a main function, or a function called with JSON."""

    name = "go"

    def plan(self, task: Task, limits: Limits = USUAL) -> Plan:
        """
        Compile the program with those of the task's files that Go reads, then execute it.

        Without a go.mod only the files beside it belong to the program, and only the standard
        library can be imported.
        """
        main = source(self.name, task, ".go")
        if not main.path.endswith(".go"):
            raise InvalidTask(f"go wants a file that ends in .go, found {main.path!r}")
        entry = task.program.entry
        sources = (main, *_sources(main, task.files), *(() if entry is None else _serving(entry)))
        plan = Plan(
            argv=(PROGRAM, *task.args),
            runtime=GO,
            compile=_compile(sources),
            env=_fitted(limits),
        )
        if entry is None:
            return plan
        refuse_stdin(self.name, task)
        return plan.replace(answers=True, stdin=encode_request(task.input))


def _sources(main: File, files: tuple[File, ...]) -> Iterator[File]:
    """What Go reads; data files are left out, or every other input would be compiled again."""
    embeds = any(_EMBED.search(file.content) for file in (main, *files))
    return (file for file in files if embeds or _is_source(file.path))


def _is_source(path: str) -> bool:
    return path.endswith(SOURCES) or path in MODULE or path.startswith("vendor/")


def _serving(entry: str) -> tuple[File, File]:
    """A main function that calls `entry`, and what it takes for that."""
    if "." in entry:
        raise InvalidTask(f"go wants the name of a function of the program, found {entry!r}")
    called = f"package main\n\nfunc main() {{ saggarServe({entry}) }}\n"
    return File(path=MAIN, content=called.encode()), File(path=RUNNER, content=_runner())


def _compile(files: tuple[File, ...]) -> Compile:
    paths = {file.path for file in files}
    module = "go.mod" in paths
    # Named one by one they need no go.mod, and have the newest language the toolchain speaks.
    what = (".",) if module else tuple(f"./{name}" for name in sorted(_beside(files)))
    vendored = "vendor/modules.txt" in paths
    return Compile(
        argv=(*BUILD, *what),
        files=files,
        env={**OFFLINE, "GOFLAGS": "-mod=vendor" if vendored else "-mod=mod"},
        output=PROGRAM,
        libraries=tuple(sorted(set(_imports(files)))),
    )


def _beside(files: tuple[File, ...]) -> Iterator[str]:
    for file in files:
        name = file.path
        if name.endswith(".go") and not name.endswith("_test.go") and "/" not in name:
            yield name


def _imports(files: tuple[File, ...]) -> Iterator[str]:
    """What the sources seem to import of the standard library; a guess that only saves time."""
    for file in files:
        if file.path.endswith(".go"):
            blocks = b"".join(_BLOCK.findall(file.content))
            names = [*_SINGLE.findall(file.content), *_QUOTED.findall(blocks)]
            yield from filter(
                _LIBRARY.fullmatch, (name.decode("utf-8", "replace") for name in names)
            )


def _fitted(limits: Limits) -> dict[str, str]:
    """What it cannot see from inside: the machine has more cores and memory than it may use."""
    memory = mebibytes(limits.memory * 9 // 10)
    return {"GOMAXPROCS": str(cores(limits)), "GOMEMLIMIT": f"{memory}MiB"}


@cache
def _runner() -> bytes:
    return (Path(__file__).parent / "runner.go").read_bytes()
