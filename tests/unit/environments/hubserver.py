"""A model hub of one's own: the HTTP API that huggingface_hub speaks, over a few bytes."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """A model: its commits by name, each with its files."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    token: str = ""
    """Who has it may read; empty for everybody."""


@dataclass
class Hub:
    """What is served, and what was asked for."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, and the range that was asked for."""
    breaks: dict[str, int] = field(default_factory=dict)
    """After how many bytes the next download of a file ends, by its name."""

    def add(
        self, name: str, files: Mapping[str, bytes], *, revision: str = "main", token: str = ""
    ) -> str:
        """Put files under a revision; the commit."""
        repository = self.repositories.setdefault(name, Repository({}, {}))
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.refs[revision] = commit
        repository.token = token
        return commit

    def downloads(self) -> list[str]:
        """The files that were fetched, each as often as it was asked for."""
        return [
            path.rpartition("/")[2]
            for how, path, _ in self.requests
            if how == "GET" and "/resolve/" in path
        ]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a port of its own, for the length of a block."""
    hub = Hub()

    class Handler(_Answers):
        served = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append((self.command, path, self.headers.get("Range", "")))
        if found := re.fullmatch(
            r"/api/models/(.+?)(?:/revision/(.+))?", path.partition("/tree/")[0]
        ):
            name, revision = found[1], found[2] or "main"
            if "/tree/" in path:
                revision = path.partition("/tree/")[2]
            self.about(name, revision, tree="/tree/" in path)
        elif found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self.file(*found.groups())
        else:
            self.refuse(404, "EntryNotFound")

    def commit(self, name: str, revision: str) -> str | None:
        """The commit that is meant, if whoever asks may know; else he is told why not."""
        repository = self.served.repositories.get(name)
        if repository is None:
            self.refuse(401, "RepoNotFound")
            return None
        said = self.headers.get("Authorization", "")
        if repository.token and said != f"Bearer {repository.token}":
            self.refuse(403 if said else 401, "GatedRepo")
            return None
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self.refuse(404, "RevisionNotFound")
            return None
        return commit

    def about(self, name: str, revision: str, *, tree: bool) -> None:
        if (commit := self.commit(name, revision)) is None:
            return
        files = self.served.repositories[name].commits[commit]
        if tree:
            self.json(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
                    for path, data in files.items()
                ]
            )
            return
        self.json(
            {
                "_id": "1",
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": False,
                "tags": [],
                "siblings": [
                    {"rfilename": path, "size": len(data), "blobId": _oid(data)}
                    for path, data in files.items()
                ],
            }
        )

    def file(self, name: str, revision: str, path: str) -> None:
        if (commit := self.commit(name, revision)) is None:
            return
        data = self.served.repositories[name].commits[commit][path]
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{_oid(data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in self.served.breaks:
            self.wfile.write(data[start : start + self.served.breaks.pop(path)])
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def json(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
