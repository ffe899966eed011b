"""A small application behind our doors, and a real server of it in a process of its own."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import Request

import saggar.errors
from saggar.server.app import create_app
from saggar.server.auth import Doors
from saggar.server.body import Json
from saggar.server.serve import serve
from saggar.server.stream import Lines, while_connected

ROOT = Path(__file__).parents[3]
KEY = "a-key-of-this-test"


def application(doors, lifespan=None):
    """Echoes, failures of every kind, answers that never end."""
    app = create_app("small", doors, lifespan, raw=("/raw/",))
    app.add_api_route("/echo", echo, methods=["POST"])
    app.add_api_route("/raw/length", length, methods=["POST"])
    app.add_api_route("/number", number)
    app.add_api_route("/fail/{name}", fail)
    app.add_api_route("/wait", wait, response_model=None)
    app.add_api_route("/waited", waited)
    return app


async def echo(document: Json):
    return document


async def length(request: Request):
    return len(await request.body())


async def number(wanted: int):
    return wanted


async def fail(name: str):
    raise getattr(saggar.errors, name, RuntimeError)(f"{name} of this test")


async def wait(request: Request, *, stream: bool = False):
    """Never answers, and remembers whether that was ended from outside."""

    async def endless():
        request.app.state.waiting = True
        try:
            yield {"type": "begun"}
            await asyncio.sleep(3600)
        finally:
            request.app.state.waiting = False

    async def forever():
        async for _ in endless():
            pass

    if stream:
        return Lines(endless(), lambda exc: {"error": str(exc)}, keepalive=0.05)
    await while_connected(request, forever)
    return None


async def waited(request: Request):
    return getattr(request.app.state, "waiting", None)


def called(doors, **options):
    """A client of the application without a network between them."""
    transport = httpx.ASGITransport(application(doors), raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport, **{"base_url": "http://localhost:8000", **options}
    )


@dataclass
class Server:
    """One that runs."""

    process: subprocess.Popen
    url: str

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def end(self):
        """Its exit code, after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextmanager
def server(*words, command=("-m", "tests.unit.server.serving"), env=None, log=None):
    """A server that has said where it listens, ended afterwards; what it says goes to `log`."""
    with log.open("w") if log is not None else nullcontext(subprocess.PIPE) as stdout:
        process = subprocess.Popen(
            [sys.executable, *command, *words],
            stdout=stdout,
            text=True,
            cwd=ROOT,
            env=os.environ | (env or {}),
        )
    try:
        yield Server(process, announced(process) if log is None else written(process, log))
    finally:
        process.kill()
        process.communicate()


def announced(process):
    """The URL that it prints, after whatever else it has to say."""
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("listening on "):
            return line.split()[-1]
    raise AssertionError("".join(said) or "it said nothing")


def written(process, log):
    """The same, where all that it says goes to a file."""
    deadline = time.monotonic() + 30
    while "listening on " not in (said := log.read_text()):
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
    return said.partition("listening on ")[2].split()[0]


if __name__ == "__main__":
    host, port, *key = sys.argv[1:]
    at = Doors(key=key[0] if key else None, patience=1.0)
    serve(application(at), host, int(port), at)
