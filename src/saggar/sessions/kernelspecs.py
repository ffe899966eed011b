"""
Kernelspecs: which kernels there are beside our own, in the layers of a session or on this machine.

What is found is a command to run inside. It is read from what an installer or the operator wrote,
never from a sandbox; a wrong one costs the session that named it, and nothing else.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saggar.engine.channels import Spec
from saggar.errors import InvalidTask, NotFound
from saggar.model.plan import Layer

OWN = "python"
"""ipykernel, in a layer of ours: no kernelspec is looked for."""
FOLDER = "share/jupyter/kernels"
FILE = "kernel.json"
LARGEST = 1 << 16
PREFIXES = ("/usr/local", "/usr")


def found(name: str, layers: Sequence[Layer], *, here: bool) -> Spec:
    """
    The kernel of a name; `here` says whether a sandbox sees this machine's programs.

    Raises:
        NotFound: There is none; the message names those there are.
        InvalidTask: Its kernelspec is none.
    """
    places = dict(_places(layers, here=here))
    if name not in places:
        raise NotFound.among("kernel", name, (OWN, *places))
    host, inside = places[name]
    return _read(name, host, inside)


def _places(layers: Sequence[Layer], *, here: bool) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Their names, where the host sees them, and where the inside does; the last one counts."""
    roots = [(Path(prefix) / FOLDER,) * 2 for prefix in (*PREFIXES, sys.base_prefix) if here]
    roots += [(Path(layer.path) / FOLDER, Path(layer.target) / FOLDER) for layer in layers]
    for host, inside in roots:
        if host.is_dir():
            for folder in sorted(host.iterdir()):
                if (folder / FILE).is_file():
                    yield folder.name, (folder / FILE, str(inside / folder.name))


def _read(name: str, path: Path, folder: str) -> Spec:
    with path.open("rb") as file:
        text = file.read(LARGEST)
    try:
        said = json.loads(text)
        argv, env = said["argv"], said.get("env", {})
        whole = _texts(argv) and isinstance(env, Mapping) and _texts([*env, *env.values()])
    except (ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole or not argv:
        raise InvalidTask(f"the kernelspec of {name!r} is not one: {os.fspath(path)}")
    return Spec(
        name=name,
        argv=tuple(argv),
        env=dict(env),
        language=str(said.get("language", "")),
        by_message=said.get("interrupt_mode") == "message",
        folder=folder,
    )


def _texts(words: Any) -> bool:
    return isinstance(words, list) and all(isinstance(word, str) for word in words)
