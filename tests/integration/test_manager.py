"""
The manager in front of real instances over HTTP: the Node example's, which have the four documented
endpoints and nothing else.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection

import httpx
import pytest
from tests.integration.managing import (
    DEADLINE,
    available,
    example,
    execute,
    manager,
    until,
    unused_port,
    value,
)


@contextmanager
def fleet(folder, count, *options, **more):
    """A client of a manager of so many instances, all of them free."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "twice.js").write_text("function twice(x) { return 2 * x; }")
    with ExitStack() as stack:
        servers = [stack.enter_context(example(code)) for _ in range(count)]
        urls = [server.url for server in servers]
        client, _ = stack.enter_context(manager(folder, urls, *options, **more))
        until(lambda: available(client), count)
        yield client, servers


def test_executing_on_a_free_one_holds_it(tmp_path):
    with fleet(tmp_path, 2) as (client, _):
        assert "42" == value(client, 0, "let x = twice(21); x")
        assert "43" == value(client, 0, "x + 1")
        assert {
            "available_containers": 1,
            "available_by_type": {"node": 1},
            "allocated_containers": 1,
            "total_containers": 2,
            "allocated_container_ids": [0],
            "unavailable_containers": {},
        } == client.get("/status").json()


def test_looking_at_a_free_one_and_restarting_it_holds_nothing(tmp_path):
    with fleet(tmp_path, 1) as (client, _):
        assert {"ready": True} == client.get("/session/0/ready").json()
        assert {"status": "ok"} == client.get("/session/0/health").json()
        assert {"restarting": False} == client.get("/session/0/restart-status").json()
        assert {"status": "restarting"} == client.post("/session/0/restart").json()
        assert 0 == client.get("/status").json()["allocated_containers"]
        until(lambda: available(client), 1)


def test_a_restart_of_a_held_one_clears_it_and_leaves_it_held(tmp_path):
    with fleet(tmp_path, 1) as (client, _):
        execute(client, 0, "var x = 1")
        assert {"status": "restarting"} == client.post("/session/0/restart").json()

        assert "'undefined'" == value(client, 0, "typeof x")
        assert [0] == client.get("/status").json()["allocated_container_ids"]


def test_what_is_given_back_comes_back_clean(tmp_path):
    with fleet(tmp_path, 1) as (client, _):
        given = client.post("/allocate", params={"container_type": "node"}).json()
        assert (0, "node") == (given["container_id"], given["type"])
        execute(client, 0, "var secret = 1")
        back = client.post("/deallocate/0").json()
        assert {"status": "deallocated", "container_id": 0} == back

        assert 0 == client.post("/allocate").json()["container_id"]
        assert "'undefined'" == value(client, 0, "typeof secret")


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("POST", "/session/9/execute", 404, "Container 9 not found"),
        ("GET", "/session/9/ready", 404, "Container 9 not found"),
        ("POST", "/deallocate/9", 404, "Container 9 not found"),
        ("POST", "/deallocate/0", 400, "Container 0 is not allocated"),
        ("POST", "/allocate?container_type=ruby", 400, "'ruby'; there are: node"),
        ("POST", "/allocate?wait=-1", 400, "wait is 0 to 3600 seconds, found -1"),
        ("GET", "/session/0/a/../../b", 400, ". or .."),
        ("GET", "/session/0/%2e%2e/b", 400, ". or .."),
    ],
)
def test_a_mistake_is_named(tmp_path, method, path, status, detail):
    with (
        manager(tmp_path, ["http://127.0.0.1:1"]) as (client, _),
        # Not the client, which would tidy the path up.
        closing(HTTPConnection(client.base_url.netloc.decode(), timeout=DEADLINE)) as line,
    ):
        line.request(method, path)
        answer = line.getresponse()

        assert status == answer.status
        assert detail in json.load(answer)["detail"]


def test_an_error_of_an_instance_is_passed_on_with_its_status(tmp_path):
    with fleet(tmp_path, 1) as (client, _):
        answer = client.post("/session/0/execute", json={"cod": "1"})

        assert 422 == answer.status_code
        assert 'Container error: wanted {"code": text}' == answer.json()["detail"]


def test_when_none_is_free_a_caller_is_told_when_to_come_again(tmp_path):
    with fleet(tmp_path, 1, "--wait", "100ms") as (client, _):
        client.post("/allocate")
        answer = client.post("/allocate", params={"container_type": "node"})

        assert (503, "1") == (answer.status_code, answer.headers["retry-after"])
        assert "No node containers available" == answer.json()["detail"]


