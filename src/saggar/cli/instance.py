"""
`saggar instance`: a session behind the four endpoints of an executor instance.

Its variables are those of the containers that it stands in for. The walls are built once before it
serves, and it says which they are: weaker ones than the floor are a reason not to start.
"""

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import Parser
from saggar.cli.main import say
from saggar.errors import InvalidTask, PlatformError, UsageError

if TYPE_CHECKING:
    from saggar.config import Settings
    from saggar.model.policy import Policy

SUMMARY = "One session over HTTP: GET /health, GET /ready, POST /execute, POST /restart."
EXAMPLES = """\
examples:
  saggar instance
  saggar instance --port 8432 --workspace ./my_utilities --timeout 10s
  curl localhost:8432/execute -H 'Content-Type: application/json' -d '{"code": "6 * 7"}'

Every option has a variable, which its container sets: PORT, WORKSPACE_FOLDER, EXECUTION_TIMEOUT,
EXECUTION_MEMORY, EXECUTION_CPUS, EXECUTION_ISOLATION, EXECUTION_BEST_EFFORT, SAGGAR_ENGINE,
SAGGAR_DRIVER. SAGGAR_KEY is the key that callers have to show.
"""
HOST, PORT = "127.0.0.1", "8432"
FOLDERS = ("/code", "/data")
"""Where preloaded files are, if no place is named: the first one that exists."""
VARIABLES = {
    "isolation": "--isolation, EXECUTION_ISOLATION",
    "best_effort": "--best-effort, EXECUTION_BEST_EFFORT",
    "cpu_share": "--cpus, EXECUTION_CPUS",
    "memory": "--memory, EXECUTION_MEMORY",
}


