"""`saggar serve` as a process of its own, with a broker and a worker beside it."""

import hashlib
import hmac
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from tests.chaos.brokers import Worker
from tests.unit.server.serving import Server, server

from saggar.config import Settings
from saggar.jobs.broker import Embedded

COMMAND = ("-m", "saggar", "serve", "--port", "0")
KEYS = {"team-a": "key-of-a", "team-b": "key-of-b"}
LOOP = "import time\nprint('up', flush=True)\ntime.sleep(60)"
SECRET = "signed-with-this"


@pytest.fixture(scope="module")
def broker() -> Iterator[Embedded]:
    state = Path(tempfile.mkdtemp(prefix="saggar-serve-"))
    found = Embedded(state).start()
    yield found
    found.close()
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out


@pytest.fixture(scope="module")
def env(broker: Embedded) -> dict[str, str]:
    return {
        "CELERY_BROKER_URL": broker.url(),
        "SAGGAR_BLOBS": str(broker.state / "blobs"),
        "SAGGAR_KEY": "key-of-all",
        "SAGGAR_KEYS": json.dumps(KEYS),
        "SAGGAR_PRIVATE_WEBHOOKS": "1",
        "SAGGAR_LOG_FILE": str(broker.state / "serve.log"),
        "SAGGAR_QUEUES": '["nobodys"]',
        "SAGGAR_SECRETS": '["NOWHERE"]',
        "SAGGAR_TENANTS": '{"team-b": {"rate": 0.02, "burst": 1}}',
    }


@pytest.fixture(scope="module")
def worker(broker: Embedded) -> Iterator[Worker]:
    settings = Settings(
        broker_url=broker.url(),
        blobs=str(broker.state / "blobs"),
        private_webhooks=True,
        webhook_secret=SECRET,
        quota={"running": 2},
    )
    with Worker(settings, broker.state) as found:
        yield found


@pytest.fixture(scope="module")
def served(env: dict[str, str], worker: Worker) -> Iterator[Server]:
    with server(command=COMMAND, env=env) as found:
        yield found
        assert 0 == found.end()


def client(served: Server, key: str = "key-of-all") -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=served.url, headers=headers, timeout=40)


@pytest.fixture
def http(served: Server) -> Iterator[httpx.Client]:
    with client(served) as found:
        yield found


def submitted(http: httpx.Client, **document) -> str:
    answer = http.post("/v1/jobs", json=document)
    assert 202 == answer.status_code, answer.text
    return str(answer.json()["id"])


def test_a_run_is_answered_with_its_result(http: httpx.Client):
    answer = http.post("/v1/runs", json={"code": "print(6 * 7)"})
    failed = http.post("/v1/runs", json={"code": "1 / 0"})

    assert (200, "ok", "42\n") == (
        answer.status_code,
        answer.json()["status"],
        answer.json()["stdout"],
    )
    assert (200, "error") == (failed.status_code, failed.json()["status"])


def test_a_whole_task_is_taken_as_its_json(http: httpx.Client):
    from saggar import Task

    task = Task.of("print(open('a.txt').read(), end='')", files={"a.txt": b"here\n"}, input=None)
    document = task.model_dump(mode="json")

    answer = http.post("/v1/runs", json={**document, "limits": {"wall": "5s"}})

    assert "here\n" == answer.json()["stdout"], answer.text


def test_a_run_is_read_along(http: httpx.Client):
    headers = {"Accept": "text/event-stream"}
    answer = http.post("/v1/runs", json={"code": "print('é')"}, headers=headers)
    blocks = [block.splitlines() for block in answer.text.strip().split("\n\n")]

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert ["event: started", "event: output", "event: finished"] == [block[0] for block in blocks]
    assert "é\n" == json.loads(blocks[1][1].removeprefix("data: "))["text"]


def test_a_job_is_taken_in_at_once_and_found_by_its_links(http: httpx.Client):
    code = "import time\ntime.sleep(0.5)\nprint('later')"
    answer = http.post("/v1/jobs", json={"code": code})
    links = answer.json()["links"]
    not_yet = http.get(links["result"])
    result = http.get(links["result"], params={"wait": 30})
    found = http.get(links["self"]).json()

    assert (202, "queued", "new") == (
        answer.status_code,
        answer.json()["state"],
        answer.json()["came"],
    )
    assert links["self"] == answer.headers["location"]
    assert (202, "1") == (not_yet.status_code, not_yet.headers["retry-after"])
    assert (200, "later\n") == (result.status_code, result.json()["stdout"])
    assert ("done", 1, "later\n") == (found["state"], found["attempts"], found["result"]["stdout"])


