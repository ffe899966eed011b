"""
What callers leave here to name it later: bytes by their SHA-256, each tenant's for himself.

A digest is no key: whoever knows one of somebody else's finds nothing under it, and learns nothing.
What was unused for longest makes room for what comes; after an hour without use it goes.
"""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from saggar.errors import InvalidTask, NotFound, PlatformError
from saggar.model.quantity import KiB, format_bytes

KEPT: Final = 3600.0
LOOK: Final = 600.0
"""Seconds after which a next upload has all that is overdue removed."""
LEAST: Final = 4 * KiB
"""What a file counts for at least: many small ones fill a disk as well."""
MANY: Final = 1024
"""Files of one tenant from which on more of them go at once: all are looked at for it."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def check_digest(digest: object) -> str:
    """A digest, which becomes the name of a file. InvalidTask for anything else."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InvalidTask(f"wanted a SHA-256 in hexadecimal digits, found {digest!r:.80}")
    return digest


class Gone(NotFound):
    """What was named is not kept, or not any more."""

    code = "uploads-missing"


class Uploads:
    """One tenant's. Its methods block, and may be called by several threads and processes."""

    def __init__(self, root: Path, tenant: str, most: int) -> None:
        # By its digest: a file system may not tell names apart as we do.
        self._folder = root / hashlib.sha256(tenant.encode()).hexdigest()[:32]
        self._most = most
        self._left = 0
        """Bytes that may come before it is counted again."""
        self._look = 0.0

    def put(self, digest: str, data: bytes) -> None:
        """
        Keep them.

        Raises:
            InvalidTask: They are not what the digest says, or more than may be kept at all.
        """
        if hashlib.sha256(data).hexdigest() != check_digest(digest):
            raise InvalidTask(f"what came does not have the SHA-256 {digest}")
        self.admit(len(data))
        if self.touched(digest) is None:
            try:
                self._make_room(max(LEAST, len(data)))
                self._write(digest, data)
            except OSError as exc:
                raise PlatformError(f"an upload cannot be kept: {exc.strerror}") from exc

    def admit(self, size: int) -> None:
        """InvalidTask for more than may be kept together: its first part would go for its last."""
        if size > self._most:
            raise InvalidTask(
                f"wanted to keep {format_bytes(size)}, a tenant may keep"
                f" {format_bytes(self._most)}: SAGGAR_UPLOADS_SIZE"
            )

    def touched(self, digest: str) -> int | None:
        """How long it is, if it is here; it has been used just now."""
        path = self._folder / check_digest(digest)
        try:
            os.utime(path)
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def get(self, digest: str) -> bytes:
        """Gone if it is not kept, or never was."""
        path = self._folder / check_digest(digest)
        with suppress(FileNotFoundError):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == digest:
                return data
            # A machine that went down may leave half of it: gone, it can be sent again.
            path.unlink()
        raise Gone(f"there is no upload {digest}; it is kept for an hour, or until others need it")

    def lacking(self, digests: Sequence[str]) -> list[str]:
        """Those of them that have to be sent."""
        return [one for one in dict.fromkeys(digests) if self.touched(one) is None]

    def _write(self, digest: str, data: bytes) -> None:
        """Beside, then renamed: a reader finds all of it or nothing."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, beside = tempfile.mkstemp(dir=self._folder, prefix=".")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            os.replace(beside, self._folder / digest)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(beside)
            raise

    def _make_room(self, size: int) -> None:
        """Whoever was unused for longest goes; of all tenants, now and then, whoever is overdue."""
        if (now := time.time()) > self._look:
            self._look, self._left = now + LOOK, 0
            for folder in self._folder.parent.glob("*"):
                _forget(folder, now - KEPT)
        self._left -= size
        if self._left < 0:
            taken = _forget(self._folder, 0, self._most - size)
            # Counted again when half of what is free may be used up: others write here as well.
            self._left = (self._most - taken - size) // 2


def _forget(folder: Path, unused_since: float, most: int | None = None) -> int:
    """Remove what is older, or, with `most`, the oldest until so much is left; says how much is."""
    found = []
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            said = path.stat()
            found.append((said.st_mtime, max(LEAST, said.st_size), path))
    taken = sum(length for _, length, _ in found)
    if most is not None and taken > most and len(found) > MANY:
        most -= most // 16
    for used, length, path in sorted(found):
        if used >= unused_since and (most is None or taken <= most):
            break
        path.unlink(missing_ok=True)
        taken -= length
    return taken
