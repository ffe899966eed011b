"""What a caller asks for when he opens a session, found and read before anything is started."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saggar.engine.session import Preload, preloaded
from saggar.errors import InvalidTask, NotFound
from saggar.model.environment import Environment
from saggar.model.task import File

INTERPRETER = Environment(packages=("ipython>=8.20", "matplotlib-inline>=0.1.6"))
"""What the shell is made of: a layer of its own, that no program but a session sees."""
KERNEL = Environment(packages=("ipykernel>=7,<8", "matplotlib-inline>=0.1.6"))
"""The same for Jupyter's own kernel of Python."""
LANGUAGES = ("python",)
ENGINES = ("shell", "kernel")
FOLDER = ".code"
"""Where preloaded files are, in the work folder."""
MOST_BYTES = 64 << 20
MOST_FILES = 2000


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of its sandbox, with the preloaded files among them; and which of these run."""

    options: Any
    preload: Preload


def asked(language: str, engine: str, folder: "str | Path | None", options: Any) -> Asked:
    """
    What a session is opened with.

    Raises:
        NotFound: No such language, engine or folder.
        InvalidTask: The folder has more in it than a sandbox is given.
    """
    if engine != "kernel" and language not in LANGUAGES:  # a kernel's name is looked for later
        raise NotFound.among("language of sessions", language, LANGUAGES)
    if engine not in ENGINES:
        raise NotFound.among("engine", engine, ENGINES)
    if "ttl" in options:
        raise InvalidTask("ttl: a session has idle and max_age")
    if folder is None:
        return Asked(options, Preload())
    found = list(_files(Path(folder)))
    merged = {**options, "files": (*_given(options.get("files")), *found)}
    return Asked(merged, preloaded([f for f in found if f.path.count("/") == 1], FOLDER))


def _given(files: Any) -> tuple[File, ...]:
    """Files in either form, as they go to a task."""
    if isinstance(files, Mapping):
        pairs = files.items()
        return tuple(
            File(path=path, content=said.encode() if isinstance(said, str) else said)
            for path, said in pairs
        )
    return tuple(files or ())


def _files(folder: Path) -> Iterator[File]:
    """Every regular file below a folder of this machine, as files of the sandbox."""
    if not folder.is_dir():
        raise NotFound(f"preload: there is no folder {str(folder)!r} on this machine")
    total = count = 0
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            continue
        if "__pycache__" in path.parts or not path.is_file():
            continue
        content = path.read_bytes()
        total, count = total + len(content), count + 1
        if total > MOST_BYTES or count > MOST_FILES:
            raise InvalidTask(
                f"preload: {str(folder)!r} has more than {MOST_BYTES >> 20} MiB or"
                f" {MOST_FILES} files; mount it instead, Environment(mounts=...)"
            )
        yield File(path=f"{FOLDER}/{path.relative_to(folder)}", content=content)
