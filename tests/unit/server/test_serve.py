"""A real server of a small application, and what strangers send it."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from tests.unit.server.serving import KEY, ROOT, server

from saggar.errors import UsageError
from saggar.server import require
from saggar.server.app import create_app
from saggar.server.auth import Doors
from saggar.server.serve import serve

HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def running():
    with server("127.0.0.1", "0") as found:
        yield found


def sent(running, data, *, patience=10.0):
    """All that comes back for these bytes, until the other side closes."""
    with socket.create_connection(("127.0.0.1", running.port), patience) as link:
        link.sendall(data)
        return read(link)


def read(link):
    found = b""
    try:
        while part := link.recv(1 << 16):
            found += part
    except ConnectionResetError:
        pass
    return found


def resident(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def test_it_says_where_it_listens_and_answers_there(running):
    answer = httpx.get(f"{running.url}/health")

    assert running.url.startswith("http://127.0.0.1:")
    assert {"status": "ok"} == answer.json()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\r\n\r\n\x00\x01\x02\x03 garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200) + b"\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET /number HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /number HTTP/1.1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_garbage_is_answered_with_a_problem_and_the_server_goes_on(running, garbage):
    answer = sent(running, garbage)

    assert b" 400 " in answer.partition(b"\r\n")[0] + b" "
    assert b"application/problem+json" in answer
    assert 200 == httpx.get(f"{running.url}/health").status_code


def test_a_gigabyte_is_refused_by_what_it_says_it_is(running):
    begun = time.monotonic()
    answer = sent(running, HEAD + b"Content-Length: 1073741824\r\n\r\n" + b"x" * (1 << 20))

    assert b"HTTP/1.1 413 " == answer[:13]
    assert b"connection: close" in answer
    assert time.monotonic() - begun < 5


def test_a_gigabyte_that_does_not_say_so_is_cut_off_and_not_kept(running):
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    passed = 0
    with socket.create_connection(("127.0.0.1", running.port), 20) as link:
        link.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(1024):
                link.sendall(chunk)
                passed += 1
        except OSError:
            pass  # it closed: that is the point

    assert 15 < passed < 1024
    assert resident(running.process) < 300 << 20


def test_who_sends_a_body_that_is_too_large_can_read_why(running):
    answer = httpx.post(f"{running.url}/echo", json="x" * (17 << 20))

    assert (413, "too-large") == (answer.status_code, answer.json()["code"])


def test_a_body_that_does_not_come_is_not_waited_for(running):
    answer = sent(running, HEAD + b"Content-Length: 10\r\n\r\n{")

    assert b"HTTP/1.1 408 " == answer[:13]
    assert b"the body did not come within 1 s" in answer


def test_a_head_that_does_not_come_is_not_waited_for():
    """The time for a head runs from its first byte, however busily the rest of it trickles."""
    program = (
        "import saggar.server.serve as s; s.PATIENCE = 0.5;"
        "import runpy; runpy.run_module('tests.unit.server.serving', run_name='__main__')"
    )
    with (
        server("127.0.0.1", "0", command=("-c", program)) as slow,
        socket.create_connection(("127.0.0.1", slow.port), 10) as link,
    ):
        link.sendall(b"GET /health HTTP/1.1\r\n")

        assert b"" == read(link)
        assert 200 == httpx.get(f"{slow.url}/health").status_code


def test_two_requests_on_one_connection_are_both_answered(running):
    one = b"GET /number?wanted=%d HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    answer = sent(running, one % (1, b"") + one % (2, b"Connection: close\r\n"))

    assert 2 == answer.count(b"HTTP/1.1 200")


def test_a_caller_who_leaves_ends_what_he_waited_for(running):
    for path in ("/wait", "/wait?stream=1"):
        with socket.create_connection(("127.0.0.1", running.port), 10) as link:
            link.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
            until(running, expected=True)

        until(running, expected=False)


def until(running, *, expected):
    deadline = time.monotonic() + 10
    while expected != (found := httpx.get(f"{running.url}/waited").json()):
        assert time.monotonic() < deadline, found


def test_lines_come_as_they_are_made_and_say_when_there_are_none(running):
    with httpx.stream("GET", f"{running.url}/wait?stream=1") as answer:
        lines = answer.iter_lines()
        found = [json.loads(next(lines)) for _ in range(3)]

    assert "application/x-ndjson" == answer.headers["content-type"]
    assert [{"type": "begun"}, {"type": "keepalive"}, {"type": "keepalive"}] == found


def test_sigterm_ends_it_well():
    with server("127.0.0.1", "0") as ending:
        httpx.get(f"{ending.url}/health")

        assert 0 == ending.end()


def test_a_key_opens_a_server_that_others_can_reach():
    with server("0.0.0.0", "0", KEY) as reachable:
        local = reachable.url.replace("0.0.0.0", "127.0.0.1")
        without = httpx.get(f"{local}/number?wanted=1")
        with_key = httpx.get(f"{local}/number?wanted=1", headers={"x-api-key": KEY})

    assert (401, 200) == (without.status_code, with_key.status_code)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::"])
def test_without_a_key_it_does_not_let_other_machines_in(host):
    doors = Doors()

    with pytest.raises(UsageError, match=r"SAGGAR_KEY.*SAGGAR_INSECURE_BIND=1"):
        serve(create_app("small", doors), host, 0, doors)


def test_who_insists_may_let_everybody_in():
    program = (
        "from saggar.server.app import create_app; from saggar.server.auth import Doors;"
        "from saggar.server.serve import serve; doors = Doors(insecure=True, local_names=True);"
        "serve(create_app('s', doors), '0.0.0.0', 0, doors)"
    )
    with server(command=("-c", program)) as open_to_all:
        answer = httpx.get(f"{open_to_all.url}/health")

    assert 200 == answer.status_code


def test_a_port_in_use_is_said_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(UsageError, match=f"cannot listen on port {port} of 127.0.0.1: address"):
            serve(create_app("small", Doors()), "127.0.0.1", port, Doors())


@pytest.mark.parametrize("host", ["no such name", "host.invalid"])
def test_a_name_that_leads_nowhere_is_said_in_one_line(host):
    with pytest.raises(UsageError, match=f"there is no address '{host}'"):
        serve(create_app("small", Doors()), host, 0, Doors())


def test_what_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr("saggar.server.find_spec", lambda _name: None)

    with pytest.raises(UsageError, match=r"needs fastapi: pip install 'saggar\[server\]'"):
        require()


def test_importing_saggar_loads_nothing_of_this():
    program = "import saggar.cli.main, sys; print({'fastapi', 'uvicorn'} & set(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )

    assert "set()" == ran.stdout.strip()
