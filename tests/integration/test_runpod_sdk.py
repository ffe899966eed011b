"""
RunPod's own SDK, as its users have it: it takes the handler, and its client asks our server.

It brings ninety packages that nothing else here needs, so it is in an environment of its own.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import unquote_plus

import httpx
import pytest
from tests.conftest import ROOT

PATIENCE = 60
pytestmark = pytest.mark.timeout(240)
WORKER = """
import runpod
from saggar.compat.runpod import handler
runpod.serverless.start({"handler": handler})
"""
CLIENT = """
import json, sys, runpod
runpod.api_key, runpod.endpoint_url_base = "any", sys.argv[1]
endpoint, event = runpod.Endpoint("any"), json.loads(sys.argv[2])
failing = {**event, "function_code": "def f(x): 1 / 0"}
endless = {**event, "function_code": "def f(x):\\n    while True: pass"}
print(endpoint.run_sync({"input": event})["json_result"])
job = endpoint.run({"input": event})
print(job.output(timeout=60)["json_result"], job.status())
job = endpoint.run({"input": failing})
print(job.output(timeout=60)["success"], job.status())
job = endpoint.run({"input": endless})
print(job.cancel()["status"], job.status())
print([part["json_result"] for part in endpoint.run({"input": event}).stream()])
print(endpoint.health()["jobs"], endpoint.purge_queue()["removed"])
"""
EVENT = {
    "function_name": "f",
    "function_code": "def f(x):\n    print('asked')\n    return x + 1",
    "args": [41],
    "serialization_format": "json",
}


@pytest.fixture(scope="module")
def sdk(tmp_path_factory):
    """A Python that has it, and us."""
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "worker.py").write_text(WORKER)
    (folder / "client.py").write_text(CLIENT)
    uv, python = [str(ROOT / "scripts" / "uv"), "--quiet"], str(folder / "venv" / "bin" / "python")
    subprocess.run([*uv, "venv", "--python", sys.executable, str(folder / "venv")], check=True)
    wanted = ["runpod>=1.7", "--editable", f"{ROOT}[server]"]
    subprocess.run([*uv, "pip", "install", "--python", python, *wanted], check=True)

    @contextmanager
    def begun(*words, **variables):
        surroundings = {k: v for k, v in os.environ.items() if not k.startswith("RUNPOD_")}
        log = folder / "log"
        with log.open("w") as said:
            process = subprocess.Popen(
                [python, *words],
                cwd=folder,
                env={**surroundings, "PYTHONUNBUFFERED": "1", **variables},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()

    return begun


def ended(running):
    """What it has said, and how it ended."""
    with running as (process, log):
        return process.wait(PATIENCE), log.read_text()


def address(process, log, mark):
    """Where a server answers, once it has said so."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(mark + r" (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        (EVENT["function_code"], 0, "'json_result': 42"),
        ("def f(x):\n    import os\n    os._exit(3)", 1, "Job local_test failed with error"),
    ],
)
def test_its_local_mode_gives_the_handler_an_event(sdk, code, exit_code, said):
    event = json.dumps({"input": {**EVENT, "function_code": code}})
    found, text = ended(sdk("worker.py", "--test_input", event))

    assert exit_code == found, text
    assert said in text


def test_its_own_server_has_the_handler_answer(sdk):
    with sdk("worker.py", "--rp_serve_api", "--rp_api_port", "0") as (process, log):
        base = address(process, log, "Uvicorn running on")
        with httpx.Client(base_url=base, timeout=PATIENCE) as client:
            waited = client.post("/runsync", json={"input": EVENT}).json()
            begun = client.post("/run", json={"input": EVENT}).json()
            polled = client.post(f"/status/{begun['id']}").json()

    assert [42, 42] == [found["output"]["json_result"] for found in (waited, polled)]


def test_its_client_is_answered_by_our_server(sdk):
    server = [sys.executable, "-m", "saggar.runpod", "--rp_serve_api", "--rp_api_port", "0"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        try:
            base = process.stdout.readline().split()[-1]
            found, text = ended(sdk("client.py", f"{base}/v2", json.dumps(EVENT)))
        finally:
            process.terminate()

    assert 0 == found, text
    *said, health = text.splitlines()
    assert ["42", "42 COMPLETED", "False FAILED", "CANCELLED CANCELLED", "[42]"] == said
    assert "{'completed': 3, 'failed': 1, 'inProgress': 0, 'inQueue': 0, 'retried': 0} 0" == health


class Jobs(ThreadingHTTPServer):
    """What RunPod's platform is for a worker: who gives it jobs, and takes what comes of them."""

    daemon_threads = True

    def __init__(self, *jobs):
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.jobs: SimpleQueue[Any] = SimpleQueue()
        self.done: SimpleQueue[Any] = SimpleQueue()
        for job in jobs:
            self.jobs.put(job)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v2/any"


class Endpoint(BaseHTTPRequestHandler):
    """What a worker asks there."""

    server: Jobs
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if "job-take" in self.path:
            with suppress(Empty):
                self._say(200, self.server.jobs.get_nowait())
                return
        self._say(204, None)

    def do_POST(self):
        said = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        if "job-done" in self.path:
            self.server.done.put(json.loads(said if said.startswith("{") else unquote_plus(said)))
        self._say(200, {})

    def _say(self, code, document):
        said = b"" if document is None else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        """Nobody reads it."""


def test_where_runpod_says_so_it_takes_jobs_and_gives_them_to_the_handler(sdk):
    with Jobs({"id": "job-1", "input": EVENT}) as platform:
        threading.Thread(target=platform.serve_forever, daemon=True).start()
        base = platform.url
        taking = sdk(
            "-m",
            "saggar.runpod",
            RUNPOD_WEBHOOK_GET_JOB=f"{base}/job-take/$ID?gpu=none",
            RUNPOD_WEBHOOK_POST_OUTPUT=f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            RUNPOD_WEBHOOK_PING=f"{base}/ping/$RUNPOD_POD_ID?gpu=none",
            RUNPOD_POD_ID="pod-1",
            RUNPOD_AI_API_KEY="any",
            RUNPOD_SKIP_AUTO_SYSTEM_CHECKS="true",
            RUNPOD_SKIP_GPU_CHECK="true",
        )
        with taking as (_, log):
            try:
                found = platform.done.get(timeout=PATIENCE)
            except Empty:
                raise AssertionError(log.read_text()) from None
            finally:
                platform.shutdown()

    assert (True, 42) == (found["output"]["success"], found["output"]["json_result"])
