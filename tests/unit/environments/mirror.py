"""A mirror of one's own, with packages made by hand, and apt told of it and of nothing else."""

import functools
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from saggar.environments import system


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Mirror:
    """A repository of packages made by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.entries: list[str] = []
        self.seconds = 1_700_000_000
        self.publish()

    def add(
        self,
        name: str,
        files: Mapping[str, str],
        *,
        version: str = "1.0",
        links: Mapping[str, str] | None = None,
        depends: str = "",
        script: str = "",
    ) -> Path:
        tree = self.folder / f"tree-{name}-{version}"
        about = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody\n"
        about += (f"Depends: {depends}\n" if depends else "") + "Description: a test\n"
        for path, text in {**files, "DEBIAN/control": about}.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
            (tree / path).chmod(0o755 if text.startswith("#!") else 0o644)
        for path, target in (links or {}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).symlink_to(target)
        if script:
            (tree / "DEBIAN/postinst").write_text(f"#!/bin/sh\n{script}\n")
            (tree / "DEBIAN/postinst").chmod(0o755)
        archive = self.folder / f"{name}_{version}_all.deb"
        argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(archive)]
        subprocess.run(argv, check=True, capture_output=True)
        data = archive.read_bytes()
        self.entries.append(
            f"{about}Filename: ./{archive.name}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
        self.publish()
        return archive

    def publish(self) -> None:
        packages = "\n".join(self.entries).encode()
        (self.folder / "Packages").write_bytes(packages)
        digest = hashlib.sha256(packages).hexdigest()
        (self.folder / "Release").write_text(f"SHA256:\n {digest} {len(packages)} Packages\n")
        # Seconds are what HTTP compares.
        self.seconds += 1
        for name in ("Packages", "Release"):
            os.utime(self.folder / name, (self.seconds, self.seconds))


@contextmanager
def mirroring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror for the length of a block."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    mirror = Mirror(folder / "mirror")
    handler = functools.partial(Quiet, directory=str(mirror.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        sources = folder / "sources.list"
        sources.write_text(f"deb [trusted=yes] http://127.0.0.1:{server.server_port} ./\n")
        listed = f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n'
        monkeypatch.setattr(system, "_OPTIONS", system._OPTIONS + listed)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield mirror
        server.shutdown()
        thread.join()
