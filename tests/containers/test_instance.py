"""The instance's image, closed as compose closes it: read-only, no capabilities, little of all."""

import json
import time
from contextlib import contextmanager

import httpx
import pytest
from tests.conftest import missing, require
from tests.containers.test_runners import docker, silence
from tests.unit.server.serving import ROOT

IMAGE = "python"
EXAMPLE = ROOT / "examples" / "instance"
CLOSED = (
    *("--read-only", "--tmpfs", "/tmp:size=64m,mode=1777", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--pids-limit", "256"),
    *("--memory", "256m", "--memory-swap", "256m", "--cpus", "0.5"),
)
PRINTED = b"""{
    "code": "
data = [1, -2, 3, 4, -1, 5]
processed = process_list(data)
stats = calculate_stats(processed)
print(f\\"Processed: {processed}\\")
print(f\\"Stats: {stats}\\")
print(f\\"Total: {format_currency(stats[\\"sum\\"])}\\")
"}"""
"""As the guide for instances prints it, quotes inside quotes included: Python 3.12 takes them."""
INSIDE = """
import os, socket
def tried(call):
    try:
        return call()
    except OSError as exc:
        return exc.strerror
print(tried(lambda: open('/proc/1/environ').read()))
print(tried(lambda: os.kill(1, 0)))
print(tried(lambda: socket.create_connection(('127.0.0.1', 8432), 1)))
print(tried(lambda: open('/app/main.py', 'a')))
"""


@pytest.fixture(scope="module", autouse=True)
def _image():
    require("docker")
    if reason := silence():
        missing(f"no container engine answers: {reason}")
    title = '{{index .Config.Labels "org.opencontainers.image.title"}}'
    found = docker("image", "inspect", "--format", title, IMAGE)
    # A registry has another image of this name.
    if found.stdout.strip() != b"saggar instance":
        missing(f"no image {IMAGE} of ours: make build-instance")


@contextmanager
def instance(*options, headers=None):
    words = ("run", "--detach", "--rm", "--publish", "127.0.0.1::8432", *CLOSED, *options, IMAGE)
    started = docker(*words)
    assert started.returncode == 0, started.stderr.decode()
    name = started.stdout.decode().strip()
    try:
        address = docker("port", name, "8432").stdout.decode().split()[0]
        with httpx.Client(base_url=f"http://{address}", headers=headers, timeout=30) as client:
            until_ready(client, name)
            yield client, name
    finally:
        docker("kill", name)


def until_ready(client, name):
    deadline = time.monotonic() + 40
    said = "nothing"
    while time.monotonic() < deadline:
        try:
            said = client.get("/ready").json()
        except httpx.TransportError as exc:
            said = repr(exc)
        else:
            if said.get("ready"):
                return
    raise AssertionError(said, docker("logs", name).stdout.decode())


def execute(client, code):
    return client.post("/execute", json={"code": code}).json()["outputs"]


def test_the_documents_example_gives_what_the_document_says():
    mount = ("--volume", f"{EXAMPLE / 'my_utilities'}:/code:ro")
    with instance(*mount) as (client, name):
        headers = {"Content-Type": "application/json"}
        answer = client.post("/execute", content=PRINTED, headers=headers)
        log = docker("logs", name).stdout.decode()
        checked = docker("exec", name, "python", "main.py", "--check").returncode

    (printed,) = answer.json()["outputs"]
    assert [
        "Processed: [2, 6, 8, 10]",
        "Stats: {'sum': 26, 'avg': 6.5, 'count': 4}",
        "Total: $26.00",
    ] == printed["text"].splitlines()
    assert "Data processing utilities loaded\nFormatters loaded" in log
    assert "walls: " in log.splitlines()[0]
    assert 0 == checked


def test_the_folder_may_be_elsewhere():
    mount = ("--volume", f"{EXAMPLE / 'my_utilities'}:/data:ro", "--env", "WORKSPACE_FOLDER=/data")
    with instance(*mount) as (client, _):
        assert ["result"] == [each["type"] for each in execute(client, "process_list([1])")]


def test_what_runs_inside_reaches_neither_its_server_nor_the_key():
    key = {"X-API-Key": "a-key-of-this-test"}
    with instance("--env", f"SAGGAR_KEY={key['X-API-Key']}", headers=key) as (client, _):
        (printed,) = execute(client, INSIDE)
        refused = httpx.get(client.base_url.join("/ready"))

    assert 401 == refused.status_code
    environ, signalled, connected, written = printed["text"].splitlines()
    assert {"Permission denied", "Operation not permitted"} >= {environ, signalled}
    assert "Address family not supported by protocol" == connected
    assert written in {"Permission denied", "Read-only file system"}


@pytest.mark.parametrize("engine", ["shell", "kernel"])
def test_where_namespaces_are_allowed_it_is_a_jail_for_either_engine(engine):
    unconfined = [
        word
        for wall in ("seccomp", "systempaths", "apparmor")
        for word in ("--security-opt", f"{wall}=unconfined")
    ]
    asked = {
        "EXECUTION_ISOLATION": "jail",
        "EXECUTION_BEST_EFFORT": "cpu_share",
        "SAGGAR_ENGINE": engine,
    }
    variables = [word for name in asked for word in ("--env", f"{name}={asked[name]}")]
    with instance(*unconfined, *variables) as (client, name):
        log = docker("logs", name).stdout.decode()

        assert log.startswith("walls: jail; limits that may go unenforced: cpu_share\n")
        assert [{"type": "result", "data": {"text/plain": "2"}}] == execute(client, "1 + 1")


def test_walls_that_cannot_be_had_are_a_reason_not_to_start():
    ran = docker("run", "--rm", *CLOSED, "--env", "EXECUTION_ISOLATION=jail", IMAGE)

    assert 70 == ran.returncode
    assert b"jail" in ran.stderr


def test_it_outlives_what_eats_its_memory_and_stops_when_it_is_asked_to():
    with instance() as (client, name):
        *_, eaten = execute(client, "hoard = [bytearray(1 << 20) for _ in range(400)]")
        after = execute(client, "1 + 1")
        begun = time.monotonic()
        docker("stop", "--time", "20", name)
        took = time.monotonic() - begun

    assert "error" == eaten["type"], eaten
    assert "memory" in json.dumps(eaten).lower()
    assert [{"type": "result", "data": {"text/plain": "2"}}] == after
    assert took < 15
