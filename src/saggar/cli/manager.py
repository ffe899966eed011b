"""`saggar manager`: many instances behind one address, each given to one holder at a time."""

import math
import os
from argparse import Namespace
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from saggar.cli.arguments import Parser
from saggar.cli.main import say
from saggar.errors import UsageError

if TYPE_CHECKING:
    from saggar.compat.instance import Setup
    from saggar.config import Settings
    from saggar.server.auth import Doors
    from saggar.sessions.pool import Patience, Pool
    from saggar.sessions.pool_state import Ledger, Member

    Instances = AbstractAsyncContextManager[Sequence[Member]]

SUMMARY = "Many instances over HTTP: allocate one, execute in it, give it back clean."
EXAMPLES = """\
examples:
  saggar manager --config container_config.json
  saggar manager --local 4 --types python:4 --code ./my_utilities
  curl -X POST localhost:5000/session/0/execute \\
    -H 'Content-Type: application/json' -d '{"code": "6 * 7"}'

The list of containers is {"0": {"url": "http://executor-000:8432", "type": "python"}, ...}; saggar
compose writes it. CONTAINER_CONFIG_PATH names it as well. SAGGAR_KEY is the key that callers have
to show.
"""
HOST, PORT = "127.0.0.1", 5000
STATE = "manager.sqlite"
TIMEOUT = "3s"


def main(words: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    options = parser().read(words)

    from saggar.server import require

    require()
    from saggar.compat.manager import application, doors_of
    from saggar.config import load
    from saggar.server.serve import serve

    settings = load()
    doors = doors_of(settings, options.host)
    here = options.local is not None
    found = local(options, settings, doors) if here else configured(options)
    ledger = state(options, settings)
    try:
        app = application(pool(found, ledger, patience(options)), doors)
        serve(app, options.host, port(options.port), doors, tell)
    finally:
        ledger.close()
    return 0


def parser() -> Parser:
    """Everything `saggar manager` understands."""
    made = Parser("manager", SUMMARY, EXAMPLES)
    made.add_argument("--host", default=HOST, metavar="ADDRESS", help=f"where to listen ({HOST})")
    made.add_argument("--port", metavar="N", help=f"at which port; 0 for any ({PORT})")
    made.add_argument(
        "--config", metavar="FILE", help="the list of containers (container_config.json)"
    )
    made.add_argument(
        "--state", metavar="FILE", help=f"where to remember who has what ({STATE}, in its folder)"
    )
    made.add_argument("--wait", metavar="TIME", help="how long a caller waits for his turn (30s)")
    made.add_argument(
        "--idle",
        metavar="TIME",
        help="take back what is held by use only when nobody used it for this long (30m)",
    )
    made.add_argument(
        "--idle-allocated", metavar="TIME", help="the same for what was allocated (never)"
    )
    made.add_argument(
        "--answering", metavar="TIME", help="how long an instance may stay silent (5h)"
    )
    made.add_argument("--local", type=int, metavar="N", help="N sessions here, no containers")
    made.add_argument("--types", metavar="TYPE:N,...", help="their types (python:N)")
    made.add_argument("--code", metavar="FOLDER", help="its *.py run first in each of them")
    made.add_argument("--timeout", metavar="TIME", help=f"for each execution there ({TIMEOUT})")
    return made


@asynccontextmanager
async def pool(
    found: "Instances", ledger: "Ledger", patience: "Patience"
) -> "AsyncGenerator[Pool]":
    """The pool of these instances."""
    from saggar.sessions.pool import Pool

    async with found as members, Pool(members, ledger, patience) as opened:
        yield opened


def configured(options: Namespace) -> "Instances":
    """The instances of the list."""
    from saggar.compat.containers import read
    from saggar.compat.upstream import ANSWERING, instances

    for name in ("types", "code", "timeout"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} is about sessions on this machine; add --local N")
    containers = read(options.config)
    answering = seconds("answering", options.answering, ANSWERING)
    tell(f"{len(containers)} containers: {counted([one.type for one in containers])}")
    return instances(containers, answering)


def local(options: Namespace, settings: "Settings", doors: "Doors") -> "Instances":
    """Sessions on this machine."""
    from saggar.compat.local import instances

    if options.config is not None:
        raise UsageError("--config names containers, --local N has none; leave one of them out")
    types = kinds(options.local, options.types)
    tell(f"{len(types)} sessions on this machine: {counted(types)}")
    return instances(types, settings, setup(options, settings), doors)


def setup(options: Namespace, settings: "Settings") -> "Setup":
    """What each of the sessions is."""
    from pathlib import Path

    from saggar.compat.instance import Setup, limits
    from saggar.model.policy import Policy

    if options.code is not None and not os.path.isdir(options.code):
        raise UsageError(f"--code: {options.code!r} is not a folder")
    wall = seconds("timeout", options.timeout or TIMEOUT, 0)
    return Setup(
        timeout=wall,
        folder=None if options.code is None else Path(options.code).absolute(),
        engine=settings.engine,
        policy=Policy(limits=limits(wall)),
        driver=settings.driver,
        log=tell,
    )


def kinds(wanted: int, said: str | None) -> list[str]:
    """The type of each local session, in order."""
    from saggar.compat.local import LANGUAGES
    from saggar.deploy.compose import types

    if wanted < 1:
        raise UsageError(f"--local: wanted at least 1, found {wanted}")
    found = types(said or f"{LANGUAGES[0]}:{wanted}", wanted)
    for kind in found:
        if kind not in LANGUAGES:
            raise UsageError(
                f"--types: a session here can be {', '.join(LANGUAGES)}, found {kind!r:.60};"
                " instances of other languages are containers, see saggar compose"
            )
    return found


def patience(options: Namespace) -> "Patience":
    """How long the pool waits for what."""
    from saggar.sessions.pool import Patience

    usual = Patience()
    return Patience(
        allocation=seconds("wait", options.wait, usual.allocation),
        idle=seconds("idle", options.idle, usual.idle),
        idle_allocated=seconds("idle-allocated", options.idle_allocated, math.inf),
    )


def state(options: Namespace, settings: "Settings") -> "Ledger":
    """The file that remembers who has what."""
    from saggar.config import state_dir
    from saggar.sessions.pool_state import Ledger

    if options.state is not None:
        return Ledger(options.state)
    # Sessions end with us, and leave nothing to remember: many may have some at once.
    return Ledger(":memory:" if options.local else state_dir(settings) / STATE)


def seconds(option: str, said: str | None, usual: float) -> float:
    """A time of the command line."""
    from saggar.model.quantity import parse_seconds

    if said is None:
        return usual
    try:
        return parse_seconds(said)
    except ValueError as exc:
        raise UsageError(f"--{option}: {exc}") from None


def port(said: str | None) -> int:
    """Where to listen."""
    if said is None:
        return PORT
    if not said.isdecimal() or int(said) > 65535:
        raise UsageError(f"--port: wanted a number up to 65535, found {said!r:.60}")
    return int(said)


def counted(types: Sequence[str]) -> str:
    """How many of each, in words."""
    return ", ".join(f"{types.count(kind)} {kind}" for kind in dict.fromkeys(types))


def tell(text: str) -> None:
    """A line of the log."""
    say(text.rstrip("\n") + "\n")
