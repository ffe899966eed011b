"""`saggar bake`: an application's functions and classes as a folder of names, and as an image."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saggar.cli.arguments import Parser
from saggar.cli.main import say
from saggar.errors import PlatformError, UsageError

if TYPE_CHECKING:
    from saggar.model.environment import Environment

SUMMARY = "Bake an application: registry.json, locks, hashes, a Dockerfile; its environments built."
EXAMPLES = """\
examples:
  saggar bake app.py -o baked_code
  saggar bake my_package/ -o baked_code --package 'numpy==2.*' --image registry.example/app:1
  saggar runpod --baked baked_code --test_input '{"input": {"function_name": "predict",
      "serialization_format": "json", "args": [1]}}'

What is decorated with @saggar.remote is baked, and what a module lists in __baked__ = ["name"].
The application is imported here, as its tests would.
"""


def main(words: Sequence[str]) -> int:
    """Bake, and say what there is now."""
    options = parser().read(words)
    if options.prepare:
        return prepare(Path(options.prepare))
    if not options.app:
        raise UsageError("wanted an application: saggar bake APP -o FOLDER")

    from functools import partial

    from saggar.cli.progress import until_ended
    from saggar.functions import bake

    app, output = Path(options.app), Path(options.output)
    found, beside = bake.collect(app, options.package)
    bake.write(app, output, found, beside)
    locks = until_ended(partial(built, [one.environment for one in found]))
    registry = bake.register(output, found, locks, base=options.base)
    for name, entry in registry.items():
        say(f"{entry['type']:<8} {name}  {entry['module']}\n")
    say(f"{output}: {len(registry)} baked, {bake.name_of(output)}\n")
    if options.image:
        image(output, options.image, options.base)
    return 0


def parser() -> Parser:
    """Everything `saggar bake` understands."""
    from saggar.functions.bake import BASE

    made = Parser("bake", SUMMARY, EXAMPLES)
    made.add_argument("app", nargs="?", metavar="APP", help="a .py file, or a folder of them")
    made.add_argument(
        "-o", "--output", default="baked_code", metavar="FOLDER", help="where to (baked_code)"
    )
    made.add_argument(
        "--package",
        metavar="P",
        action="append",
        default=[],
        help="what all of it needs beside what it says itself: 'numpy==2.*'",
    )
    made.add_argument("--image", metavar="NAME", help="build an image of this name as well")
    made.add_argument("--base", default=BASE, metavar="REF", help=f"on this image ({BASE})")
    made.add_argument(
        "--prepare",
        metavar="FOLDER",
        help="build the environments of a baked folder and exit, as images do when built",
    )
    return made


async def built(environments: "Sequence[Environment]") -> dict[str, str]:
    """Each environment's lock by its digest; they are built then."""
    from saggar.config import load
    from saggar.drivers.interpreter import find
    from saggar.environments.store import Store
    from saggar.model.digest import digest
    from saggar.platform import Platform

    settings, locks = load(), {}
    async with Platform(settings) as platform:
        for environment in environments:
            if not environment.packages or digest(environment) in locks:
                continue
            await platform.prepare(environment, progress=tell)
            interpreter = find(environment.python).executable
            store = Store.of(settings)
            locks[digest(environment)] = await store.lock_of(environment, interpreter=interpreter)
    return locks


def prepare(folder: Path) -> int:
    """Build what a baked folder needs, from its registry."""
    from functools import partial

    from saggar.cli.progress import until_ended
    from saggar.config import load_plain
    from saggar.functions.manifest import Registry
    from saggar.platform import Platform

    async def all_of(registry: "Registry") -> None:
        async with Platform(load_plain()) as platform:
            for entry in registry.entries.values():
                await platform.prepare(entry.environment, progress=tell, offline=False)

    until_ended(partial(all_of, Registry.load(folder / "registry.json")))
    return 0


def image(output: Path, name: str, base: str) -> None:
    """Build the image of a baked folder. PlatformError if it cannot be built."""
    docker = os.environ.get("DOCKER", "docker")
    words = [docker, "build", "--network", "host", "--build-arg", f"BASE={base}"]
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL"):
        if variable in os.environ:
            words += ["--build-arg", variable]
    try:
        done = subprocess.run([*words, "--tag", name, str(output)], check=False)
    except FileNotFoundError:
        raise PlatformError(f"{docker} is not installed; name another one in DOCKER") from None
    if done.returncode:
        raise PlatformError(f"the image {name} could not be built; {docker} says above why")
    say(f"{name}: built on {base}\n")


def tell(text: str) -> None:
    """A line about what takes time."""
    say(text.rstrip("\n") + "\n")
