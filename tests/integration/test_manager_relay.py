"""What the manager passes on, byte for byte and as it comes: an instance that tells what it got."""

import gzip
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.integration.managing import DEADLINE, manager

SECRET = "open sesame"


class Hearing(ThreadingHTTPServer):
    """A server, and what its test wants to know of it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Telling)
        self.go_on, self.came, self.left = (threading.Event() for _ in range(3))
        self.heard = []


class Telling(BaseHTTPRequestHandler):
    """The four endpoints, and some more."""

    server: Hearing
    protocol_version = "HTTP/1.1"

    def answer(self):
        route = getattr(self, "at" + self.path.partition("?")[0].replace("/", "_"), self.at_echo)
        route()

    def at_ready(self):
        self.tell({"ready": True})

    at_restart = at_ready

    def at_echo(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        found = {"method": self.command, "path": self.path, "headers": headers}
        self.tell({**found, "body": body.decode("latin-1")})

    def at_redirect(self):
        self.tell({}, 302, {"location": "http://127.0.0.1:1/elsewhere", "set-cookie": "a=b"})

    def at_zip(self):
        self.tell(None, 200, {"content-encoding": "gzip"}, gzip.compress(b"small"))

    def at_stream(self):
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for part in (b"first", b"second"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.server.go_on.wait(DEADLINE)
        self.wfile.write(b"0\r\n\r\n")

    def at_upload(self):
        length = self.rfile.readline()
        self.server.heard.append(self.rfile.read(int(length, 16)))
        self.server.came.set()
        while int(length, 16):
            self.rfile.readline()
            length = self.rfile.readline()
            self.server.heard.append(self.rfile.read(int(length, 16)))
        self.rfile.readline()
        self.tell({})

    def at_hang(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.came.set()
        self.connection.settimeout(DEADLINE)
        if self.connection.recv(1) == b"":
            self.server.left.set()
        self.close_connection = True

    def at_break(self):
        self.send_response(200)
        self.send_header("content-length", "100")
        self.end_headers()
        self.wfile.write(b"half")
        self.close_connection = True

    def tell(self, document, status=200, headers=(), body=None):
        body = json.dumps(document).encode() if body is None else body
        self.send_response(status)
        for name, value in {**dict(headers), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *words):
        pass


for _method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
    setattr(Telling, f"do_{_method}", Telling.answer)


@contextmanager
def telling():
    with Hearing() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def relay(tmp_path_factory):
    """A client of a manager, and the instance behind it."""
    folder = tmp_path_factory.mktemp("relay")
    with telling() as (server, url), manager(folder, [url]) as (client, _):
        yield client, server


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_method_path_query_and_body_arrive_as_they_were_sent(relay, method):
    client, _ = relay
    url = client.base_url.copy_with(raw_path=b"/session/0/a%2Fb//c%20d?q=%20&q=2&empty")
    found = client.request(method, url, content=b"\0\xff raw").json()

    assert [method, "/a%2Fb//c%20d?q=%20&q=2&empty", "\0\xff raw"] == [
        found["method"],
        found["path"],
        found["body"],
    ]


def test_headers_arrive_less_those_of_the_connection(relay):
    client, server = relay
    sent = {"x-mine": "1", "connection": "x-private, close", "x-private": "1", "te": "trailers"}
    # The key is the instance's own affair here: this manager has none.
    sent |= {"authorization": "Bearer theirs", "user-agent": "me", "accept-encoding": "br"}
    found = dict(client.get("/session/0/any", headers=sent).json()["headers"])

    assert {
        "host": f"127.0.0.1:{server.server_port}",
        "x-mine": "1",
        "authorization": "Bearer theirs",
        "user-agent": "me",
        "accept": "*/*",
        "accept-encoding": "br",
    } == found


def test_a_body_of_known_length_is_passed_on_with_its_length(relay):
    """A simple server reads no chunks; this one does not either."""
    client, _ = relay
    found = client.post("/session/0/any", content=b"12345").json()

    assert ("5", "12345") == (dict(found["headers"])["content-length"], found["body"])


def test_the_managers_own_key_reaches_no_instance(tmp_path):
    with (
        telling() as (_, url),
        manager(tmp_path, [url], env={"SAGGAR_KEY": SECRET}) as (client, _),
    ):
        answer = client.get("/session/0/any", headers={"authorization": f"Bearer {SECRET}"})

        assert 200 == answer.status_code
        assert SECRET not in answer.text


def test_a_redirect_is_passed_on_and_not_followed(relay):
    client, _ = relay
    answer = client.get("/session/0/redirect")

    assert 302 == answer.status_code
    assert "http://127.0.0.1:1/elsewhere" == answer.headers["location"]
    assert "a=b" == answer.headers["set-cookie"]


def test_a_question_for_the_head_only_has_no_body(relay):
    client, _ = relay
    answer = client.head("/session/0/any")

    assert (200, b"") == (answer.status_code, answer.content)
    assert int(answer.headers["content-length"]) > 0
    assert 1 == len(answer.headers.get_list("date"))


def test_a_compressed_answer_stays_compressed(relay):
    client, _ = relay
    with client.stream("GET", "/session/0/zip") as answer:
        raw = b"".join(answer.iter_raw())

    assert b"small" == gzip.decompress(raw)


def test_an_answer_is_passed_on_as_it_comes(relay):
    client, server = relay
    server.go_on.clear()
    with client.stream("GET", "/session/0/stream") as answer:
        parts = answer.iter_raw()
        assert b"first" == next(parts)
        server.go_on.set()
        assert b"second" == b"".join(parts)


def test_a_body_is_passed_on_as_it_comes(relay):
    client, server = relay
    server.came.clear()

    def body():
        yield b"first"
        # Not before the instance has the first part.
        assert server.came.wait(DEADLINE)
        yield b"second"

    assert 200 == client.post("/session/0/upload", content=body()).status_code
    assert [b"first", b"second", b""] == server.heard


def test_a_caller_who_leaves_takes_his_request_with_him(relay):
    client, server = relay
    server.came.clear()
    with socket.create_connection((client.base_url.host, client.base_url.port)) as line:
        line.sendall(
            b"POST /session/0/hang HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        )
        assert server.came.wait(DEADLINE)

    assert server.left.wait(DEADLINE)


def test_an_answer_that_breaks_off_is_no_whole_answer(relay):
    client, _ = relay
    with (
        client.stream("GET", "/session/0/break") as answer,
        pytest.raises(Exception, match=r"peer closed connection|incomplete"),
    ):
        answer.read()
