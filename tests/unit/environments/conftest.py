"""Wheels made by hand and served from a folder: the store is tested without a network."""

import io
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from saggar.environments.store import Store


class Shelf:
    """A folder of wheels that uv takes for the whole world."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def add(
        self,
        name: str,
        version: str = "1.0",
        *,
        files: Mapping[str, str] | None = None,
        requires: Sequence[str] = (),
    ) -> Path:
        """Put a pure wheel on the shelf: the module of its name unless `files` says otherwise."""
        about = f"{name}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        content = dict(files or {f"{name}.py": f"VERSION = {version!r}\n"})
        content[f"{about}/METADATA"] = (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        content[f"{about}/WHEEL"] = (
            "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        record = "".join(f"{path},,\n" for path in [*content, f"{about}/RECORD"])
        wheel = self.folder / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in {**content, f"{about}/RECORD": record}.items():
                archive.writestr(path, text)
        return wheel

    def add_source(self, name: str, files: Mapping[str, str]) -> None:
        """Put a source distribution of version 1.0 on the shelf."""
        with tarfile.open(self.folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
            for path, text in files.items():
                about = tarfile.TarInfo(f"{name}-1.0/{path}")
                about.size = len(text)
                archive.addfile(about, io.BytesIO(text.encode()))


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    shelf = Shelf(tmp_path / "shelf")
    monkeypatch.setenv("UV_FIND_LINKS", str(shelf.folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return shelf


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def store(cache):
    return Store(cache)


@pytest.fixture
def interpreter():
    return sys.executable
