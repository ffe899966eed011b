"""`ContainerExecutor`: an image that speaks the container protocol, called with JSON."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import missing

from saggar.errors import (
    ExecutionFailed,
    ExecutionTimeout,
    InvalidInput,
    InvalidOutput,
    InvalidTask,
    PrepareFailed,
)
from saggar.functions.container import ContainerExecutor
from saggar.platform import Platform, _stop

IMAGE = "saggar/runner-python:latest"
EXECUTE = """
import os, sys, time

def execute_function(asked):
    print("noise on stdout")
    if asked == "boom":
        raise ValueError("no")
    if asked == "slow":
        time.sleep(60)
    if asked == "flood":
        return "x" * (5 << 20)
    if asked == "crash":
        os.kill(os.getpid(), 11)
    if asked == "uid":
        return [os.getuid(), os.path.exists("/var/run/docker.sock")]
    if asked == "net":
        lines = open("/proc/net/dev").read().splitlines()[2:]
        return [line.split(":")[0].strip() for line in lines]
    if asked == "write":
        open("/app/x", "w")
    if asked is None:
        return None
    return {"count": len(asked), "sum": float(sum(asked)), "mean": sum(asked) / len(asked)}
"""
ROOT = Path(__file__).parents[2]
NUMBERS = {"items": {"type": "number"}}
ANSWER = json.dumps({"ok": True, "output": 1})


@dataclass
class Stats:
    count: int
    sum: float
    mean: float


@cache
def silence():
    """Why there is no engine with the image; empty when there is."""

    async def probe():
        async with Platform() as platform:
            return (await platform.probe())["docker"]

    found = anyio.run(probe)
    if not found.available:
        return "; ".join(found.reasons)
    words = ["docker", "image", "inspect", IMAGE]
    known = subprocess.run(words, capture_output=True, check=False).returncode == 0
    return "" if known else f"no image {IMAGE}: make build-runner-python"


@pytest.fixture(autouse=True)
def _engine():
    if reason := silence():
        missing(reason)


@pytest.fixture(scope="module", autouse=True)
def _nothing_stays():
    """The platform of this process keeps containers waiting; those of other tests count them."""
    yield
    _stop()


@pytest.fixture
def module(tmp_path):
    file = tmp_path / "execute.py"
    file.write_text(EXECUTE)
    for folder in (file, *file.parents[:3]):
        folder.chmod(0o755)
    return [(str(file), "/app/execute.py")]


def containers():
    words = ["docker", "ps", "--all", "--quiet", "--filter", "label=saggar.owner"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_typed_call_is_answered_by_the_image(module):
    stats = ContainerExecutor[list[float], Stats](IMAGE, mounts=module)

    assert Stats(5, 15.0, 3.0) == stats([1, 2, 3, 4, 5])


async def test_it_is_answered_in_a_running_loop_as_well(module):
    stats = ContainerExecutor[list[float], Stats](IMAGE, mounts=module)

    assert Stats(2, 3.0, 1.5) == await stats.aexecute([1, 2])


def test_null_is_an_input_and_an_output(module):
    assert ContainerExecutor(IMAGE, mounts=module)(None) is None


def test_what_is_not_allowed_in_never_reaches_a_container(module):
    stats = ContainerExecutor[list[Any], Stats](IMAGE, mounts=module, schema_in=NUMBERS)

    with pytest.raises(InvalidInput, match='input validation failed: at /1: "x" is not of type'):
        stats([1, "x"])


def test_what_is_not_allowed_out_is_told_with_its_place(module):
    wanted = {"properties": {"count": {"type": "string"}}}
    stats = ContainerExecutor(IMAGE, mounts=module, schema_out=wanted)

    with pytest.raises(InvalidOutput, match="output validation failed: at /count: 2 is not of"):
        stats([1, 2])


def test_what_a_function_raises_is_told_with_its_traceback(module):
    with pytest.raises(ExecutionFailed, match=r"execution failed: .*ValueError: no") as told:
        ContainerExecutor(IMAGE, mounts=module)("boom")

    assert 'raise ValueError("no")' in told.value.result.error.traceback


def test_an_image_without_a_function_says_how_to_give_it_one():
    with pytest.raises(ExecutionFailed, match="NO_EXECUTE_FUNCTION: No execution function"):
        ContainerExecutor(IMAGE)(1)


def test_a_call_that_takes_too_long_leaves_no_container(module):
    before = containers()
    with pytest.raises(ExecutionTimeout, match="execution timed out after 1s"):
        ContainerExecutor(IMAGE, mounts=module, timeout=1, env={"MARK": "slow"})("slow")

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _serving("time.sleep", before):
        pass
    assert not _serving("time.sleep", before)


def _serving(text, before):
    """Whether a container that is new runs something of that text."""
    for container in containers() - before:
        words = ["docker", "top", container, "-o", "args"]
        if text in subprocess.run(words, capture_output=True, text=True, check=False).stdout:
            return True
    return False


def test_an_answer_that_is_too_large_is_named_so(module):
    with pytest.raises(ExecutionFailed, match=r"output|OUTPUT_TOO_LARGE"):
        ContainerExecutor(IMAGE, mounts=module)("flood")


def test_a_crash_is_told_as_one(module):
    with pytest.raises(ExecutionFailed, match=r"killed|SIGSEGV"):
        ContainerExecutor(IMAGE, mounts=module)("crash")


def test_inside_is_an_ordinary_user_without_a_network_and_without_a_writable_root(module):
    call = ContainerExecutor(IMAGE, mounts=module)

    assert [1000, False] == call("uid")
    assert ["lo"] == call("net")
    with pytest.raises(ExecutionFailed, match="Read-only file system"):
        call("write")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["echo", "hello"], r"InvalidAnswer: .*hello"),
        (["sh", "-c", 'echo \'{"ok":true,"output":1}\'; echo \'{"ok":true,"output":2}\''], "two"),
        (["true"], "no answer on stdout"),
        (["sh", "-c", 'echo \'{"ok":"yes"}\''], "neither true nor false"),
    ],
)
def test_what_is_no_answer_is_refused_with_what_it_was(command, said):
    with pytest.raises(ExecutionFailed, match=said):
        ContainerExecutor(IMAGE, cmd=command)(1)


def test_any_program_that_speaks_the_protocol_will_do():
    answer = json.dumps({"ok": True, "output": {"said": "hello"}})

    assert {"said": "hello"} == ContainerExecutor(IMAGE, cmd=["echo", answer])(1)


def test_the_example_prints_what_it_says():
    words = [sys.executable, "examples/executors/container.py"]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)

    assert ("count 5, sum 15.0, mean 3.0\n", "") == (ran.stdout, ran.stderr)


def test_an_image_that_is_not_there_says_how_to_make_it():
    with pytest.raises(PrepareFailed, match=r"saggar/runner-nonesuch.*make build-runner"):
        ContainerExecutor("saggar/runner-nonesuch:latest")(1)


def test_an_executor_without_an_image_is_refused():
    with pytest.raises(InvalidTask, match="container image is required"):
        ContainerExecutor("")


def test_somebody_else_starts_somewhere_else(module):
    command = ["sh", "-c", 'printf \'{"ok":true,"output":"%s %s"}\' "$(id -u)" "$PWD"']
    call = ContainerExecutor(IMAGE, cmd=command, user=1234, workdir="/usr")

    assert "1234 /tmp/work" == call(1)
    with pytest.raises(InvalidTask, match=r"environment\.user"):
        ContainerExecutor(IMAGE, user=0)


def test_the_images_own_program_starts_where_it_is_told():
    with pytest.raises(ExecutionFailed, match="NO_EXECUTE_FUNCTION"):
        ContainerExecutor(IMAGE, workdir="/usr")(1)


def test_a_root_that_may_be_written_to_is_asked_for():
    command = ["sh", "-c", 'touch /app/x && printf \'{"ok":true,"output":1}\'']

    assert 1 == ContainerExecutor(IMAGE, cmd=command, read_only_fs=False)(1)


def test_an_image_that_is_missing_is_built_once(tmp_path):
    (tmp_path / "execute.py").write_text("def execute_function(given): return [given]\n")
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY execute.py /app/execute.py\n")
    image = "saggar-test/built-once:latest"
    subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=False)
    try:
        assert [7] == ContainerExecutor(image, build=tmp_path)(7)
        assert [8] == ContainerExecutor(image, build="/nowhere")(8)
        with pytest.raises(PrepareFailed, match="cannot be built"):
            ContainerExecutor("saggar-test/never-built:latest", build="/nowhere")
    finally:
        subprocess.run(
            ["docker", "image", "rm", "--force", image], capture_output=True, check=False
        )
