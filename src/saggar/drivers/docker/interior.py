"""
Which interpreter runs pid 1 of a container: the image's own, or this machine's beside the image.

An image that brings no Python gets ours mounted read-only and started through our own loader, so
that its C library does not matter. What was found in an image is remembered by its digest.
"""

import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saggar.drivers.docker.engine import LABEL, Engine, Image
from saggar.drivers.interpreter import Interpreter, find
from saggar.errors import DriverUnavailable, InvalidTask

VERSIONS = range(20, 10, -1)
"""Minor versions of Python 3 that are looked for, newest first; the runner needs 3.11."""
USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BROUGHT = "/opt/saggar"
"""Where our own interpreter stands in an image that has none."""
PT_INTERP = 3


@dataclass(frozen=True, slots=True)
class Interior:
    """How an interpreter is started in containers of one image, and what that takes."""

    argv: tuple[str, ...]
    version: tuple[int, ...]
    mounts: tuple[tuple[str, str], ...] = ()
    """Folders of the host that must be there: source and target."""


def interior(engine: Engine, image: Image, wanted: str, memory: Path, owner: str = "") -> Interior:
    """
    The interpreter of an image, or the one of this machine that is `wanted`. Blocks.

    `memory` is a folder in which what was found is kept; `owner` whose a container is that is
    made in order to look.
    """
    own = None if wanted else _own(engine, image, memory, owner)
    if own:
        return Interior((own,), _version(own))
    return brought(find(wanted or None))


def brought(interpreter: Interpreter) -> Interior:
    """This machine's interpreter, to be mounted where there is none."""
    loader = loader_of(interpreter.executable)
    below = os.path.relpath(interpreter.executable, interpreter.prefix)
    libraries = os.path.dirname(os.path.realpath(loader))
    argv = (
        f"{BROUGHT}/lib/{os.path.basename(os.path.realpath(loader))}",
        "--library-path",
        # Its own first: the system may have another libpython of the same name.
        f"{BROUGHT}/python/lib:{BROUGHT}/lib",
        f"{BROUGHT}/python/{below}",
    )
    mounts = (
        (os.path.realpath(interpreter.prefix), f"{BROUGHT}/python"),
        (libraries, f"{BROUGHT}/lib"),
    )
    return Interior(argv, interpreter.version, mounts)


def loader_of(executable: str) -> str:
    """The dynamic loader that a binary asks for. DriverUnavailable if it asks for none."""
    with open(executable, "rb") as file:
        head = file.read(64)
        if head[:5] == b"\x7fELF\x02":
            offset, size, count = struct.unpack_from("<Q14xHH", head, 32)
            for number in range(count):
                file.seek(offset + number * size)
                kind, _, start, _, _, length = struct.unpack("<IIQQQQ", file.read(40))
                if kind == PT_INTERP:
                    file.seek(start)
                    return file.read(length).rstrip(b"\0").decode()
    raise DriverUnavailable(f"{executable} names no loader, so no other image can run it")


def _version(path: str) -> tuple[int, ...]:
    found = re.search(r"python3\.(\d+)$", path)
    return (3, int(found[1])) if found else (3,)


def _own(engine: Engine, image: Image, memory: Path, owner: str) -> str:
    """The path of an image's own interpreter; empty if it has none."""
    known = memory / image.id.replace(":", "-")
    with suppress(OSError):
        return known.read_text(encoding="utf-8")
    container = engine.create(_still(image, owner))
    try:
        paths = _candidates(image)
        path = next((path for path in paths if engine.holds(container, path)), "")
    finally:
        engine.remove(container)
    with suppress(OSError):  # asked again, then
        memory.mkdir(parents=True, exist_ok=True)
        new = known.with_suffix(f".{os.getpid()}")
        new.write_text(path, encoding="utf-8")
        new.replace(known)
    return path


def _still(image: Image, owner: str) -> dict[str, Any]:
    """A container that is only looked into."""
    closed = {"NetworkMode": "none"}
    return {"Image": image.id, "Cmd": ["-"], "Labels": {LABEL: owner}, "HostConfig": closed}


def _candidates(image: Image) -> Iterator[str]:
    folders = dict.fromkeys(image.environment.get("PATH", USUAL_PATH).split(":"))
    for folder in filter(os.path.isabs, folders):
        yield from (f"{folder}/python3.{minor}" for minor in VERSIONS)


def refuse_strangers(version: tuple[int, ...], built_for: tuple[int, ...], image: str) -> None:
    """InvalidTask where packages were built for another Python than the one that will run."""
    if version[:2] != built_for[:2]:
        found, wanted = (".".join(map(str, one[:2])) for one in (version, built_for))
        raise InvalidTask(
            f"packages here are built for Python {wanted}, and image {image!r} runs {found};"
            " install them in an image of your own (RUN pip install ...), or name an image"
            " without Python"
        )
