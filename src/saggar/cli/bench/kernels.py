"""
The kernel engine beside the kernel it runs: the same cells, in turns, so that both meet one load.

Bare is ipykernel through jupyter_client as its own documentation has it, over ipc: an answer and
the end of what is published. Ours waits for the same two, behind walls.
"""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import anyio

from saggar.cli.bench.row import Effort, Row, median, timed
from saggar.platform import Platform

CELL = "1 + 1"
ALLOWED = 1.10
"""Of the time that bare ipykernel takes."""
ROUNDS = 20
"""Cells in a row before it is the other one's turn."""
PATIENCE = 60
FIRST = "new kernel, its first cell answered"
TRIP = "cell round trip"


def kernels(effort: Effort) -> list[Row]:
    """Starts and round trips of both."""
    try:
        import ipykernel  # noqa: F401
        import jupyter_client  # noqa: F401
    except ImportError as exc:
        return [Row(title="kernel engine", command="", note=f"not installed: {exc.name}")]
    return anyio.run(_measured, effort)


async def _measured(effort: Effort) -> list[Row]:
    async with Platform() as platform:
        return [*await _starts(platform, effort), *await _trips(platform, effort)]


async def _starts(platform: Platform, effort: Effort) -> list[Row]:
    ours, bare = [], []
    async with opened(platform):
        pass  # builds the layer, and the first server
    for _ in range(effort.starts):
        begun = time.perf_counter()
        async with opened(platform) as session:
            await session.run(CELL)
            ours.append(time.perf_counter() - begun)
        bare.append(await anyio.to_thread.run_sync(_bare_start))
    return [
        timed(f"{FIRST}, kernel engine", "open_session(engine='kernel'); run", ours),
        timed(f"{FIRST}, bare ipykernel", "start_new_kernel(); execute", bare),
    ]


async def _trips(platform: Platform, effort: Effort) -> list[Row]:
    ours: list[float] = []
    bare: list[float] = []
    with started() as client:
        async with opened(platform) as session:
            for count in range(effort.repeated // ROUNDS + 1):
                for _ in range(ROUNDS):
                    begun = time.perf_counter()
                    await session.run(CELL)
                    ours.append(time.perf_counter() - begun)
                bare += [_executed(client) for _ in range(ROUNDS)]
                if not count:  # the first of each are slower, for reasons that do not last
                    ours.clear()
                    bare.clear()
    share = median(ours) / median(bare)
    row = timed(f"{TRIP}, kernel engine", f"session.run({CELL!r})", ours)
    note = f"{(share - 1) * 100:+.0f} % over bare"
    return [
        replace(row, target="<= +10 % over bare ipykernel", met=share <= ALLOWED, note=note),
        timed(f"{TRIP}, bare ipykernel", f"client.execute({CELL!r})", bare),
    ]


@asynccontextmanager
async def opened(platform: Platform) -> AsyncIterator[Any]:
    """A session of the kernel engine."""
    async with await platform.open_session(engine="kernel") as session:
        yield session


def _bare_start() -> float:
    begun = time.perf_counter()
    with started() as client:
        _executed(client)
        return time.perf_counter() - begun


@contextmanager
def started() -> Iterator[Any]:
    """A client of a bare ipykernel, ready."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3", transport="ipc")
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _executed(client: Any) -> float:
    """One cell: its answer, and all that it publishes."""
    begun = time.perf_counter()
    number = client.execute(CELL)
    while client.get_shell_msg(timeout=PATIENCE)["parent_header"].get("msg_id") != number:
        pass
    while True:
        said = client.get_iopub_msg(timeout=PATIENCE)
        ours = said["parent_header"].get("msg_id") == number
        if ours and said["content"].get("execution_state") == "idle":
            return time.perf_counter() - begun
