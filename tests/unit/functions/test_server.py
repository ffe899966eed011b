"""What a caller makes of a server that has no room, or no longer has what was left with it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import saggar
from saggar.errors import InvalidTask, Overloaded, PlatformError, UsageError
from saggar.functions.remote import RemoteFunction

BUSY = {"kind": "failed", "code": "overloaded", "detail": "too many run at once"}
GONE = {"kind": "failed", "code": "uploads-missing", "detail": "there is no upload"}
TEXT = b"clay" * 1000


def finished(value: Any) -> dict[str, Any]:
    answer = {"document": {"value": value}, "data": ""}
    return {"kind": "finished", "status": "ok", "isolation": "jail", "value": answer}


class Scripted(ThreadingHTTPServer):
    """It answers runs as it was told, one after the other, and keeps what is left with it."""

    def __init__(self, answers: list[list[dict[str, Any]]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.runs = answers, 0
        self.kept: dict[str, bytes] = {}
        self.keys: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def log_message(self, *_args):
        pass

    def _said(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _known(self) -> None:
        self.server.keys.append(self.headers["Authorization"])

    def do_PUT(self):
        self.server.kept[self.path.rpartition("/")[2]] = self._body()
        self._said(204, b"")

    def do_GET(self):
        self._said(404, json.dumps({"code": "uploads-missing", "detail": "no upload"}).encode())

    def do_POST(self):
        named = {
            piece["upload"]
            for piece in json.loads(self._body())["program"]["code"]["pieces"]
            if "upload" in piece
        }
        if missing := sorted(named - self.server.kept.keys()):
            problem = {"code": "uploads-missing", "detail": "send them", "missing": missing}
            self._said(409, json.dumps(problem).encode())
            return
        self._known()
        self.server.runs += 1
        lines = self.server.answers.pop(0)
        if GONE in lines:
            self.server.kept.clear()
        self._said(200, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@contextmanager
def scripted(*answers: list[dict[str, Any]]) -> Iterator[tuple[Scripted, RemoteFunction]]:
    with Scripted(list(answers)) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        where = f"http://127.0.0.1:{served.server_port}"
        try:
            yield served, saggar.remote(where=where)(lambda x: (x, TEXT))
        finally:
            served.shutdown()
            thread.join()


def test_one_call_is_told_that_there_is_no_room():
    with scripted([BUSY]) as (served, f), pytest.raises(Overloaded, match="too many run at once"):
        f(1)

    assert 1 == served.runs


def test_calls_of_a_map_are_held_back_until_there_is_room():
    with scripted([BUSY], [finished(7)], [finished(8)]) as (served, f):
        assert [7, 8] == sorted(f.map([1, 2], concurrency=1))
    assert 3 == served.runs


def test_what_was_pushed_out_before_its_call_began_is_sent_again():
    with scripted([GONE], [finished(7)]) as (served, f):
        assert 7 == f(1)
    assert 2 == served.runs
    assert served.kept
    assert all(name == sha256(data).hexdigest() for name, data in served.kept.items())


def test_an_answer_that_was_pushed_out_is_no_reason_to_run_again():
    end = finished(7)
    end["value"] = {"document": end["value"]["document"], "pieces": [{"upload": "0" * 64}]}
    with scripted([end]) as (served, f), pytest.raises(PlatformError, match="SAGGAR_UPLOADS_SIZE"):
        f(1)

    assert 1 == served.runs


@pytest.mark.parametrize("key", ["schlüssel", "key€"])
def test_a_key_is_shown_as_it_was_set(key, monkeypatch):
    monkeypatch.setenv("SAGGAR_SERVER_KEY", key)
    with scripted([finished(7)]) as (served, f):
        assert 7 == f(1)

    assert key == served.keys[0].removeprefix("Bearer ").encode("latin-1").decode()


def test_a_key_that_cannot_be_shown_is_told_without_it(monkeypatch):
    monkeypatch.setenv("SAGGAR_SERVER_KEY", "hush\n")
    with scripted() as (_, f), pytest.raises(UsageError, match="line break") as found:
        f(1)

    assert "hush" not in str(found.value)
    shown = repr(f.options(where="https://:hush@kiln.invalid")._said)
    assert "hush" not in shown


@pytest.mark.parametrize(
    "where", ["http://a..b", f"http://{'a' * 300}.invalid", "http://localhost/é", "https://"]
)
def test_what_is_no_address_is_told_when_it_is_said(where):
    with pytest.raises(InvalidTask, match="where: wanted the address of a server"):
        saggar.remote(where=where)
