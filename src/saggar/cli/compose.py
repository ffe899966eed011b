"""`saggar compose`: a compose file of instances with their manager, and what to do with it."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from saggar.cli.arguments import Parser
from saggar.cli.main import say
from saggar.errors import UsageError

if TYPE_CHECKING:
    from saggar.deploy.compose import Plan

SUMMARY = "Write a compose file: N instances, a manager in front of them, its list of them."
EXAMPLES = """\
examples:
  saggar compose --num-containers 2 --types python:2 --mountable-volumes ./my_utilities
  saggar compose -n 3 -t python:2,node:1 -e EXECUTION_TIMEOUT=10,MEM_LIMIT=512M -o three.yml
  docker compose -f three.yml up -d

A type names its image: `docker build -t python instance/`, `docker build -t node
examples/four-endpoints-node/`. MEM_LIMIT (256M), CPUS (0.25) and MEM_RESERVATION in --env are
limits of each container; what else stands there is the program's environment.
"""


def main(words: Sequence[str]) -> int:
    """Write both files, and say what was made."""
    options = parser().read(words)

    from saggar.deploy import compose

    wanted = options.num_containers
    if wanted < 1:
        raise UsageError(f"--num-containers: wanted at least 1, found {wanted}")
    plan = compose.Plan(
        types=tuple(compose.types(options.types or f"python:{wanted}", wanted)),
        folder=folder("mountable-volumes", options.mountable_volumes, exists=True),
        saveto=folder("mountable-volume-saveto", options.mountable_volume_saveto, exists=False),
        start_port=options.start_port,
        env=compose.variables(options.env),
        gpus=compose.gpus(options.gpu_ids, wanted) if options.gpu_ids is not None else (),
        config=mountable("config-file", os.path.abspath(options.config_file)),
    )
    compose.write(plan, options.output)
    say(usage(plan, options.output))
    return 0


def parser() -> Parser:
    """Everything `saggar compose` understands."""
    made = Parser("compose", SUMMARY, EXAMPLES)
    made.add_argument(
        "-m", "--mountable-volumes", metavar="DIR", help="code that every instance loads, at /code"
    )
    made.add_argument(
        "-n", "--num-containers", type=int, default=10, metavar="N", help="how many (10)"
    )
    made.add_argument(
        "-t", "--types", metavar="TYPE:N,...", help="what they are: python:2,node:1 (python:N)"
    )
    made.add_argument(
        "-o", "--output", default="docker-compose.yml", metavar="FILE", help="(docker-compose.yml)"
    )
    made.add_argument(
        "-p",
        "--start-port",
        type=int,
        default=60000,
        metavar="PORT",
        help="where the first is published, on 127.0.0.1 (60000)",
    )
    made.add_argument(
        "-s",
        "--mountable-volume-saveto",
        metavar="DIR",
        help="a folder for each of them below this one, at /submission",
    )
    made.add_argument(
        "-e", "--env", action="append", default=[], metavar="K=V,...", help="their environment"
    )
    made.add_argument("-g", "--gpu-ids", metavar="ID,...", help="one GPU for each of them")
    made.add_argument(
        "-c",
        "--config-file",
        default="container_config.json",
        metavar="FILE",
        help="the manager's list of them (container_config.json)",
    )
    return made


def folder(option: str, said: str | None, *, exists: bool) -> str:
    """A folder of this machine as it can be mounted; empty if none was named."""
    if said is None:
        return ""
    if exists and not os.path.isdir(said):
        raise UsageError(f"--{option}: {said!r:.200} is not a folder")
    return mountable(option, os.path.abspath(said))


def mountable(option: str, path: str) -> str:
    """The same path, if compose can read it. UsageError if not."""
    if ":" in path or not path.isprintable():
        raise UsageError(
            f"--{option}: a path that is mounted may have no colon, found {path!r:.200}"
        )
    return path


def usage(plan: "Plan", output: str) -> str:
    """What there is now, and what to do with it."""
    last = plan.start_port + len(plan.types) - 1
    counts = ", ".join(f"{plan.types.count(one)} {one}" for one in dict.fromkeys(plan.types))
    loads = f", loading {plan.folder}" if plan.folder else ""
    return f"""\
{output}: {counts}{loads}; on 127.0.0.1:{plan.start_port}-{last}; the manager on 127.0.0.1:5000
{plan.config}: the manager's list of them

  docker compose -f {output} up -d
  curl -X POST http://localhost:5000/session/0/execute \\
    -H 'Content-Type: application/json' -d '{{"code": "..."}}'
  curl http://localhost:5000/status
  docker compose -f {output} down
"""