def test_a_job_has_a_jobs_limits_and_never_more(http: httpx.Client):
    """No policy is named at the door: the ceiling is closed, its numbers are those of jobs."""
    code = "import time\ntime.sleep(30)"
    quick = submitted(http, code=code, limits={"wall": "1s", "grace": "1s"})
    denied = http.post("/v1/jobs", json={"code": "1", "policy": {"network": "host"}})
    packages = http.post("/v1/jobs", json={"code": "1", "environment": {"host_packages": True}})
    result = http.get(f"/v1/jobs/{quick}/result?wait=30").json()

    assert ("timeout", "wall") == (result["status"], result["limit"])
    assert (403, "policy-denied") == (denied.status_code, denied.json()["code"])
    assert (403, "policy-denied") == (packages.status_code, packages.json()["code"])


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/runs"])
def test_what_a_fork_server_imports_is_the_operators_to_list(http: httpx.Client, path):
    """It has the power to build walls; no ceiling is named, and callers have one all the same."""
    answer = http.post(path, json={"code": "1", "environment": {"preload": ["this"]}})

    assert (403, "policy-denied") == (answer.status_code, answer.json()["code"])
    assert "environment.preload: this is not on the operator's list" in answer.json()["detail"]


def test_no_model_is_fetched_with_the_operators_token(http: httpx.Client):
    answer = http.post("/v1/jobs", json={"code": "1", "environment": {"models": ["org/private"]}})

    assert 403 == answer.status_code
    assert "environment.models: org/private" in answer.json()["detail"]


def test_events_come_while_a_job_runs(http: httpx.Client):
    code = "import time\nprint('one', flush=True)\ntime.sleep(1)\nprint('two')"
    job = submitted(http, code=code)

    with http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        found = [(json.loads(line), time.monotonic()) for line in answer.iter_lines()]
    kinds = [document["kind"] for document, _ in found]

    assert ["started", "output", "output", "finished"] == kinds
    assert "one\n" == found[1][0]["text"]
    assert b"one\n" == b64decode(found[1][0]["data"])
    assert found[2][1] - found[1][1] > 0.5


def test_a_job_is_cancelled_where_it_runs(http: httpx.Client):
    job = submitted(http, code=LOOP)
    with http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        next(line for line in answer.iter_lines() if '"output"' in line)
    start = time.monotonic()
    answer = http.post(f"/v1/jobs/{job}/cancel")
    result = http.get(f"/v1/jobs/{job}/result?wait=10").json()

    assert 202 == answer.status_code
    assert "cancelled" == result["status"]
    assert time.monotonic() - start < 2


def test_jobs_are_listed_by_state(http: httpx.Client):
    job = submitted(http, code="print(1)", delay=600)
    waiting = http.get("/v1/jobs", params={"state": "delayed"}).json()["jobs"]
    one = http.get("/v1/jobs", params={"limit": 1}).json()["jobs"]
    wrong = http.get("/v1/jobs", params={"state": "lost"})
    http.post(f"/v1/jobs/{job}/cancel")

    assert [job] == [each["id"] for each in waiting]
    assert [job] == [each["id"] for each in one]
    assert 422 == wrong.status_code


def test_the_same_work_is_served_from_one_run(http: httpx.Client):
    document = {"code": "import os\nprint(os.urandom(8).hex())", "cache": True}
    first = submitted(http, **document)
    http.get(f"/v1/jobs/{first}/result?wait=30")
    again = http.post("/v1/jobs", json=document).json()

    assert (first, "cached", "done") == (again["id"], again["came"], again["state"])


@pytest.mark.parametrize(
    ("document", "status", "detail"),
    [
        ({"cod": "1"}, 422, "no field named 'cod'; did you mean 'code'?"),
        ({"code": "1", "prority": 1}, 422, "did you mean 'priority'?"),
        ({"code": "1", "limits": {"wal": 1}}, 422, "did you mean 'wall'?"),
        ({"code": "1", "priority": 10}, 422, "priority"),
        ({"code": "1", "queue": "dead_letter"}, 422, "queue"),
        ({"code": "1", "queue": "anothers"}, 422, "SAGGAR_QUEUES"),
        ({"code": "1", "language": "cobol"}, 404, "no language named 'cobol'"),
        ({"code": "1", "delay": -1}, 422, "delay"),
        ({"code": "1", "key": "x" * 300}, 422, "key"),
        ({"code": "#" * 2_000_000}, 422, "a job may carry 1 MiB"),
        ({"code": "1", "webhook": "ftp://x/"}, 422, "webhook"),
        ({"code": "1", "program": {}}, 422, "say one of both"),
        ({"program": {"code": {"kind": "inline"}}}, 422, "text: is missing"),
        ({}, 422, "program: is missing"),
        ([1], 422, "wanted an object"),
        ({"code": "1", "tenant": "team-a"}, 403, "comes with the key"),
    ],
)
def test_what_is_wrong_is_refused_before_it_is_queued(http: httpx.Client, document, status, detail):
    answer = http.post("/v1/jobs", json=document)

    assert status == answer.status_code, answer.text
    assert detail in answer.json()["detail"]


