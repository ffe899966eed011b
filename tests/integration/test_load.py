"""The load test runs as documented: some seconds of it, with a server and a worker of its own."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.conftest import missing

ROOT = Path(__file__).parents[2]
LOAD = "tests/load/test_code_execution.py"
ENVIRONMENT = {
    key: value
    for key, value in os.environ.items()
    if not key.startswith(("CELERY_", "SAGGAR_", "LOCUST_"))
}


@pytest.fixture
def address(tmp_path):
    """Where jobs are taken in, by a server with a broker and a worker of its own."""
    words = [sys.executable, "-m", "saggar", "serve", "--jobs-only", "--port", "0"]
    state = {"SAGGAR_STATE_DIR": str(tmp_path / "state")}
    with subprocess.Popen(
        words, env={**ENVIRONMENT, **state}, stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        said = next(line for line in serving.stdout if line.startswith("listening on "))
        address = said.split()[2]
        # The broker and the worker come with the first job; locust is to find them there.
        job = httpx.post(f"{address}/v1/jobs", json={"code": "print(1)"}, timeout=30).json()
        httpx.get(f"{address}{job['links']['result']}?wait=40", timeout=50).raise_for_status()
        yield address
        serving.send_signal(signal.SIGTERM)


def locust():
    """The command: one on PATH, else one that uv gets for this."""
    if found := shutil.which("locust"):
        return [found]
    uvx = [str(ROOT / "scripts" / "uv"), "tool", "run", "--quiet", "locust"]
    words = [*uvx, "--version"]
    tried = subprocess.run(words, capture_output=True, text=True, timeout=80, check=False)
    if tried.returncode:
        missing(f"no locust, and uv cannot get it: {tried.stderr[-300:]}")
    return uvx


@pytest.mark.timeout(180)
def test_a_short_load_is_answered_without_a_failure(address, tmp_path):
    words = ["-f", LOAD, f"--host={address}", "--headless", "--users", "4", "--spawn-rate", "4"]
    found = subprocess.run(
        [*locust(), *words, "--run-time", "8s", "--stop-timeout", "20", "--csv", tmp_path / "load"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    with (tmp_path / "load_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}

    assert 0 == found.returncode, found.stderr[-2000:]
    assert {"/v1/jobs", "/v1/jobs/ID/result", "submit to result", "Aggregated"} == set(rows)
    assert "0" == rows["Aggregated"]["Failure Count"]
    assert int(rows["submit to result"]["Request Count"]) >= 8


def test_without_locust_there_is_nothing_in_it():
    """Whoever runs all of pytest does not need it."""
    code = f"import runpy, sys; sys.modules['locust'] = None; print(*runpy.run_path({LOAD!r}))"
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)

    assert "HttpUser" in found.stdout
    assert "Submitter" not in found.stdout