def main(words: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    options = parser().read(words)

    from saggar.server import require

    require()
    import anyio

    from saggar.compat.instance import Setup, application
    from saggar.config import load
    from saggar.server.auth import Doors
    from saggar.server.serve import serve

    settings = load()
    if options.prepare:
        anyio.run(prepare, settings)
        return 0
    seconds = timeout(options, os.environ)
    wanted = policy(options, os.environ, seconds)
    driver = options.driver or settings.driver
    tell(f"walls: {anyio.run(wall, driver, settings, wanted)}")
    setup = Setup(
        timeout=seconds,
        folder=folder(options, os.environ),
        engine=options.engine or settings.engine,
        policy=wanted,
        driver=driver,
        log=tell,
    )
    tell(f"{setup.engine} session; {setup.timeout:g} s for each execution; {loads(setup.folder)}")
    doors = Doors.of(settings, options.host)
    serve(application(setup, settings, doors), options.host, port(options, os.environ), doors, tell)
    return 0


def parser() -> Parser:
    """Everything `saggar instance` understands."""
    made = Parser("instance", SUMMARY, EXAMPLES)
    made.add_argument("--host", default=HOST, metavar="ADDRESS", help=f"where to listen ({HOST})")
    made.add_argument("--port", metavar="N", help=f"at which port; 0 for any ({PORT})")
    made.add_argument(
        "--workspace",
        metavar="FOLDER",
        help="run its *.py first, in order, for all that comes later (/code, else /data)",
    )
    made.add_argument("--engine", choices=("shell", "kernel"), help="the interpreter (shell)")
    made.add_argument("--timeout", metavar="TIME", help="for each execution (3s)")
    made.add_argument("--memory", metavar="SIZE", help="of the session (256MiB)")
    made.add_argument("--cpus", metavar="CORES", help="that it may keep busy (0.25)")
    made.add_argument(
        "--isolation",
        metavar="RUNG",
        help="the weakest wall that will do: process, landlock, jail, container, gvisor (jail)",
    )
    made.add_argument(
        "--best-effort",
        metavar="LIMIT",
        action="append",
        default=[],
        help="serve even where this limit cannot be enforced",
    )
    made.add_argument("--driver", metavar="NAME", help="who builds the walls; see saggar doctor")
    made.add_argument(
        "--prepare",
        action="store_true",
        help="fetch what sessions are made of and exit; an image does so while it is built",
    )
    return made


async def prepare(settings: "Settings") -> None:
    """What a session of either engine needs from a package index is here afterwards."""
    from saggar.platform import Platform
    from saggar.sessions.opening import INTERPRETER, KERNEL

    async with Platform(settings) as platform:
        for environment in (INTERPRETER, KERNEL):
            await platform.prepare(environment, progress=tell)


def timeout(options: Namespace, environ: Mapping[str, str]) -> float:
    """Seconds that an execution may take."""
    from saggar.compat.instance import LONGEST, TIMEOUT
    from saggar.model.quantity import parse_seconds

    said = options.timeout or environ.get("EXECUTION_TIMEOUT") or TIMEOUT
    try:
        found = parse_seconds(said)
    except ValueError as exc:
        raise UsageError(f"--timeout, EXECUTION_TIMEOUT: {exc}") from None
    if not 0 < found <= LONGEST:
        wanted = "more than 0 and at most a week"
        raise UsageError(f"--timeout, EXECUTION_TIMEOUT: wanted {wanted}, found {said!r}")
    return found


def policy(options: Namespace, environ: Mapping[str, str], seconds: float) -> "Policy":
    """What the session may touch: nothing; its numbers are the operator's."""
    from saggar.compat.instance import CPUS, MEMORY, limits
    from saggar.model.policy import Policy

    memory = options.memory or environ.get("EXECUTION_MEMORY") or MEMORY
    cpus = options.cpus or environ.get("EXECUTION_CPUS") or CPUS
    isolation = options.isolation or environ.get("EXECUTION_ISOLATION") or None
    listed = environ.get("EXECUTION_BEST_EFFORT", "").replace(",", " ").split()
    best_effort = [name.replace("-", "_") for name in options.best_effort or listed]
    floor: dict[str, Any] = {} if isolation is None else {"isolation": isolation}
    try:
        found = limits(seconds, memory=memory, cpu_share=cpus)
        return Policy(limits=found, best_effort=frozenset(best_effort), **floor)
    except InvalidTask as exc:
        raise UsageError(_respelled(str(exc))) from None


def port(options: Namespace, environ: Mapping[str, str]) -> int:
    """Where to listen."""
    said = options.port or environ.get("PORT") or PORT
    if not said.isdecimal() or int(said) > 65535:
        raise UsageError(f"--port, PORT: wanted a number up to 65535, found {said!r:.60}")
    return int(said)


def folder(options: Namespace, environ: Mapping[str, str]) -> Path | None:
    """Whose files run first, if there is such a place. UsageError if one was named and is none."""
    if named := options.workspace or environ.get("WORKSPACE_FOLDER"):
        if not os.path.isdir(named):
            raise UsageError(f"--workspace, WORKSPACE_FOLDER: {named!r} is not a folder")
        return Path(named).absolute()
    return next((Path(usual) for usual in FOLDERS if os.path.isdir(usual)), None)


async def wall(driver: str | None, settings: "Settings", wanted: "Policy") -> str:
    """
    Build the walls once, and say which they are: better now than when somebody waits.

    Raises:
        DriverUnavailable: They are weaker than `wanted`.
    """
    from saggar.platform import Platform

    async with Platform(settings) as platform:
        result = await platform.run("pass", policy=wanted, driver=driver)
    unkept = ", ".join(sorted(wanted.best_effort)) or "none"
    return f"{result.isolation}; limits that may go unenforced: {unkept}"


def loads(found: Path | None) -> str:
    """Which files run first, in words."""
    return "no folder to load from" if found is None else f"loads {found}/*.py"


def tell(text: str) -> None:
    """A line of the log, which is stdout. One that nobody reads is no reason to end."""
    with suppress(BrokenPipeError, PlatformError):
        say(text.rstrip("\n") + "\n")


def _respelled(complaint: str) -> str:
    """What the model says of its fields, said of variables."""
    for name, variable in VARIABLES.items():
        complaint = complaint.replace(f"limits.{name}: ", f"{variable}: ")
        complaint = complaint.replace(f"policy.{name}: ", f"{variable}: ")
    return complaint
