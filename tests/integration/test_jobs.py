"""Jobs from end to end: submitted, run by Celery's own worker, in the documented ways."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.chaos.brokers import Worker
from tests.conftest import ROOT

from saggar import InvalidTask, NotFound, Policy, PolicyDenied, Status, Task
from saggar.config import Settings
from saggar.errors import PlatformError, QueueUnavailable
from saggar.functions.codetools import _waited
from saggar.jobs import calls, deadletters, spare
from saggar.jobs.broker import Embedded, disown
from saggar.jobs.job import HEAVY, JobState, job_limits
from saggar.jobs.submission import Desk, SyncDesk
from saggar.telemetry import metrics
from saggar.worker import station


@pytest.fixture(scope="module")
def broker() -> Iterator[Embedded]:
    state = Path(tempfile.mkdtemp(prefix="saggar-jobs-"))
    found = Embedded(state).start()
    yield found
    found.close()
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out


@pytest.fixture(scope="module")
def settings(broker: Embedded) -> Settings:
    return Settings(
        broker_url=broker.url(),
        blobs=str(broker.state / "blobs"),
        private_webhooks=True,
        dead_letter_alert=f"tee {broker.state / 'alert.json'}",
        log_file=broker.state / "app.log",
    )


@pytest.fixture(scope="module")
def worker(settings: Settings, broker: Embedded) -> Iterator[Worker]:
    with Worker(settings, broker.state) as found:
        yield found


@pytest.fixture(scope="module")
def desk(settings: Settings, worker: Worker) -> Iterator[SyncDesk]:
    found = SyncDesk(settings)
    yield found
    found.close()


def test_what_a_job_prints_comes_back(desk: SyncDesk):
    job = desk.submit(Task.of("print(6 * 7)"))

    result = job.result(30)
    found = job.job()

    assert "42\n" == result.stdout
    assert "jail" == result.isolation
    assert (JobState.DONE, 1) == (found.state, found.attempt)
    assert found.worker is not None
    assert found.worker.startswith("celery@")


def test_a_program_that_fails_is_a_result(desk: SyncDesk):
    job = desk.submit(Task.of("1 / 0"))

    error = job.result(30).error
    assert error is not None
    assert "ZeroDivisionError" == error.type
    assert 1 == job.job().attempt


def test_the_three_limits_of_time_are_told_apart(desk: SyncDesk):
    soft = "import time\ntry:\n    time.sleep(30)\nexcept KeyboardInterrupt:\n    print('asked')"
    hard = (
        "import time\nwhile True:\n    try:\n        time.sleep(30)\n"
        "    except BaseException:\n        pass"
    )
    cpu = "while True: pass"
    limits = {"wall": 1, "grace": 0.5, "cpu": 20}

    jobs = [
        desk.submit(Task.of(soft), limits=limits),
        desk.submit(Task.of(hard), limits=limits),
        desk.submit(Task.of(cpu), limits={"wall": 20, "cpu": 1}),
    ]
    found = [job.result(30) for job in jobs]

    assert [Status.TIMEOUT] * 3 == [result.status for result in found]
    assert ["wall", "wall", "cpu"] == [result.limit for result in found]
    assert "asked\n" == found[0].stdout
    assert found[0].signal != "SIGKILL"
    assert "SIGKILL" == found[1].signal


def test_a_job_has_the_documented_limits():
    standard, heavy = job_limits(), job_limits(HEAVY)

    assert (90, 30, 120) == (standard.wall, standard.grace, standard.cpu)
    assert (240, 60) == (heavy.wall, heavy.grace)
    assert (2**30, 100_000_000, 10) == (standard.memory, standard.file_size, standard.processes)


def test_memory_files_and_processes_are_limited(desk: SyncDesk):
    memory = desk.submit(Task.of("x = bytearray(2 * 2**30)\nx[::4096] = x[::4096]\nprint('no')"))
    size = desk.submit(
        Task.of("with open('f', 'wb') as f:\n    f.seek(100_000_001)\n    f.write(b'x')")
    )
    forks = desk.submit(Task.of("import os\nfor _ in range(30):\n    os.fork() or os._exit(0)"))

    assert memory.result(30).status in (Status.MEMORY, Status.ERROR)
    assert "no" not in memory.result(1).stdout
    assert Status.ERROR is size.result(30).status
    assert "file_size" == size.result(1).limit
    assert not forks.result(30).ok


def test_ten_processes_are_enough_for_numbers(desk: SyncDesk):
    from saggar.functions.codetools import environment

    code = """
