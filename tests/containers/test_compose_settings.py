"""
From the generated compose file to the documents' worked example: two instances and their manager
on a real engine, each container as the file says.

Compose itself need not be here: `docker run` is given what stands in the file. Only the ports on
this machine are others, as the documented ones may be taken.
"""

import json
import time
import uuid
from contextlib import contextmanager

import httpx
import pytest
import yaml
from tests.conftest import missing, require
from tests.containers.test_runners import docker, present, silence

from saggar.cli import main

UTILITIES = {
    "data_processing.py": """\
def process_list(data):
    return [x * 2 for x in data if x > 0]

def calculate_stats(numbers):
    return {
        'sum': sum(numbers),
        'avg': sum(numbers) / len(numbers),
        'count': len(numbers)
    }

print("Data processing utilities loaded")
""",
    "formatters.py": """\
def format_currency(amount):
    return f"${amount:,.2f}"

def format_percentage(value):
    return f"{value:.1f}%"

print("Formatters loaded")
""",
}
# As it is printed, with line breaks inside the text.
BODY = r"""{
    "code": "
data = [1, -2, 3, 4, -1, 5]
processed = process_list(data)
stats = calculate_stats(processed)
print(f\"Processed: {processed}\")
print(f\"Stats: {stats}\")
print(f\"Total: {format_currency(stats[\"sum\"])}\")
"}"""
PRINTED = """\
Processed: [2, 6, 8, 10]
Stats: {'sum': 26, 'avg': 6.5, 'count': 4}
Total: $26.00
"""
JSON = {"content-type": "application/json"}
DEADLINE = 40


@pytest.fixture(autouse=True)
def _engine():
    require("docker")
    if reason := silence():
        missing(f"no container engine answers: {reason}")
    present("saggar/manager", "build-manager")


def succeed(*words):
    found = docker(*words)
    assert 0 == found.returncode, found.stderr.decode()
    return found.stdout.decode().strip()


def options(service, volumes):
    """What of a service is an option of `docker run`, with nothing left out."""
    given = dict(service)
    for done in ("image", "pull_policy", "depends_on", "restart", "command"):
        given.pop(done, None)
    words = ["--read-only"] * given.pop("read_only") + ["--init"] * given.pop("init")
    several = {"cap_drop": "cap-drop", "security_opt": "security-opt", "tmpfs": "tmpfs"}
    for name, option in several.items():
        words += [f"--{option}={value}" for value in given.pop(name)]
    single = {"pids_limit": "pids-limit", "mem_limit": "memory", "cpus": "cpus"}
    words += [f"--{single[name]}={given.pop(name)}" for name in single if name in given]
    variables = {k: v for k, v in given.pop("environment").items() if v is not None}
    words += [f"--env={name}={value}" for name, value in variables.items()]
    words += [f"--label={name}={value}" for name, value in given.pop("labels", {}).items()]
    for port in given.pop("ports"):
        address, _, inner = port.split(":")
        words.append(f"--publish={address}::{inner}")
    for volume in given.pop("volumes", ()):
        source, _, rest = volume.partition(":")
        words.append(f"--volume={volumes.get(source, source)}:{rest}")
    assert {} == given, "the test translates all of it"
    return words


@contextmanager
def running(folder, *words):
    """The containers of a generated file; the address of its manager."""
    files = ["-o", str(folder / "out.yml"), "-c", str(folder / "list.json")]
    assert 0 == main(["compose", *words, *files])
    (folder / "list.json").chmod(0o644)
    made = yaml.safe_load((folder / "out.yml").read_text())
    mark = f"saggar-test-{uuid.uuid4().hex[:8]}"
    succeed("network", "create", mark)
    try:
        for name, service in made["services"].items():
            volumes = {volume: f"{mark}-{volume}" for volume in made["volumes"]}
            placed = ["--network", mark, "--network-alias", name, "--name", f"{mark}-{name}"]
            image = [service["image"], *service.get("command", ())]
            succeed("run", "-d", *placed, *options(service, volumes), *image)
        published = succeed("port", f"{mark}-manager", "5000/tcp").splitlines()[0]
        yield f"http://{published}", mark
    finally:
        names = [f"{mark}-{name}" for name in made["services"]]
        docker("rm", "--force", "--volumes", *names)
        docker("volume", "rm", "--force", *(f"{mark}-{volume}" for volume in made["volumes"]))
        docker("network", "rm", mark)


