"""`saggar open`: a sandbox that stays open for other commands, until Ctrl-C or its time is over."""

import json
import os
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import Parser
from saggar.cli.main import complain, say
from saggar.cli.options import surroundings
from saggar.errors import UsageError

if TYPE_CHECKING:
    from saggar.config import Settings
    from saggar.engine.sandbox import Sandbox

SUMMARY = "Keep a sandbox open, and say its id: exec, cp, ps and kill use it from elsewhere."
EXAMPLES = """\
examples:
  saggar open --ttl 1h
  saggar open --package 'numpy==2.*' --memory 1GiB --input ./data
  saggar exec ID -- python3 -c 'print(6 * 7)'
  saggar cp ID:results ./results

The first line on stdout is the id, and the sandbox is ready when it is there. It ends with this
command. Exit code: 0 its time to live is over; 130 and 143 ended by Ctrl-C or SIGTERM; 137 killed,
or ended by itself; 2 a mistake in the call; 70 the platform failed.
"""
KILLED = 137


def main(words: Sequence[str]) -> int:
    """Hold it."""
    options = parser().read(words)

    import anyio

    from saggar.config import load

    code: int = anyio.run(hold, asked(options), load(), options.json, options.quiet)
    return code


def parser() -> Parser:
    """Everything `saggar open` understands."""
    made = Parser("open", SUMMARY, EXAMPLES)
    made.add_argument("--ttl", metavar="TIME", help="end it after this (never)")
    made.add_argument("--json", action="store_true", help="say what was opened as one line of JSON")
    made.add_argument("-q", "--quiet", action="store_true", help="do not say how it ended")
    surroundings(made)
    return made


def asked(options: Namespace) -> dict[str, Any]:
    """The options of the sandbox."""
    from saggar.cli import inputs, request
    from saggar.model.quantity import parse_seconds

    try:
        ttl = None if options.ttl is None else parse_seconds(options.ttl)
    except ValueError as exc:
        raise UsageError(f"--ttl: {exc}") from None
    with request.as_options():
        environment = request.environment(options)
        return {
            "environment": environment,
            "policy": request.policy(options, environment),
            "env": request.variables(options.env),
            "files": inputs.gather(options.input),
            "driver": request.driver(options),
            "ttl": ttl,
        }


async def hold(
    asked: dict[str, Any],
    settings: "Settings",
    as_json: bool,  # noqa: FBT001 - as it was typed
    quiet: bool,  # noqa: FBT001
) -> int:
    """The exit code, when it is over."""
    import anyio

    from saggar.platform import Platform

    caught: list[int] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(heed, tasks.cancel_scope, caught)
        async with Platform(settings) as platform:
            await prepare(platform, asked["environment"], quiet=quiet)
            async with await platform.open_sandbox(**asked) as sandbox:
                say((described(sandbox) if as_json else sandbox.id) + "\n")
                await sandbox.ended.wait()
                code = 0 if sandbox.expires and time.time() >= sandbox.expires else KILLED
        tasks.cancel_scope.cancel()
    if caught:
        return 128 + caught[0]
    if not quiet:
        complain("its time to live is over" if code == 0 else "the sandbox was ended, or died")
    return code


async def heed(scope: Any, caught: list[int], *, task_status: Any) -> None:
    """The first Ctrl-C or SIGTERM ends it; a second one ends us at once."""
    import signal

    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if caught:
                os._exit(128 + number)
            caught.append(number)
            scope.cancel()


async def prepare(platform: Any, environment: Any, *, quiet: bool) -> None:
    """Build what it needs, and say so: it may take a while."""
    from saggar.cli.progress import progress

    with progress(quiet=quiet) as tell:
        await platform.prepare(environment, progress=tell)


def described(sandbox: "Sandbox") -> str:
    """For programs."""
    return json.dumps(
        {
            "id": sandbox.id,
            "driver": sandbox.driver,
            "isolation": sandbox.isolation,
            "created": sandbox.created,
            "expires": sandbox.expires,
            "cwd": sandbox.cwd,
            "pid": os.getpid(),
        }
    )