import numpy as np, os
a = np.random.rand(300, 300)
print((a @ a).shape, os.environ["OPENBLAS_NUM_THREADS"])
"""
    task = Task.of(code, environment=environment("host"))
    policy = Policy(limits=job_limits(), host_packages=True)

    result = desk.submit(task, policy).result(30)

    assert "(300, 300) 1\n" == result.stdout, result.stderr


def test_a_job_reaches_no_network_and_no_secret_of_its_worker(desk: SyncDesk):
    code = """
import os, socket
print(sorted(os.environ), os.environ.get("DATABASE_URL"))
with socket.socket() as client:
    client.settimeout(2)
    client.connect(("127.0.0.1", PORT))
"""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        result = desk.submit(Task.of(code.replace("PORT", str(port)))).result(30)

    assert Status.ERROR is result.status
    assert "None" in result.stdout
    assert "SAGGAR" not in result.stdout
    assert "CELERY" not in result.stdout


def test_output_is_seen_while_it_is_printed(desk: SyncDesk):
    code = "import time\nprint('one', flush=True)\ntime.sleep(1)\nprint('two')"
    job = desk.submit(Task.of(code))

    found = [(event.kind, time.monotonic()) for event in job.events()]

    assert ["started", "output", "output", "finished"] == [kind for kind, _ in found]
    assert found[2][1] - found[1][1] > 0.5


def test_a_running_job_is_cancelled_within_a_second(desk: SyncDesk):
    job = desk.submit(Task.of("print('up', flush=True)\nimport time\ntime.sleep(60)"))
    for event in job.events():
        if event.kind == "output":
            break
    start = time.monotonic()

    job.cancel()
    result = job.result(10)

    assert Status.CANCELLED is result.status
    assert time.monotonic() - start < 1
    assert JobState.CANCELLED is job.job().state


def test_twenty_at_once_are_one_run(desk: SyncDesk):
    code = Task.of("import time, os\ntime.sleep(0.3)\nprint(os.urandom(8).hex())")

    with ThreadPoolExecutor(20) as pool:
        jobs = list(pool.map(lambda _: desk.submit(code, cache=True), range(20)))
    outputs = {job.result(30).stdout for job in jobs}
    later = desk.submit(code, cache=True)

    assert 1 == len(outputs)
    assert ["new"] + 19 * ["joined"] == sorted((job.came for job in jobs), reverse=True)
    assert "cached" == later.came
    assert outputs == {later.result(1).stdout}
    assert "new" == desk.submit(code, cache=True, tenant="other").came


def test_what_no_attempt_can_mend_becomes_a_dead_letter(desk: SyncDesk, broker: Embedded):
    job = desk.submit(Task.of("print(1)", secrets=("NOWHERE",)))

    with pytest.raises(NotFound, match="there is no NOWHERE"):
        job.result(30)
    (letter,) = deadletters.ls(desk.store)

    assert (job.id, 1, "refused") == (letter["job_id"], letter["attempts"], letter["error"]["kind"])
    told = _waited(desk, desk.of(job.id), 1)
    assert (False, "dead", job.id) == (told["success"], told["status"], told["task_id"])
    assert "there is no NOWHERE" in told["message"]
    alert = broker.state / "alert.json"
    await_that(lambda: alert.exists() and alert.stat().st_size)
    assert job.id == json.loads(alert.read_text())["job_id"]
    deadletters.replay(desk.store, job.id)
    with pytest.raises(NotFound):
        job.result(30)
    await_that(lambda: len(deadletters.ls(desk.store)) == 1)
    deadletters.drop(desk.store, job.id)
    assert [] == deadletters.ls(desk.store)


@pytest.mark.needs("redis-cli")
def test_dead_letters_are_readable_with_the_documented_command(desk: SyncDesk, broker: Embedded):
    job = desk.submit(Task.of("print(1)", secrets=("NOWHERE",)))
    with pytest.raises(NotFound):
        job.result(30)
    cli = ["redis-cli", "-s", str(broker.socket), "LRANGE", "dead_letter", "0", "-1"]
    said = subprocess.run(cli, capture_output=True, text=True, check=True).stdout
    letters = deadletters.ls(desk.store)
    deadletters.drop(desk.store, job.id)

    assert letters == [json.loads(line) for line in said.splitlines()]
    assert job.id == letters[0]["job_id"]


def test_ten_megabytes_do_not_pass_through_the_broker(desk: SyncDesk):
    before = desk.store.jobs.info("stats")["total_net_input_bytes"]

    result = desk.submit(Task.of("print('x' * 10_000_000)"), limits={"output": "12MB"}).result(30)

    assert 10_000_001 == len(result.stdout)
    assert desk.store.jobs.info("stats")["total_net_input_bytes"] - before < 3_000_000


def test_its_end_is_told_to_a_webhook(desk: SyncDesk):
    told: list[dict] = []
    heard = threading.Event()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            heard.set()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    job = desk.submit(Task.of("print(1)"), webhook=f"http://127.0.0.1:{server.server_port}/done")
    came = heard.wait(20)
    server.shutdown()
    thread.join()
    server.server_close()

    assert came
    assert (job.id, "done", "ok") == (told[0]["job_id"], told[0]["state"], told[0]["status"])


def drip(taken: list[socket.socket], over: threading.Event) -> None:
    """A byte for each now and then, which is no answer."""
    while not over.wait(0.5):
        for each in taken:
            with suppress(OSError):
                each.send(b"a")


def test_receivers_who_are_slow_hold_up_no_job(desk: SyncDesk):
    with socket.create_server(("127.0.0.1", 0)) as slow:
        hook = f"http://127.0.0.1:{slow.getsockname()[1]}/"
        for _ in range(3):  # more than the worker has hands
            desk.submit(Task.of("print(1)"), webhook=hook)
        slow.settimeout(20)
        over = threading.Event()
        with ExitStack() as held:
            taken = [held.enter_context(slow.accept()[0]) for _ in range(3)]
            dripping = threading.Thread(target=drip, args=(taken, over))
            dripping.start()
            held.callback(dripping.join)
            held.callback(over.set)
            found = [desk.submit(Task.of("print(2)")).result(30).stdout for _ in range(4)]

    assert ["2\n"] * 4 == found


def test_a_result_that_cannot_be_kept_is_no_lost_job(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(station, "FULL", 0)
    folder = tmp_path / "blobs"
    folder.mkdir()
    here = settings.replace(blobs=str(folder))
    at, desk = station.Station(here), SyncDesk(here)
    job = desk.submit(Task.of("print('x' * 200_000)"), queue="nobodys")
    folder.rmdir()
    folder.touch()
    at.execute(job.id, "one")
    found = job.job()
    with pytest.raises(PlatformError, match=r"the blobs in .* cannot be used"):
        desk.submit(Task.of("#" * 200_000))
    job.cancel()
    desk.close()
    at.close()

    assert (JobState.DELAYED, 1) == (found.state, found.attempt)
    assert found.failure is not None
    assert ("ours", "blobs-unavailable") == (found.failure.kind, found.failure.code)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/x", "http://[::1]/", "http://10.0.0.1/", "ftp://x/", "http:///", "x"]
)
def test_a_webhook_that_leads_inside_is_refused(url: str, broker: Embedded):
    desk = SyncDesk(Settings(broker_url=broker.url()))

    with pytest.raises(InvalidTask, match="webhook"):
        desk.submit(Task.of("print(1)"), webhook=url)
    desk.close()


def test_what_cannot_run_is_refused_before_it_is_queued(desk: SyncDesk):
    with pytest.raises(InvalidTask, match="a job may carry 1 MiB"):
        desk.submit(Task.of("#" * 2_000_000))
    with pytest.raises(PolicyDenied):
        desk.submit(Task.of("1"), Policy(accept=frozenset({"named"})))
    with pytest.raises(InvalidTask, match="queue"):
        desk.submit(Task.of("1"), queue="dead_letter")
    with pytest.raises(InvalidTask, match="queue"):
        desk.submit(Task.of("1"), queue="unacked")
    with pytest.raises(NotFound, match="no language named 'cobol'"):
        desk.submit(Task.of("1", language="cobol"))
    with pytest.raises(NotFound, match="no option named 'chache'"):
        desk.submit(Task.of("1"), chache=True)  # type: ignore[call-arg]


def test_a_broker_that_is_not_there_is_known_in_three_seconds():
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, never answers
        port = deaf.getsockname()[1]
        for url in (f"redis://:hush@127.0.0.1:{port}/0", "redis://:hush@127.0.0.1:1/0"):
            desk = SyncDesk(Settings(broker_url=url))
            start = time.monotonic()
            with pytest.raises(QueueUnavailable) as caught:
                desk.submit(Task.of("print(1)"))
            took = time.monotonic() - start
            desk.close()

            assert took < 3.2
            assert "redis://:***@127.0.0.1" in str(caught.value)
            assert "hush" not in str(caught.value)


def test_celerys_own_message_and_ours_are_alike(broker: Embedded):
    from celery import Celery

    from saggar.jobs import message
    from saggar.jobs.broker import celery_url

    app = Celery("alike", broker=celery_url(broker.url(5)), set_as_current=False)
    app.conf.task_default_queue = "alike"
    store = SyncDesk(Settings(broker_url=broker.url(5))).store
    app.send_task(
        "execute_code_async", kwargs={"job": "x"}, task_id="x", time_limit=30, soft_time_limit=20,
        ignore_result=True,
    )  # fmt: skip
    theirs = json.loads(store.jobs.rpop("alike"))
    ours = json.loads(message.envelope("execute_code_async", "alike", "x", {"job": "x"}, (30, 20)))
    app.close()
    store.close()

    assert ours["headers"].pop(message.OURS)
    for said in (theirs, ours):
        for varying in ("origin",):
            said["headers"].pop(varying)
        for varying in ("reply_to", "delivery_tag"):
            said["properties"].pop(varying)
    import base64

    assert json.loads(base64.b64decode(theirs.pop("body"))) == json.loads(
        base64.b64decode(ours.pop("body"))
    )
    assert theirs == ours


def test_the_document_is_kept_to_the_letter(desk: SyncDesk, settings: Settings, broker: Embedded):
    code = """