def test_what_there_is_not_says_so(http: httpx.Client):
    for path in ("/v1/jobs/none", "/v1/jobs/none/result", "/v1/jobs/none/events"):
        assert (404, "not-found") == (
            http.get(path).status_code,
            http.get(path).json()["code"],
        )
    assert 404 == http.get("/v1/dead-letters/none").status_code
    assert 404 == http.post("/v1/jobs/none/cancel").status_code


def test_a_job_that_is_forgotten_is_told_from_one_that_never_was(
    http: httpx.Client, broker: Embedded
):
    job = submitted(http, code="print(1)")
    http.get(f"/v1/jobs/{job}/result?wait=30")
    ask(broker, "DEL", f"saggar:job:{job}")

    answer = http.get(f"/v1/jobs/{job}")

    assert (410, "expired") == (answer.status_code, answer.json()["code"])
    assert "no longer kept" in answer.json()["detail"]


def test_who_has_no_key_gets_nothing_but_a_sign_of_life(served: Server):
    with client(served, "") as stranger:
        answers = {
            path: stranger.get(path).status_code
            for path in ("/health", "/metrics", "/v1/jobs", "/v1/dead-letters")
        }
        run = stranger.post("/v1/runs", json={"code": "1"}).status_code
    with client(served, "key-of-nobody") as stranger:
        wrong = stranger.get("/v1/jobs").status_code

    assert {"/health": 200, "/metrics": 401, "/v1/jobs": 401, "/v1/dead-letters": 401} == answers
    assert (401, 401) == (run, wrong)


def test_pages_of_others_and_names_of_others_are_refused(http: httpx.Client):
    page = http.get("/v1/jobs", headers={"Origin": "https://evil.example"})
    name = http.get("/v1/jobs", headers={"Host": "evil.example"})

    assert (403, "unknown-origin") == (page.status_code, page.json()["code"])
    assert (403, "unknown-host") == (name.status_code, name.json()["code"])


def test_a_tenant_is_who_has_his_key_and_sees_nothing_of_others(served: Server, http: httpx.Client):
    with client(served, "key-of-a") as ours, client(served, "key-of-b") as others:
        document = {"code": "print('same')", "cache": True}
        job = submitted(ours, **document)
        elsewhere = others.post("/v1/jobs", json=document).json()
        found = ours.get(f"/v1/jobs/{job}").json()
        hidden = [
            others.get(f"/v1/jobs/{job}"),
            others.get(f"/v1/jobs/{job}/result"),
            others.get(f"/v1/jobs/{job}/events"),
            others.post(f"/v1/jobs/{job}/cancel"),
        ]
        theirs = others.get("/v1/jobs").json()["jobs"]

    assert "team-a" == found["tenant"]
    assert ("new", True) == (elsewhere["came"], elsewhere["id"] != job)
    assert [404] * 4 == [answer.status_code for answer in hidden]
    assert {"team-b"} == {each["tenant"] for each in theirs}
    assert "team-a" == http.get(f"/v1/jobs/{job}").json()["tenant"]


def test_who_had_his_share_is_told_when_to_come_again(served: Server):
    """team-b may submit one job in 50 seconds."""
    with client(served, "key-of-b") as http:
        found = [http.post("/v1/jobs", json={"code": "1"}) for _ in range(2)]

    assert (429, "overloaded") == (found[1].status_code, found[1].json()["code"])
    assert 1 <= int(found[1].headers["retry-after"]) <= 50