def test_fifty_who_wait_all_get_one_for_themselves_and_clean(tmp_path):
    with fleet(tmp_path, 3) as (client, _):

        def turn(number):
            given = client.post("/allocate", params={"wait": 50}).json()
            name, holder = given["container_id"], {"x-saggar-allocation": given["allocation"]}
            mine = f"typeof owner === 'undefined' ? (globalThis.owner = {number}) : -1"
            seen = [value(client, name, mine, headers=holder)]
            seen.append(value(client, name, "owner", headers=holder))
            client.post(f"/deallocate/{name}", headers=holder).raise_for_status()
            return seen

        with ThreadPoolExecutor(50) as threads:
            found = list(threads.map(turn, range(50)))

        assert [[str(number)] * 2 for number in range(50)] == found
        until(lambda: available(client), 3)


def test_one_that_died_is_taken_out_and_put_back(tmp_path):
    port = unused_port()
    with example(tmp_path, port) as first, manager(tmp_path, [first.url]) as (client, _):
        until(lambda: available(client), 1)
        first.kill()
        answer = client.post("/session/0/execute", json={"code": "1"})
        assert 503 == answer.status_code
        assert answer.json()["detail"].startswith("Container 0 is not available: ")
        assert 0 == available(client)

        with example(tmp_path, port):
            until(lambda: available(client), 1)
            assert "2" == value(client, 0, "1 + 1")


def test_one_that_dies_while_it_executes_is_said_to_have_and_is_not_lost(tmp_path):
    port = unused_port()
    with example(tmp_path, port) as first, manager(tmp_path, [first.url]) as (client, _):
        until(lambda: available(client), 1)
        name = client.post("/allocate").json()["container_id"]
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(
                client.post, f"/session/{name}/execute", json={"code": "for (;;);"}
            )
            until(lambda: busy(first), True)
            first.kill()
            assert 503 == running.result(DEADLINE).status_code

        with example(tmp_path, port):
            failed = client.post("/restart").json()
            assert 1 == failed["total_restarted"] + failed["total_failed"]
            until(lambda: available(client), 1)


def busy(server):
    """Whether a process uses its processor: more than a tenth of a second of it."""
    with open(f"/proc/{server.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    before = getattr(server, "ticks", None)
    server.ticks = int(fields[11]) + int(fields[12])
    return before is not None and server.ticks > before


def test_taking_one_back_ends_what_runs_in_it(tmp_path):
    with fleet(tmp_path, 1) as (client, servers):
        execute(client, 0, "var x = 1")
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(client.post, "/session/0/execute", json={"code": "for (;;);"})
            until(lambda: busy(servers[0]), True)
            assert 200 == client.post("/deallocate/0").status_code
            answer = running.result(DEADLINE)

        assert 409 == answer.status_code
        assert "Container 0 was deallocated while this ran" == answer.json()["detail"]
        assert "'undefined'" == value(client, 0, "typeof x")


def test_who_holds_what_survives_a_killed_manager(tmp_path):
    with example(tmp_path) as one, example(tmp_path) as other:
        urls = [one.url, other.url]
        with manager(tmp_path, urls) as (client, server):
            until(lambda: available(client), 2)
            given = client.post("/allocate").json()
            name, holder = given["container_id"], {"x-saggar-allocation": given["allocation"]}
            execute(client, name, "var x = 40", headers=holder)
            server.kill()

        with manager(tmp_path, urls) as (client, _):
            until(lambda: available(client), 1)
            assert [name] == client.get("/status").json()["allocated_container_ids"]
            assert "42" == value(client, name, "x + 2", headers=holder)
            assert name != client.post("/allocate").json()["container_id"]


def test_a_manager_that_was_killed_while_one_was_coming_back_brings_it_back(tmp_path):
    with example(tmp_path) as one:
        with manager(tmp_path, [one.url]) as (client, server):
            until(lambda: available(client), 1)
            execute(client, 0, "var x = 1")
            client.post("/deallocate/0")
            server.kill()

        with manager(tmp_path, [one.url]) as (client, _):
            until(lambda: available(client), 1)
            assert "'undefined'" == value(client, 0, "typeof x")


def test_two_managers_do_not_share_their_state(tmp_path):
    urls = ["http://127.0.0.1:1"]
    with (
        manager(tmp_path, urls),
        pytest.raises(pytest.fail.Exception) as said,
        manager(tmp_path, urls),
    ):
        pass

    assert "another manager keeps its state in" in str(said.value)


def test_idle_ones_that_nobody_asked_for_go_back(tmp_path):
    with fleet(tmp_path, 2, "--idle", "300ms") as (client, _):
        kept = client.post("/allocate").json()["container_id"]
        execute(client, 1 - kept, "1")

        until(lambda: client.get("/status").json()["allocated_container_ids"], [kept])


def test_without_the_key_nobody_comes_in(tmp_path):
    with manager(tmp_path, ["http://127.0.0.1:1"], env={"SAGGAR_KEY": "open"}) as (client, _):
        assert 401 == client.get("/status").status_code
        assert 401 == client.post("/session/0/execute", json={"code": "1"}).status_code
        assert 200 == client.get("/status", headers={"x-api-key": "open"}).status_code
        assert httpx.codes.OK == client.get("/health").status_code