from saggar import CodeTools

result = CodeTools.execute_code(
    "import numpy as np\\nprint(np.array([1, 2, 3]).mean())", async_mode=False)
assert result["stdout"] == "2.0\\n", result
assert result["success"] is True

result = CodeTools.execute_code("print('Hello, World!')", async_mode=True)
assert result['success'] is True
assert 'Hello, World!' in result['stdout']
assert result['task_id'] is not None
assert result['execution_time_ms'] < 5000
for key in ("success stdout stderr returncode task_id code_hash execution_time_ms memory_used_mb"
            " retry_count timestamp worker_id status").split():
    assert result[key] is not None, key

again = CodeTools.execute_code("print('Hello, World!')", async_mode=True)
assert again["code_hash"] == result["code_hash"]
assert again["task_id"] == result["task_id"]

sent = CodeTools.execute_code("import time; time.sleep(1); print('later')",
    async_mode=True, wait_for_result=False)
assert sent["status"] == "submitted" and sent["success"] is None
assert CodeTools.get_task_result(sent["task_id"], timeout=30)["stdout"] == "later\\n"

slow = CodeTools.execute_code("import time; time.sleep(20)", timeout=1, async_mode=True)
assert (slow["success"], slow["status"]) == (False, "timeout"), slow
""".replace("from saggar import CodeTools", "from saggar.functions.codetools import CodeTools")
    env = {**os.environ, "CELERY_BROKER_URL": broker.url(), "SAGGAR_BLOBS": settings.blobs}

    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=50)


def test_no_worker_is_started_for_a_queue_that_it_would_not_read(tmp_path: Path):
    desk = SyncDesk(Settings(state_dir=tmp_path))
    job = desk.submit(Task.of("print(1)"), queue="mine")
    with pytest.raises(TimeoutError, match=r"no worker reads the queue mine; .* --queue=mine"):
        job.result(0.1)
    began = (tmp_path / spare.LOG).exists()
    desk.close()
    disown(tmp_path)

    assert not began


def test_without_a_worker_waiting_ends_with_the_reason(broker: Embedded):
    desk = SyncDesk(Settings(broker_url=broker.url(7)))
    job = desk.submit(Task.of("print(1)"))

    found = _waited(desk, job, 0.2)
    with pytest.raises(TimeoutError, match="no worker reads the queue code_execution; start one"):
        job.result(0.1)
    with pytest.raises(InvalidTask, match="timeout: wanted seconds as a number, found '5'"):
        job.result("5")  # type: ignore[arg-type]
    desk.close()

    assert ("pending", None) == (found["status"], found["success"])
    assert "no worker reads the queue code_execution" in found["message"]


def test_celerys_own_commands_answer(worker: Worker):
    ping = worker.celery("inspect", "ping")
    queues = worker.celery("inspect", "active_queues")

    assert "pong" in ping
    assert "'name': 'code_execution'" in queues
    assert "'name': 'code_execution_heavy'" in queues


def test_who_sends_the_documented_tasks_himself_is_answered(worker: Worker, desk: SyncDesk):
    code = """