def test_dead_letters_are_looked_at_replayed_and_dropped(served: Server, http: httpx.Client):
    with client(served, "key-of-a") as ours:
        job = submitted(ours, code="1", secrets=["NOWHERE"])
        refused = ours.get(f"/v1/jobs/{job}/result?wait=30")
        *_, last = ours.get(f"/v1/jobs/{job}/events").text.splitlines()
        letter = ours.get(f"/v1/dead-letters/{job}").json()
        listed = ours.get("/v1/dead-letters").json()["dead_letters"]
        with client(served, "key-of-b") as others:
            hidden = [
                others.get(f"/v1/dead-letters/{job}").status_code,
                others.post(f"/v1/dead-letters/{job}/replay").status_code,
                others.delete(f"/v1/dead-letters/{job}").status_code,
            ]
        replayed = ours.post(f"/v1/dead-letters/{job}/replay")
        ours.get(f"/v1/jobs/{job}/result?wait=30")
        gone = ours.delete(f"/v1/dead-letters/{job}").status_code
        after = ours.get("/v1/dead-letters").json()["dead_letters"]

    assert (424, "job-failed", "dead", "not-found") == (
        refused.status_code,
        refused.json()["code"],
        refused.json()["state"],
        refused.json()["failure"]["code"],
    )
    assert ("failed", "not-found") == (json.loads(last)["kind"], json.loads(last)["code"])
    assert (job, 1, "team-a") == (letter["job_id"], letter["attempts"], letter["tenant"])
    assert [letter] == listed
    assert [404] * 3 == hidden
    assert 202 == replayed.status_code
    assert (204, []) == (gone, after)


def test_metrics_say_how_it_stands(http: httpx.Client, broker: Embedded):
    job = submitted(http, code="1", queue="nobodys")
    http.get(f"/v1/jobs/{submitted(http, code='1')}/result?wait=30")
    # Somebody's own task, of a priority that has a list of its own.
    ask(broker, "LPUSH", "nobodys\x06\x166", "x")
    said = http.get("/metrics")
    ask(broker, "DEL", "nobodys\x06\x166")
    http.post(f"/v1/jobs/{job}/cancel")
    lines = said.text.splitlines()

    assert said.headers["content-type"].startswith("text/plain")
    assert 'celery_queue_depth{queue="nobodys"} 2.0' in lines
    assert 'saggar_workers{queue="nobodys"} 0.0' in lines
    assert 'saggar_workers{queue="code_execution"} 1.0' in lines
    assert any(line.startswith('saggar_job_run_seconds_count{status="ok"}') for line in lines)
    assert any(line.startswith("saggar_scratch_free_bytes{worker=") for line in lines)


def test_a_webhook_is_signed(http: httpx.Client):
    told: list[tuple[dict[str, str], bytes]] = []
    heard = threading.Event()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()
            heard.set()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    listening = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{listening.server_port}/done"
    job = submitted(http, code="print(1)", webhook=url)
    came = heard.wait(20)
    listening.shutdown()
    thread.join()
    listening.server_close()

    assert came
    headers, body = told[0]
    signed = f"{job}.{headers['webhook-timestamp']}.".encode() + body
    expected = b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert (job, f"v1,{expected}") == (headers["webhook-id"], headers["webhook-signature"])


def test_what_is_taken_in_is_a_line_of_the_log(http: httpx.Client, env: dict[str, str]):
    job = submitted(http, code="print('secret-text')")
    text = Path(env["SAGGAR_LOG_FILE"]).read_text()
    found = [json.loads(line) for line in text.splitlines() if job in line]

    assert ("job.submitted", "default") == (found[0]["event"], found[0]["tenant"])
    assert "secret-text" not in text


def test_a_broker_that_is_not_there_is_503_in_three_seconds_and_runs_go_on():
    env = {"CELERY_BROKER_URL": "redis://:hush@127.0.0.1:1/0"}
    with server(command=COMMAND, env=env) as alone, client(alone, "") as http:
        start = time.monotonic()
        answer = http.post("/v1/jobs", json={"code": "1"})
        took = time.monotonic() - start
        run = http.post("/v1/runs", json={"code": "print(1)"})

    assert (503, "queue-unavailable") == (answer.status_code, answer.json()["code"])
    assert took < 3.2
    assert "redis://:***@127.0.0.1" in answer.json()["detail"]
    assert "hush" not in answer.text
    assert "1\n" == run.json()["stdout"]


def test_without_a_key_it_does_not_listen_to_the_network(broker: Embedded):
    run = subprocess.run(
        [sys.executable, *COMMAND, "--host", "0.0.0.0"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(broker.state)},
        capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip

    assert 2 == run.returncode
    assert "there is no key" in run.stderr


def test_without_keys_the_caller_says_for_whom_a_job_is(broker: Embedded):
    env = {"CELERY_BROKER_URL": broker.url(3)}
    with server(command=COMMAND, env=env) as alone, client(alone, "") as http:
        job = submitted(http, code="1", tenant="team-c")
        found = http.get(f"/v1/jobs/{job}").json()

    assert "team-c" == found["tenant"]


def ask(broker: Embedded, *command: str) -> object:
    from saggar.jobs.store import answered

    return answered(broker.url(), command)