def wait_for(client, free):
    """Until so many are free."""
    end, found = time.monotonic() + DEADLINE, None
    while time.monotonic() < end:
        try:
            found = client.get("/status").json()
        except httpx.TransportError as exc:
            found = exc
        else:
            if found["available_containers"] == free:
                return
        time.sleep(0.1)
    pytest.fail(f"still {found}")


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "my_utilities"
    folder.mkdir(mode=0o755)
    for name, text in UTILITIES.items():
        (folder / name).write_text(text)
    # Whoever reads it inside is another user.
    for above in (folder, *folder.parents):
        if above.is_relative_to("/tmp") and above != above.parent and str(above) != "/tmp":
            above.chmod(above.stat().st_mode | 0o055)
    return folder


def client_of(address):
    return httpx.Client(base_url=address, trust_env=False, timeout=DEADLINE)


def test_the_worked_example_as_it_is_printed(tmp_path, code):
    present("python", "build-instance")
    words = ["--mountable-volumes", str(code), "--num-containers", "2", "--types", "python:2"]
    with running(tmp_path, *words) as (address, mark), client_of(address) as client:
        wait_for(client, 2)
        answer = client.post("/session/0/execute", content=BODY, headers=JSON)

        assert 200 == answer.status_code
        assert [{"type": "stream", "name": "stdout", "text": PRINTED}] == answer.json()["outputs"]
        log = docker("logs", f"{mark}-executor-000").stdout.decode()
        assert "Data processing utilities loaded\nFormatters loaded" in log

        # Taken back, restarted, and the mounted code is there again.
        assert 200 == client.post("/deallocate/0").status_code
        wait_for(client, 2)
        gone = client.post("/session/0/execute", json={"code": "processed"}).json()["outputs"]
        assert "NameError" == gone[-1]["name"]
        again = client.post("/session/0/execute", json={"code": "process_list([1])"}).json()
        assert {"text/plain": "[2]"} == again["outputs"][-1]["data"]


def test_instances_of_two_types_behind_one_manager(tmp_path, code):
    present("python", "build-instance")
    present("node", "build-instance-node")
    (code / "twice.js").write_text("function twice(x) { return 2 * x; }")
    words = ["-m", str(code), "-n", "2", "-t", "python:1,node:1"]
    with running(tmp_path, *words) as (address, mark), client_of(address) as client:
        wait_for(client, 2)
        given = client.post("/allocate", params={"container_type": "node"}).json()
        found = client.post(f"/session/{given['container_id']}/execute", json={"code": "twice(21)"})
        assert {"text/plain": "42"} == found.json()["outputs"][-1]["data"]

        # The manager is killed and comes back; who holds what is in its volume.
        docker("kill", f"{mark}-manager")
        succeed("start", f"{mark}-manager")
        published = succeed("port", f"{mark}-manager", "5000/tcp").splitlines()[0]
        with client_of(f"http://{published}") as later:
            wait_for(later, 1)
            held = later.get("/status").json()["allocated_container_ids"]
            assert [given["container_id"]] == held


def test_a_container_of_it_can_do_little(tmp_path, code):
    present("node", "build-instance-node")
    with running(tmp_path, "-n", "1", "-t", "node:1", "-m", str(code)) as (_, mark):
        inside = json.loads(succeed("inspect", f"{mark}-executor-000"))[0]["HostConfig"]

        assert (256 << 20, 250_000_000) == (inside["Memory"], inside["NanoCpus"])
        for path in ("/code/x", "/app/x", "/x"):
            refused = docker("exec", f"{mark}-executor-000", "touch", path)
            assert refused.returncode != 0
        status = succeed("exec", f"{mark}-executor-000", "cat", "/proc/1/status")
        assert "CapBnd:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
