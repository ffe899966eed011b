"""Sessions: opening one, a cell, what an idle one weighs, many at once; beside ipykernel."""

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio

from saggar.cli.bench.ours import MB, judged, numpy_environment
from saggar.cli.bench.processes import descendants, proportional
from saggar.cli.bench.row import Effort, Row, quantile, timed
from saggar.config import Settings
from saggar.engine.session import Session
from saggar.errors import PlatformError
from saggar.model.policy import Policy
from saggar.platform import Platform

CELL = "1 + 1"
PAUSE = 0.1
"""Seconds between two openings: as somebody who does not saturate the machine meets them."""
MANY = 200
BUSY = "while True: pass"
IMPORT = "import numpy"


def sessions(effort: Effort) -> list[Row]:
    """What a session costs to open, to use, to interrupt and to lose."""
    return anyio.run(_sessions, effort)


async def _sessions(effort: Effort) -> list[Row]:
    async with Platform() as platform:
        opened = [await _opened(platform) for _ in range(effort.starts * 2)]
        async with await platform.open_session() as session:
            cells = await _cells(session, effort.repeated)
            interrupts = [await _interrupted(session) for _ in range(effort.starts)]
            deaths = [await _died(session) for _ in range(effort.starts)]
    return [
        judged(
            timed("new session, its first cell answered, warm", "open_session(); run", opened),
            within=10e-3,
        ),
        judged(timed("a cell, in process", 'await session.run("1 + 1")', cells), within=0.5e-3),
        judged(timed("a busy loop interrupted", "session.interrupt()", interrupts), within=50e-3),
        judged(timed("a death noticed", 'session.run("os._exit(1)")', deaths), within=50e-3),
        await anyio.to_thread.run_sync(_over_http, effort),
        *await anyio.to_thread.run_sync(_ipykernel, effort),
    ]


async def _opened(platform: Platform) -> float:
    await anyio.sleep(PAUSE)
    begun = perf_counter()
    session = await platform.open_session()
    await _answered(session, CELL, 2)
    taken = perf_counter() - begun
    await session.close()
    return taken


async def _answered(session: Session, code: str, wanted: object) -> None:
    result = await session.run(code)
    if result.value != wanted:
        raise PlatformError(f"{code!r} came to {result.value!r}: {result.summary()}")


