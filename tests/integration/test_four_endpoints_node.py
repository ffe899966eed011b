"""The Node example on its own: the contract that its guide describes."""

from contextlib import contextmanager

import httpx
import pytest
from tests.integration.managing import DEADLINE, example, until


@contextmanager
def instance(folder, **env):
    with (
        example(folder, **env) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=DEADLINE) as client,
    ):
        until(lambda: client.get("/ready").json(), {"ready": True})
        yield client


def outputs(client, code):
    return client.post("/execute", json={"code": code}).json()["outputs"]


def test_it_answers_as_documented(tmp_path):
    with instance(tmp_path) as client:
        assert {"status": "ok"} == client.get("/health").json()
        assert [
            {"type": "stream", "name": "stdout", "text": "1 { a: 2 }\n"},
            {"type": "stream", "name": "stderr", "text": "careful\n"},
            {"type": "result", "data": {"text/plain": "42"}},
        ] == outputs(client, "console.log(1, {a: 2}); console.warn('careful'); const x = 42; x")
        assert [{"type": "result", "data": {"text/plain": "43"}}] == outputs(client, "x + 1")
        assert "43" == outputs(client, "Promise.resolve(x + 1)")[-1]["data"]["text/plain"]
        error = outputs(client, "null.x")[-1]
        assert ("error", "TypeError") == (error["type"], error["name"])


def test_a_restart_clears_all_and_loads_the_code_again(tmp_path):
    (tmp_path / "a.js").write_text("const base = 40;")
    (tmp_path / "b.js").write_text("function more(x) { return base + x; }")
    (tmp_path / "c.js").write_text("throw new Error('one that fails stops no other')")
    (tmp_path / "d.js").write_text("var last = true")
    with instance(tmp_path) as client:
        outputs(client, "var mine = 1")
        assert {"status": "restarting"} == client.post("/restart").json()
        # Not ready from the moment it said so: that is what a manager relies on.
        assert client.get("/ready").json()["ready"] is False
        until(lambda: client.get("/ready").json(), {"ready": True})

        found = "`${typeof mine} ${more(2)} ${last}`"
        assert "'undefined 42 true'" == outputs(client, found)[-1]["data"]["text/plain"]


@pytest.mark.parametrize("code", ["for (;;);", "new Promise(() => {})"])
def test_what_takes_too_long_is_a_timeout_and_state_is_kept(tmp_path, code):
    with instance(tmp_path, timeout="0.3") as client:
        outputs(client, "var x = 1")

        assert "TimeoutError" == outputs(client, code)[-1]["name"]
        assert "1" == outputs(client, "x")[-1]["data"]["text/plain"]


def test_what_cannot_be_stopped_costs_its_interpreter(tmp_path):
    with instance(tmp_path, timeout="0.3") as client:
        outputs(client, "var x = 1")
        error = outputs(client, "(async () => { await null; for (;;); })()")[-1]

        assert "the interpreter restarts" in error["value"]
        assert "'undefined'" == outputs(client, "typeof x")[-1]["data"]["text/plain"]


def test_an_interpreter_that_dies_is_replaced(tmp_path):
    with instance(tmp_path) as client:
        error = outputs(client, "const a = []; for (;;) a.push(new Array(1e6).fill(1))")[-1]

        assert "KernelError" == error["name"]
        assert "2" == outputs(client, "1 + 1")[-1]["data"]["text/plain"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/execute", b"{", 400),
        ("POST", "/execute", b"[]", 422),
        ("POST", "/execute", b"null", 422),
        ("POST", "/execute", b" " * (17 << 20), 413),
        ("GET", "/restart-status", b"", 404),
    ],
)
def test_what_it_does_not_take_it_says(tmp_path, method, path, body, status):
    with instance(tmp_path) as client:
        answer = client.request(method, path, content=body)

        assert status == answer.status_code
        assert answer.json()["detail"]
