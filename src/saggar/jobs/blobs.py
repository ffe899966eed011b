"""
Where large things lie, by their digest: the broker carries the reference.

What is small stays where it is. A folder serves one machine; Redis, or what fsspec knows, many.
"""

import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Protocol

from saggar.config import Settings
from saggar.errors import Expired, PlatformError, UsageError
from saggar.jobs import keys
from saggar.jobs.queue import KEPT
from saggar.model.quantity import KiB

LARGE: Final = 64 * KiB
"""Bytes from which something is stored apart."""
MARK: Final = b"blob:"
"""What a reference begins with; JSON begins otherwise."""


class Blobs(Protocol):
    """Bytes by their digest."""

    def put(self, digest: str, data: bytes) -> None:
        """Keep them; the same bytes twice are kept once."""
        ...

    def get(self, digest: str) -> bytes | None:
        """The bytes. None if they are not kept any more."""
        ...

    def sweep(self, older: float) -> int:
        """Remove what was put more than `older` seconds ago; says how many."""
        ...


def pack(blobs: Blobs, data: bytes) -> bytes:
    """The data, or a reference to it where it is large."""
    if len(data) < LARGE:
        return data
    digest = hashlib.sha256(data).hexdigest()
    blobs.put(digest, data)
    return MARK + digest.encode()


def unpack(blobs: Blobs, packed: bytes) -> bytes:
    """The data again. Expired if it is not kept any more, PlatformError if it is another."""
    if not packed.startswith(MARK):
        return packed
    digest = packed.removeprefix(MARK).decode()
    data = blobs.get(digest)
    if data is None:
        raise Expired(f"what was stored as {digest} is no longer kept")
    if hashlib.sha256(data).hexdigest() != digest:
        raise PlatformError(f"what is stored as {digest} is something else by now")
    return data


class Folder:
    """Blobs as files of one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, digest: str, data: bytes) -> None:
        """Written beside and renamed: a reader finds all of it or nothing."""
        path = self._path(digest)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, beside = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise

    def get(self, digest: str) -> bytes | None:
        """The bytes of the file, if it is there."""
        try:
            return self._path(digest).read_bytes()
        except FileNotFoundError:
            return None

    def sweep(self, older: float) -> int:
        """By the files' own times; putting the same again renews them."""
        end, found = time.time() - older, 0
        for path in self.root.glob("??/*"):
            if path.stat().st_mtime < end:
                path.unlink(missing_ok=True)
                found += 1
        return found

    def _path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest


class InRedis:
    """Blobs beside the results; they end by themselves."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def put(self, digest: str, data: bytes) -> None:
        """Kept as long as a job and its result are."""
        self.client.set(keys.blob(digest), data, ex=int(WAITING))

    def get(self, digest: str) -> bytes | None:
        """The bytes, if they are there."""
        found: bytes | None = self.client.get(keys.blob(digest))
        return found

    def sweep(self, older: float) -> int:  # noqa: ARG002 - part of the promise
        """Nothing to do."""
        return 0


class Filesystem:
    """Blobs wherever fsspec reaches: `s3://bucket/folder`."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise UsageError(
                f"blobs at {url} need fsspec: pip install fsspec and what it needs for this one"
            ) from None
        self.files, self.root = fsspec.core.url_to_fs(url)

    def put(self, digest: str, data: bytes) -> None:
        """One object."""
        self.files.makedirs(self.root, exist_ok=True)
        self.files.pipe_file(f"{self.root}/{digest}", data)

    def get(self, digest: str) -> bytes | None:
        """The object, if it is there."""
        try:
            found: bytes = self.files.cat_file(f"{self.root}/{digest}")
        except FileNotFoundError:
            return None
        return found

    def sweep(self, older: float) -> int:
        """By the time the store has of each object; a store that has none keeps them."""
        end, found = time.time() - older, 0
        for entry in self.files.ls(self.root, detail=True):
            at = entry.get("mtime") or entry.get("LastModified") or entry.get("created")
            seconds = at.timestamp() if hasattr(at, "timestamp") else at
            if seconds is not None and seconds < end:
                self.files.rm_file(entry["name"])
                found += 1
        return found


WAITING: Final = 7 * 86400 + KEPT
"""Seconds after which a blob is of no use to anybody: no job waits longer."""


def chosen(settings: Settings, client: Any, state: Path | None) -> Blobs:
    """The store that is named; else a folder where broker and workers share this machine."""
    match settings.blobs:
        case "" if state is not None:
            return Folder(state / "blobs")
        case "" | "redis":
            return InRedis(client)
        case path if path.startswith("/"):
            return Folder(Path(path))
        case url if "://" in url:
            return Filesystem(url)
    raise UsageError(f'blobs: wanted a folder, "redis" or a URL, found {settings.blobs!r:.80}')