from saggar.worker import app
found = app.send_task("execute_code_async", ["print('direct')"]).get(timeout=20)
assert found["stdout"] == "direct\\n" and found["success"], found
found = app.send_task("execute_code_heavy", kwargs={"code": "print('heavy')"}).get(timeout=20)
assert found["stdout"] == "heavy\\n", found
assert found["execution_time_ms"] < 30_000
assert app.send_task("health_check").get(timeout=20) == {
    "status": "healthy", "worker": "responsive"}
assert app.send_task("cleanup_old_results").get(timeout=20) == {"blobs": 0}
"""
    subprocess.run([sys.executable, "-c", code], env=worker.env, check=True, timeout=50)


def test_every_attempt_is_a_line_in_the_log(desk: SyncDesk, settings: Settings):
    job = desk.submit(Task.of("print(1)"))
    job.result(30)
    path = settings.log_file
    assert path is not None
    await_that(lambda: job.id in (path.read_text() if path.exists() else ""))
    line = next(line for line in path.read_text().splitlines() if job.id in line)
    said = json.loads(line[line.index("{") :])

    assert {"task_id", "code_hash", "success", "execution_time_ms", "memory_used_mb",
            "retry_count", "worker_id"} <= said.keys()  # fmt: skip


def test_how_it_stands_is_counted(desk: SyncDesk):
    desk.submit(Task.of("print(1)")).result(30)

    found = desk.store.ask(calls.counts(("code_execution", HEAVY)))

    assert found.totals["done:ok"] >= 1
    assert found.depth.keys() == {"code_execution", HEAVY}
    assert any(each["slots"] == 2 for each in found.workers.values())
    # Two may have one name, so their numbers belong to what tells them apart.
    assert {name.partition("#")[0] for name in found.workers} == {
        each["name"] for each in found.workers.values()
    }


def test_the_rules_for_alerts_are_about_what_a_running_worker_says(desk: SyncDesk):
    rules = (ROOT / "deploy" / "alerts.yml").read_text()
    desk.submit(Task.of("print(1)")).result(30)
    text, _ = metrics.render(desk.store.counts(("code_execution", HEAVY)))
    said = set(re.findall(r"^(\w+)[ {]", text.decode(), re.MULTILINE))
    named = set(re.findall(r"\b(?:saggar|celery)_[a-z_]+", rules))

    assert "celery_queue_depth" in named
    assert named <= said


async def test_a_desk_for_code_with_an_event_loop_does_the_same(settings: Settings, worker: Worker):
    desk = Desk(settings)
    first = await desk.submit(Task.of("print(1)\nprint('async')"), cache=True)
    result = await first.result(30)
    kinds = [event.kind async for event in first.events()]
    again = await desk.submit(Task.of("print(1)\nprint('async')"), cache=True)
    long = await desk.submit(Task.of("import time; time.sleep(60)"))
    await long.cancel()
    cancelled = await long.result(10)
    unread = await desk.submit(Task.of("print(1)"), queue="nobodys")
    with pytest.raises(TimeoutError, match="no worker reads the queue nobodys; start one"):
        await unread.result(0.1)
    await unread.cancel()
    state = (await again.job()).state
    await desk.aclose()

    assert "1\nasync\n" == result.stdout
    assert ["started", "output", "finished"] == kinds
    assert ("cached", first.id) == (again.came, again.id)
    assert JobState.DONE is state
    assert Status.CANCELLED is cancelled.status


def test_the_documented_commands_are_taken_literally(settings: Settings, broker: Embedded):
    words = ("--queue=code_execution_heavy", "--concurrency=2")
    elsewhere = settings.replace(broker_url=broker.url(9), result_backend=broker.url(10))

    with Worker(elsewhere, broker.state, *words, name="heavy") as heavy:
        desk = SyncDesk(elsewhere)
        ours = desk.submit(Task.of("print('heavy')"), queue=HEAVY)
        others = desk.submit(Task.of("print('light')"))
        result = ours.result(30)
        waiting = others.job().state
        said = heavy.celery("inspect", "active_queues")
        desk.close()

    assert "heavy\n" == result.stdout
    assert JobState.QUEUED is waiting
    assert "{'name': 'code_execution_heavy'" in said
    assert "'routing_key': 'code_execution'" not in said


def test_flower_watches_unmodified_and_sees_what_is_cancelled_as_revoked(
    settings: Settings, broker: Embedded
):
    """A broker named as redis-py spells a socket, for all of Celery's commands."""
    there = settings.replace(broker_url=broker.url(11), result_backend=broker.url(12))
    with Worker(there, broker.state, "-c", "1", name="watched") as worker:
        desk = SyncDesk(there)
        with watching(worker, broker.url(11), broker.url(12)) as port:
            first = desk.submit(Task.of("print(1)"))
            await_that(lambda: state_in_flower(port, first.id) == "SUCCESS")
            running = desk.submit(Task.of("print('up', flush=True)\nimport time\ntime.sleep(60)"))
            next(event for event in running.events() if event.kind == "output")
            queued = desk.submit(Task.of("print('never')"))
            queued.cancel()
            running.cancel()
            await_that(lambda: state_in_flower(port, running.id) == "REVOKED")
            await_that(lambda: state_in_flower(port, queued.id) == "REVOKED")
            revoked = worker.celery("inspect", "revoked")
            running_too = desk.submit(
                Task.of("print('up', flush=True)\nimport time\ntime.sleep(60)")
            )
            next(event for event in running_too.events() if event.kind == "output")
            queued_too = desk.submit(Task.of("print('never')"))
            fetched(port, f"/api/task/revoke/{queued_too.id}", b"")
            fetched(port, f"/api/task/revoke/{running_too.id}?terminate=true", b"")
            by_flower = [job.result(30).status for job in (running_too, queued_too)]
            watched = fetched(port, "/metrics")
        deadletters.replay(desk.store, queued.id)
        again = queued.result(20)
        attempts = running_too.job().attempt
        desk.close()

    assert [Status.CANCELLED] * 2 == by_flower
    assert 1 == attempts
    assert running.id in revoked
    assert queued.id in revoked
    assert b"flower" in watched
    assert "never\n" == again.stdout


@contextmanager
def watching(worker: Worker, broker_url: str, results: str) -> Iterator[int]:
    """Flower, once it listens; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "celery", "-A", "saggar.worker", "flower", f"--port={port}"]
    env = {
        **{name: value for name, value in worker.env.items() if name != spare.SETTINGS},
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": results,
        "FLOWER_UNAUTHENTICATED_API": "true",
    }
    with subprocess.Popen(
        argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as flower:
        try:
            await_that(lambda: b"OK" in fetched(port, "/healthcheck"))
            # Events from before it listens are not heard; a worker that it knows was heard.
            await_that(lambda: worker.name.encode() in fetched(port, "/workers?json=1"))
            yield port
        finally:
            flower.terminate()


def state_in_flower(port: int, task_id: str) -> str:
    found = fetched(port, f"/api/task/info/{task_id}")
    return str(json.loads(found)["state"]) if found else ""


def fetched(port: int, path: str, data: bytes | None = None) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=5) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def await_that(condition, within: float = 20) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        threading.Event().wait(0.02)
