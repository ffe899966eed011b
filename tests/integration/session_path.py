"""
The main path through sandboxes and sessions, for any driver and any user.

A module of its own that needs nothing but Saggar: somebody else's interpreter runs its source.
"""

import signal
import sys
import tempfile
from typing import Any

import anyio

import saggar

LIMITS = {"wall": "20s", "cpu": "20s", "grace": 1}
HEAVY = {**LIMITS, "memory": "96MiB"}
HOLD = """
import time
held = bytearray(60 << 20)
for n in range(0, len(held), 4096): held[n] = 1
time.sleep(15)
"""
BUSY = "import time\nprint('here', flush=True)\nwhile True: time.sleep(0.01)"


async def walk(**where: Any) -> None:
    """All that a user of either does on a good day, and some of a bad one."""
    async with saggar.Platform() as platform:
        async with await platform.open_sandbox(limits=LIMITS, **where) as sandbox:
            await walk_sandbox(sandbox)
        async with await platform.open_session("python", limits=LIMITS, **where) as session:
            await walk_session(session)
        async with await platform.open_sandbox(limits=HEAVY, **where) as sandbox:
            await overload(sandbox)
        assert () == platform.live.sandboxes()


async def walk_sandbox(sandbox: Any) -> None:
    """Programs, files, a terminal, a pause, and what all that used."""
    said = b""
    process = await sandbox.spawn(("cat",), stdin=b"x" * 300_000)
    async for _, data in process.output():
        said += data
    assert b"x" * 300_000 == said
    assert 3 == (await (await sandbox.spawn(("sh", "-c", "exit 3"))).wait()).code
    await sandbox.files.write("a/b", b"said")
    assert b"said" == await sandbox.files.read("a/b")
    assert ["a"] == [entry.path for entry in await sandbox.files.list() if entry.path == "a"]
    with tempfile.TemporaryDirectory() as folder:
        assert ("b",) == await sandbox.files.download("a", folder)
        await sandbox.files.upload(folder, "again")
    assert b"said" == await sandbox.files.read("again/b")
    await sandbox.files.remove("a", recursive=True)
    process = await sandbox.spawn(("sh", "-c", "stty size; cat"), pty=(24, 80))
    async for _, data in process.output():
        if b"24 80" in data:
            break
    await sandbox.pause()
    await sandbox.resume()
    await process.signal(signal.SIGKILL)
    assert signal.SIGKILL == (await process.wait()).signal
    metrics = await sandbox.metrics()
    assert metrics.cpu is not None
    assert not metrics.paused


async def overload(sandbox: Any) -> None:
    """Each of them fits, all of them do not: whoever counts, it is noticed."""
    processes = [await sandbox.spawn(("python3", "-c", HOLD)) for _ in range(4)]
    with anyio.fail_after(10):
        while not any(one.exited and one.exited.signal for one in processes):  # noqa: ASYNC110 - nobody tells; there is a deadline
            await anyio.sleep(0.05)


async def walk_session(session: Any) -> None:
    """Values, output, errors, an interrupt, a restart, a death, questions and contexts."""
    await session.run("x = 40")
    result = await session.run("!echo child\nprint('cell')\nx + 2")
    assert (42, "child\ncell\n", 2) == (result.value, result.stdout, result.execution_count), result
    result = await session.run("1 / 0")
    assert "ZeroDivisionError" == result.error.type
    assert "saggar" not in result.error.traceback
    result = await session.run(BUSY, timeout=0.5)
    assert ("timeout", False) == (result.status, result.session_reset), result
    assert 40 == (await session.run("x")).value
    assert "x" in {one.name for one in await session.variables()}
    assert "x" in (await session.complete("x")).matches
    await session.new_context("other")
    assert "NameError" == (await session.run("x", context="other")).error.type
    result = await session.run("import os; os._exit(7)")
    assert result.session_reset
    assert "exit code 7" in result.error.message, result
    assert 1 == (await session.run("1")).execution_count
    await session.restart()
    assert "NameError" == (await session.run("x")).error.type
    with anyio.fail_after(20):
        result = await session.run(
            "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nsignal.pause()"
        )
        assert result.session_reset
    assert 1 == (await session.run("1")).value


if __name__ == "__main__":
    anyio.run(lambda: walk(**({"driver": sys.argv[1]} if sys.argv[1:] else {})))
    sys.stdout.write("walked\n")
