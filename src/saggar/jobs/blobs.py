"""
Where large things lie, by their digest: the broker carries the reference.

What is small stays where it is. A folder serves one machine; Redis, or what fsspec knows, many.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from saggar.config import Settings
from saggar.errors import BlobsUnavailable, Expired, PlatformError, UsageError
from saggar.jobs import keys
from saggar.jobs.queue import KEPT
from saggar.model.quantity import KiB

LARGE: Final = 64 * KiB
"""Bytes from which something is stored apart."""
MARK: Final = b"blob:"
"""What a reference begins with; JSON begins otherwise."""
RESULT: Final = "r"
"""What the names of results begin with, which are kept for less long; a digest never does."""
RESULTS: Final = KEPT + 600
"""Seconds after which nobody asks for a result any more, whosever clock that is."""
WAITING: Final = 7 * 86400 + KEPT
"""Seconds after which a blob is of no use to anybody: no job waits longer."""


class Blobs(Protocol):
    """Bytes by their digest."""

    def put(self, digest: str, data: bytes) -> None:
        """Keep them; the same bytes twice are kept once."""
        ...

    def get(self, digest: str) -> bytes | None:
        """The bytes. None if they are not kept any more."""
        ...

    def sweep(self, older: float | None = None) -> int:
        """Remove what was put so long ago that nobody wants it, or `older` seconds; how many."""
        ...


def pack(blobs: Blobs, data: bytes, kind: str = "") -> bytes:
    """
    The data, or a reference to it where it is large; `kind` is RESULT of one that is a result.

    Raises:
        PlatformError: They do not take it.
    """
    if len(data) < LARGE:
        return data
    digest = kind + hashlib.sha256(data).hexdigest()
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
    if hashlib.sha256(data).hexdigest() != digest.removeprefix(RESULT):
        raise PlatformError(f"what is stored as {digest} is something else by now")
    return data


class Folder:
    """Blobs as files of one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, digest: str, data: bytes) -> None:
        """Written beside and renamed: a reader finds all of it or nothing."""
        path = self._path(digest)
        with self._reached():
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
        with self._reached():
            try:
                return self._path(digest).read_bytes()
            except FileNotFoundError:
                return None

    def sweep(self, older: float | None = None) -> int:
        """By the files' own times; putting the same again renews them."""
        now, found = time.time(), 0
        with self._reached():
            for path in self.root.glob("??/*"):
                with suppress(FileNotFoundError):  # somebody else sweeps, too
                    if path.stat().st_mtime < now - _age(path.name, older):
                        path.unlink()
                        found += 1
        return found

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise BlobsUnavailable(f"the blobs in {self.root} cannot be used: {exc}") from exc

    def _path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest


class InRedis:
    """Blobs beside the results; they end by themselves."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def put(self, digest: str, data: bytes) -> None:
        """Kept as long as a job and its result are."""
        with self._reached():
            self.client.set(keys.blob(digest), data, ex=int(_age(digest, None)))

    def get(self, digest: str) -> bytes | None:
        """The bytes, if they are there."""
        with self._reached():
            found: bytes | None = self.client.get(keys.blob(digest))
        return found

    def sweep(self, older: float | None = None) -> int:  # noqa: ARG002 - part of the promise
        """Nothing to do."""
        return 0

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # whatever its client has for that
            raise BlobsUnavailable(f"the blobs in Redis cannot be reached: {exc}") from exc


class Filesystem:
    """Blobs wherever fsspec reaches: `s3://bucket/folder`."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise UsageError(
                f"blobs at {url} need fsspec: pip install fsspec and what it needs for this one"
            ) from None
        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as exc:
            raise UsageError(f"blobs: {url:.80} cannot be used: {exc}") from None
        self.url = url

    def put(self, digest: str, data: bytes) -> None:
        """One object."""
        with self._reached():
            try:
                self.files.pipe_file(f"{self.root}/{digest}", data)
            except FileNotFoundError:
                # Where there are folders this one may be missing. A bucket is nobody's to make:
                # its name may be misspelled.
                if "/" not in self.root.strip("/"):
                    raise
                self.files.mkdir(self.root, create_parents=False)
                self.files.pipe_file(f"{self.root}/{digest}", data)

    def get(self, digest: str) -> bytes | None:
        """The object, if it is there."""
        with self._reached():
            try:
                found: bytes = self.files.cat_file(f"{self.root}/{digest}")
            except FileNotFoundError:
                return None
            return found

    def sweep(self, older: float | None = None) -> int:
        """By the time the store has of each object; a store that has none keeps them."""
        now, found = time.time(), 0
        with self._reached():
            self.files.invalidate_cache()  # others put theirs meanwhile
            try:
                entries = self.files.ls(self.root, detail=True)
            except FileNotFoundError:
                return 0
            for entry in entries:
                at = entry.get("mtime") or entry.get("LastModified") or entry.get("created")
                seconds = at.timestamp() if hasattr(at, "timestamp") else at
                name = entry["name"].rpartition("/")[2]
                if seconds is not None and seconds < now - _age(name, older):
                    self.files.rm_file(entry["name"])
                    found += 1
        return found

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """What goes wrong there is QueueUnavailable: who has a result waits, and tries again."""
        try:
            yield
        except Exception as exc:
            # Each store of fsspec's raises what its own library has.
            raise BlobsUnavailable(f"the blobs at {self.url:.80} cannot be reached: {exc}") from exc


def _age(name: str, older: float | None) -> float:
    """Seconds after which what has this name goes."""
    if older is not None:
        return older
    return RESULTS if name.startswith(RESULT) else WAITING


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