async def _cells(session: Session, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        begun = perf_counter()
        await _answered(session, CELL, 2)
        taken.append(perf_counter() - begun)
    return taken


async def _interrupted(session: Session) -> float:
    """From the call to the result of what was interrupted."""
    taken = 0.0
    async with anyio.create_task_group() as tasks:
        running = anyio.Event()

        async def busy() -> None:
            async for event in session.events(f"print('on', flush=True)\n{BUSY}"):
                if event.kind == "output":
                    running.set()

        async def measure() -> None:
            nonlocal taken
            await busy()
            taken = perf_counter() - begun

        tasks.start_soon(measure)
        await running.wait()
        begun = perf_counter()
        await session.interrupt()
    return taken


async def _died(session: Session) -> float:
    """From the last thing it said to the result that tells of its end."""
    last = 0.0
    async for event in session.events("import os; print('on', flush=True); os._exit(1)"):
        if event.kind == "output":
            last = perf_counter()
    taken = perf_counter() - last
    await _answered(session, CELL, 2)
    return taken


def many(effort: Effort) -> list[Row]:
    """Two hundred sessions alive, each answering in turn; and what one of them weighs."""
    return anyio.run(_many, effort)


async def _many(effort: Effort) -> list[Row]:
    count = MANY if effort.repeated >= 1000 else 12
    async with _opened_many(count) as (sessions_, before):
        after = _weight()
        taken = []
        for number in range(3 * count):
            begun = perf_counter()
            await _answered(sessions_[number % count], "x + 1", 2)
            taken.append(perf_counter() - begun)
    environment = numpy_environment()
    options: Any = {
        "environment": environment,
        "policy": Policy(host_packages=environment.host_packages),
    }
    few = max(4, count // 10)
    async with _opened_many(few, **options) as (with_numpy, base):
        for session in with_numpy:
            await _answered(session, f"{IMPORT}\n2", 2)
        numpy_after = _weight()
    weight, numpy_weight = (after - before) / count, (numpy_after - base) / few
    p95 = quantile(taken, 0.95)
    return [
        _heavy(f"an idle session, of {count}", weight, 6),
        _heavy(f"the same after import numpy, of {few}", numpy_weight, 8),
        replace(
            timed(f"a cell in one of {count} live sessions, in turn", "session.run", taken),
            target="p95 20 ms",
            met=p95 <= 20e-3,
        ),
    ]


def _weight() -> int:
    """Bytes of everything below us."""
    return sum(map(proportional, descendants()))


def _heavy(title: str, weight: float, target: int) -> Row:
    return Row(
        title=title,
        command="Pss of its processes, and its part of what they share",
        n=1,
        amount=weight / MB,
        unit="MB",
        target=f"{target} MB",
        met=weight <= target * MB,
    )


@asynccontextmanager
async def _opened_many(count: int, **options: Any) -> AsyncIterator[tuple[list[Session], float]]:
    """So many sessions, and the bytes that the warm server weighed before there was any."""
    settings = Settings(most_live=1000, most_live_each=1000, warm=4)
    async with Platform(settings) as platform:
        first = await platform.open_session(**options)
        await first.run(CELL)
        await anyio.sleep(PAUSE)
        before = _weight()
        found = [first]
        for _ in range(count):
            session = await platform.open_session(**options)
            await _answered(session, "x = 1\nx", 1)
            found.append(session)
        yield found[1:], before


def _over_http(effort: Effort) -> Row:
    """A cell through `saggar instance`, one connection, one request after the other."""
    title = "a cell over HTTP"
    if not (find_spec("httpx") and find_spec("fastapi")):
        return Row(title=title, command="saggar instance", note="saggar[server] is not installed")
    import httpx

    with _instance() as url, httpx.Client(base_url=url) as client:
        taken = []
        for number in range(effort.repeated + 20):
            begun = perf_counter()
            answer = client.post("/execute", json={"code": CELL}).json()
            if number >= 20:
                taken.append(perf_counter() - begun)
            if [said.get("data") for said in answer["outputs"]] != [{"text/plain": "2"}]:
                raise PlatformError(f"{CELL!r} over HTTP came to {answer!r}")
    return judged(timed(title, 'POST /execute {"code": "1 + 1"}', taken), within=2e-3)


@contextmanager
def _instance() -> Iterator[str]:
    """An instance of our own for the length of a block; where it listens."""
    words = [sys.executable, "-m", "saggar", "instance", "--cpus", "1", "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = ""
        for line in process.stdout or ():
            said = line.strip()
            if "http://" in line:
                yield line[line.index("http://") :].strip()
                return
        raise PlatformError(f"no instance came up: {said}")
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _ipykernel(effort: Effort) -> list[Row]:
    """The same with a kernel started by jupyter_client, over its own sockets, without walls."""
    title = "ipykernel through jupyter_client"
    if not (find_spec("jupyter_client") and find_spec("ipykernel")):
        return [Row(title=title, command="jupyter_client", note="not installed")]
    from jupyter_client.manager import KernelManager

    starts, cells = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(max(2, effort.starts // 5)):
            begun = perf_counter()
            manager = KernelManager(transport="ipc", ip=str(Path(folder) / "k"))
            manager.start_kernel()
            client = manager.client()
            client.start_channels()
            try:
                client.wait_for_ready(timeout=60)
                client.execute_interactive(CELL, output_hook=_unheard)
                starts.append(perf_counter() - begun)
                for _ in range(effort.repeated // 5):
                    begun = perf_counter()
                    client.execute_interactive(CELL, output_hook=_unheard)
                    cells.append(perf_counter() - begun)
            finally:
                client.stop_channels()
                manager.shutdown_kernel(now=True)
    return [
        timed(f"{title}: started, first cell", "KernelManager().start_kernel()", starts),
        timed(f"{title}: a cell", 'client.execute_interactive("1 + 1")', cells),
    ]


def _unheard(message: object) -> None:
    """What a kernel prints is nobody's here."""
