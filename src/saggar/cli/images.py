"""Images that a cell shows: saved as files, and drawn where the terminal has a way for that."""

import base64
import binascii
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

Protocol = Literal["kitty", "iterm2", "sixel"]
ENDINGS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/svg+xml": "svg",
    "application/pdf": "pdf",
}
"""What is saved, the best form first."""
CHUNK = 4096
"""Characters in one command of kitty's protocol."""


def protocol(environ: Mapping[str, str]) -> Protocol | None:
    """
    How this terminal draws images, by what it says of itself.

    A multiplexer says the terminal's name and passes on none of this. `sixel` is known of, and
    nothing here speaks it: the image is a file there as well.
    """
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if environ.get("TMUX") or environ.get("STY") or term.startswith(("screen", "tmux")):
        return None
    if "kitty" in term or environ.get("KITTY_WINDOW_ID") or program == "ghostty":
        return "kitty"
    if program in {"iTerm.app", "WezTerm"} or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    if "sixel" in term or term.startswith(("foot", "mlterm")):
        return "sixel"
    return None


def drawn(media: str, content: bytes, how: Protocol | None) -> str:
    """What draws it on the terminal; empty where that cannot be."""
    if how == "kitty" and media == "image/png":
        return "".join(_kitty(base64.b64encode(content).decode()))
    if how == "iterm2" and media in {"image/png", "image/jpeg", "image/gif"}:
        text = base64.b64encode(content).decode()
        return f"\x1b]1337;File=inline=1;size={len(content)}:{text}\x07"
    return ""


def _kitty(text: str) -> Iterator[str]:
    for start in range(0, len(text), CHUNK):
        first = "a=T,f=100," if start == 0 else ""
        more = int(start + CHUNK < len(text))
        yield f"\x1b_G{first}m={more};{text[start : start + CHUNK]}\x1b\\"


def image(bundle: Mapping[str, str]) -> tuple[str, bytes] | None:
    """The image in a mime bundle, if there is one: its media type and its bytes."""
    for media in ENDINGS:
        if media in bundle:
            try:
                return media, _bytes(media, bundle[media])
            except binascii.Error:
                return None
    return None


def _bytes(media: str, text: str) -> bytes:
    if media == "image/svg+xml":
        return text.encode()
    return base64.b64decode("".join(text.split()), validate=True)


class Gallery:
    """A folder of images, made when the first one comes."""

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._count = 0

    def save(self, media: str, content: bytes) -> Path:
        """Where it is now; an older file is never written over."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="saggar-images-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._count += 1
            path = self._folder / f"{self._count}.{ENDINGS[media]}"
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                continue
            with open(fd, "wb") as file:
                file.write(content)
            return path
