"""
`saggar cp`: files and folders into a live sandbox, and out of one.

What comes out was made by a guest: regular files and folders only, never through a link, and no
hidden name unless that was said; a `.git/hooks` among the results is not what anybody meant.
"""

import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from saggar.cli.arguments import Parser
from saggar.cli.main import complain, say
from saggar.errors import NotFound, UsageError

SUMMARY = "Copy a file or a folder into a live sandbox, or out of one."
EXAMPLES = """\
examples:
  saggar cp data.csv 4f3a:data.csv
  saggar cp ./src 4f3a:.
  saggar cp 4f3a:results ./results
  saggar cp 4f3a:log.txt - | tail

As with cp: into a folder that is there, else under the new name; FOLDER/. is what is in it. Paths
inside start in the work folder. A path of this machine that has a colon is written ./like:this.
Links, devices and sockets are not copied. Exit code: 0; 2 there is no such file or id; 70 the
process that has the sandbox does not answer.
"""
REMOTE = re.compile(r"([0-9a-f]+):(.*)", re.DOTALL)
PIECE = 1 << 18


@dataclass(slots=True)
class Report:
    """What became of it."""

    copied: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def main(words: Sequence[str]) -> int:
    """Copy, and say what was left out."""
    options = parser().read(words)
    source, target = remote(options.source), remote(options.target)

    import anyio

    if source is not None and target is None:
        report = anyio.run(bring, *source, options.target, options.hidden)
    elif target is not None and source is None:
        report = anyio.run(send, options.source, *target)
    else:
        raise UsageError(
            "one of the two is ID:PATH, in a sandbox, and the other one here;"
            " saggar cp ID:PATH LOCAL or saggar cp LOCAL ID:PATH"
        )
    for name in report.skipped:
        complain(f"not copied: {name}")
    if options.json:
        say(json.dumps({"copied": report.copied, "skipped": report.skipped}) + "\n")
    return 0


def parser() -> Parser:
    """Everything `saggar cp` understands."""
    made = Parser("cp", SUMMARY, EXAMPLES)
    made.usage = "saggar cp ID:PATH LOCAL | saggar cp LOCAL ID:PATH"
    made.add_argument("source", metavar="FROM", help="ID:PATH, or a path here; - is stdin")
    made.add_argument("target", metavar="TO", help="ID:PATH, or a path here; - is stdout")
    made.add_argument(
        "--hidden", action="store_true", help="bring out names that begin with a dot as well"
    )
    made.add_argument("--json", action="store_true", help="say what was copied as JSON")
    return made


def remote(word: str) -> tuple[str, str] | None:
    """An id and a path inside, if the word is that; a slash before the colon makes it none."""
    found = REMOTE.fullmatch(word)
    return None if found is None else (found[1], found[2] or ".")


async def bring(word: str, path: str, target: str, hidden: bool) -> Report:  # noqa: FBT001
    """Out of a sandbox."""
    from saggar.cli.live import table
    from saggar.sessions.reach import find, heard, reached

    place = find(table(), word)
    with tempfile.TemporaryFile() as content:
        async with reached(place.holder) as line:
            await line.send("get", id=place.id, path=path)
            first = await heard(line)
            while (message := await heard(line)).say == "data":
                content.write(message.data)  # whoever sends it has capped it
        content.seek(0)
        if first.say == "file":
            return written(content, path, target, int(first.head.get("mode") or 0))
        return unpacked(content, path, target, int(first.head.get("most") or 0), hidden=hidden)


def written(content: IO[bytes], path: str, target: str, mode: int) -> Report:
    """One file, to where it was said."""
    import shutil

    if target == "-":
        shutil.copyfileobj(content, sys.stdout.buffer)
        return Report([path])
    name = os.path.basename(path)
    place = os.path.join(target, name) if os.path.isdir(target) or target.endswith("/") else target
    # Whoever named the place may have a link there; it is his.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC
    if place != target:
        flags |= os.O_NOFOLLOW  # but this name is the guest's
    with _writing(place), open(os.open(place, flags, 0o600 | mode & 0o755), "wb") as file:
        shutil.copyfileobj(content, file)
    return Report([place])


@contextmanager
def _writing(place: str) -> Iterator[None]:
    """Whatever cannot be written is said to be, by its path."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise UsageError(f"cannot write {exc.filename or place!r}: {reason}") from None


def unpacked(content: IO[bytes], path: str, target: str, most: int, *, hidden: bool) -> Report:
    """A folder: into one that is there, else under the new name."""
    from saggar.engine.files import unpack

    if target == "-":
        raise UsageError(f"{path!r} is a folder; name one here for it")
    name = os.path.basename(path)
    folder = Path(target)
    if folder.is_dir() and name not in {"", ".", ".."}:
        folder /= name
        if folder.is_symlink():
            raise UsageError(f"{str(folder)!r} is a link, and in the way")
    report = Report()

    def wanted(parts: list[str]) -> bool:
        if hidden or not any(part.startswith(".") for part in parts):
            return True
        first = next(n for n, part in enumerate(parts) if part.startswith("."))
        line = f"{'/'.join(parts[: first + 1])}: its name is hidden; --hidden brings it, too"
        if line not in report.skipped:
            report.skipped.append(line)
        return False

    with _writing(str(folder)):
        made = unpack(content, folder, most, wanted)
    report.copied += (str(folder / each) for each in made)
    return report


async def send(source: str, word: str, path: str) -> Report:
    """Into a sandbox."""
    import anyio

    from saggar.cli.live import table
    from saggar.sessions.reach import find, heard, reached

    place, about = find(table(), word), described(source)
    folder = "mode" not in about
    report = Report(skipped=odd(source) if folder else [])
    async with reached(place.holder) as line:
        await line.send("put", id=place.id, path=path, **about)
        with suppress(anyio.BrokenResourceError):  # it had enough, and says so below
            for piece in pieces(source, folder=folder):
                await line.send("data", piece)
            await line.send("done")
        answer = await heard(line)
    report.copied.append(str(answer.head.get("path")))
    return report


def described(path: str) -> dict[str, Any]:
    """
    The name it has there, and the mode if it is a file.

    Raises:
        NotFound: There is none.
        UsageError: It is neither a file nor a folder.
    """
    if path == "-":
        return {"name": "", "mode": 0o644}
    try:
        found = os.stat(path)
    except OSError as exc:
        raise NotFound(f"cannot read {path!r}: {(exc.strerror or str(exc)).lower()}") from None
    name = "" if path.endswith("/.") or path == "." else os.path.basename(os.path.abspath(path))
    if stat.S_ISDIR(found.st_mode):
        return {"name": name}
    if stat.S_ISREG(found.st_mode):
        return {"name": name, "mode": stat.S_IMODE(found.st_mode) & 0o777}
    raise UsageError(f"{path!r} is neither a file nor a folder")


def odd(folder: str) -> list[str]:
    """What is in a folder and not copied."""
    return [
        f"{path}: it is no regular file"
        for path in sorted(Path(folder).rglob("*"))
        if not stat.S_ISREG(path.lstat().st_mode) and not stat.S_ISDIR(path.lstat().st_mode)
    ]


def pieces(source: str, *, folder: bool) -> Iterator[bytes]:
    """The content of a file, or a folder as a tar."""
    from saggar.engine.files import packed

    try:
        if folder:
            yield from packed(Path(source))
            return
        with open(0 if source == "-" else source, "rb") as file:
            while piece := file.read(PIECE):
                yield piece
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise UsageError(f"cannot read {exc.filename or source!r}: {reason}") from None
