"""The manager's API from sessions on this machine, without any container."""

import sys
from contextlib import contextmanager

import httpx
import pytest
from tests.integration.managing import DEADLINE, available, execute, serving, until, value

from saggar.cli import main


@contextmanager
def local(count, *options):
    """A client of a manager of so many sessions."""
    words = ["manager", "--port", "0", "--local", str(count), "--types", f"python:{count}"]
    with (
        serving(sys.executable, "-m", "saggar", *words, *options) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=DEADLINE) as client,
    ):
        until(lambda: available(client), count)
        yield client


def test_sessions_remember_and_come_back_clean(tmp_path):
    (tmp_path / "tools.py").write_text("def twice(x):\n    return 2 * x\n")
    with local(2, "--code", str(tmp_path)) as client:
        assert "42" == value(client, 0, "x = twice(21)\nx")
        assert "43" == value(client, 0, "x + 1")
        assert "NameError" == execute(client, 1, "x")[-1]["name"]
        assert 200 == client.post("/deallocate/0").status_code
        until(lambda: available(client), 1)

        assert "NameError" == execute(client, 0, "x")[-1]["name"]
        assert "2" == value(client, 0, "twice(1)")


def test_the_endpoints_of_a_session_are_those_of_an_instance():
    with local(1) as client:
        assert {"ready": True} == client.get("/session/0/ready").json()
        assert {"status": "ok"} == client.get("/session/0/health").json()
        assert {"restarting": False} == client.get("/session/0/restart-status").json()
        assert {"status": "restarting"} == client.post("/session/0/restart").json()
        assert 0 == client.get("/status").json()["allocated_containers"]
        until(lambda: available(client), 1)
        lines = client.post("/session/0/execute?stream=1", json={"code": "print(1)"}).text

        assert '"text":"1\\n"' in lines
        answer = client.post("/session/0/execute", json={"cod": "1"})
        assert 422 == answer.status_code
        assert answer.json()["detail"].startswith("Container error: ")
        assert 404 == client.get("/session/0/nowhere").status_code


def test_what_takes_too_long_is_a_timeout_and_the_session_lives():
    with local(1, "--timeout", "500ms") as client:
        execute(client, 0, "x = 1")

        assert "TimeoutError" == execute(client, 0, "while True: pass")[-1]["name"]
        assert "1" == value(client, 0, "x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--local", "0"], "--local: wanted at least 1, found 0"),
        (["--local", "2", "--types", "python:1"], "the counts add up to 1"),
        (["--local", "1", "--types", "node:1"], "a session here can be python, found 'node'"),
        (["--local", "1", "--config", "x"], "leave one of them out"),
        (["--local", "1", "--code", "/no/such"], "'/no/such' is not a folder"),
        (["--types", "python:1"], "--types is about sessions on this machine; add --local N"),
        (["--config", "/no/such"], "cannot read the list of containers /no/such"),
        (["--local", "1", "--port", "x"], "--port: wanted a number up to 65535"),
        (["--local", "1", "--idle", "soon"], "--idle: wanted"),
    ],
)
def test_a_mistake_in_the_call_is_named(capsys, words, said):
    assert 2 == main(["manager", *words])
    assert said in capsys.readouterr().err


def test_it_does_not_listen_to_all_the_network_without_a_key(capsys):
    assert 2 == main(["manager", "--local", "1", "--host", "0.0.0.0", "--port", "0"])
    assert "there is no key" in capsys.readouterr().err
