"""Sessions that meet with accidents: the next run works, and nothing is left of the last one."""

import gc
import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.chaos.family import Family
from tests.chaos.hosts import hear, host

from saggar import Platform, Status
from saggar.config import Settings
from saggar.engine.session import Session
from saggar.errors import SaggarError, SandboxBroken
from saggar.model.event import Output

MiB = 1 << 20
SOON = 20.0
LIMITS = {"wall": "20s", "cpu": "20s", "grace": 0.5, "memory": "192MiB", "processes": 32}

FRAME = """
import json, os, struct
READY, DISPLAY, VALUE, ERROR, DONE, STANDING, TOLD, TEXT, WRITTEN, CLEARED = range(2, 12)

def frame(kind, head=None, blob=b""):
    said = head if isinstance(head, bytes) else json.dumps(head or {}).encode()
    return struct.pack("<BBxxII", 1, kind, len(said), len(blob)) + said + blob

def channels():
    import stat
    return [fd for fd in range(3, 1024) if is_socket(fd)]

def is_socket(fd):
    import stat
    try: return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError: return False

def say(data):
    for fd in channels():
        os.write(fd, data)
"""
"""What a cell needs to speak for its interpreter."""

ACCIDENTS = {
    "os._exit": ("import os; os._exit(0)", Status.OK, None),
    "an exit code": ("import os; os._exit(3)", Status.ERROR, None),
    "a crash": ("import ctypes; ctypes.string_at(0)", Status.KILLED, "SIGSEGV"),
    "an abort": ("import os; os.abort()", Status.KILLED, "SIGABRT"),
    "its own SIGKILL": ("import os; os.kill(os.getpid(), 9)", Status.KILLED, "SIGKILL"),
    "the end of its group": ("import os; os.killpg(0, 9)", Status.KILLED, "SIGKILL"),
    "the end of all": ("import os; os.kill(-1, 9)\nwhile True: pass", Status.KILLED, "SIGKILL"),
    "the end of its keeper": (
        "import os; os.kill(os.getppid(), 9)\nwhile True: pass",
        Status.KILLED,
        "SIGKILL",
    ),
}

STRANGE = {
    "prints a gigabyte": (
        "line = 'x' * 100_000\nfor _ in range(10_000): print(line)",
        Status.OUTPUT,
    ),
    "writes a gigabyte": (
        "import os\nline = b'x' * 100_000\nfor _ in range(10_000): os.write(1, line)",
        Status.OUTPUT,
    ),
    "shows a hundred megabytes": ("display({'text/plain': 'x' * (100 << 20)}, raw=True)", None),
    "shows without end": ("while True: display(1)", Status.OUTPUT),
    "clears without end": (
        "from IPython.display import clear_output\nwhile True: clear_output()",
        Status.TIMEOUT,
    ),
    "replaces its streams": (
        "import sys, io\nsys.stdout = sys.stderr = io.StringIO()\nprint(1)",
        Status.OK,
    ),
    "closes its streams": ("import sys\nsys.stdout.close(); sys.stderr.close()", None),
    "takes its streams away": ("import sys\ndel sys.stdout, sys.stderr", None),
    "closes 0, 1 and 2": ("import os\nos.closerange(0, 3)", Status.OK),
    "closes the low numbers": ("import os\nos.closerange(0, 100)", Status.OK),
    "closes everything": ("import os\nos.closerange(0, 4096)", None),
    "reads its input": ("import sys\nassert sys.stdin.read() == ''", Status.OK),
    "asks somebody": ("input('who?')", Status.ERROR),
    "leaves a daemon": (
        "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)",
        Status.OK,
    ),
    "leaves one that writes": (
        (
            "import subprocess\nloop = 'while :; do echo late; sleep 0.02; done'\n"
            "subprocess.Popen(['sh', '-c', loop], start_new_session=True)\n1"
        ),
        Status.OK,
    ),
    "forks and returns twice": ("import os\nprint(os.fork() > 0)", Status.OK),
    "forks and lingers": ("import os, time\nif os.fork() == 0: time.sleep(600)", Status.OK),
    "has a thread that goes on": (
        (
            "import threading, time\ndef go():\n while True: print('late', end='')\n"
            "threading.Thread(target=go, daemon=True).start()"
        ),
        Status.OK,
    ),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", Status.TIMEOUT),
    "stops its keeper": (
        "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nwhile True: pass",
        Status.TIMEOUT,
    ),
    "runs out of memory": (
        "x = bytearray(1 << 30)\nfor n in range(0, 1 << 30, 4096): x[n] = 1",
        Status.MEMORY,
    ),
    "forks without end": (
        "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
        Status.TIMEOUT,
    ),
    "fills the disk": (
        "with open('full', 'wb') as file:\n while True: file.write(bytes(1 << 20))",
        None,
    ),
    "overflows the stack": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        None,
    ),
    "breaks what the interpreter uses": (
        "import json, os, builtins\njson.dumps = os.write = os.read = None\nbuiltins.len = None",
        None,
    ),
    "takes the builtins away": ("import builtins\nvars(builtins).clear()", None),
    "ignores every signal": (
        (
            "import signal\nfor n in range(1, 32):\n"
            " try: signal.signal(n, signal.SIG_IGN)\n except: pass\n"
            "while True: pass"
        ),
        Status.TIMEOUT,
    ),
    "writes garbage for us": (FRAME + "say(os.urandom(1 << 16))", None),
    "announces what never comes": (
        FRAME + "say(struct.pack('<BBxxII', 1, VALUE, 2, 1 << 20))\nwhile True: pass",
        Status.TIMEOUT,
    ),
    "announces gigabytes": (FRAME + "say(struct.pack('<BBxxII', 1, VALUE, 2, 1 << 31))", None),
    "answers before its time": (
        FRAME + "say(frame(DONE, {'count': 99}))\nfor _ in range(3): say(frame(DONE))",
        None,
    ),
    "says a number that is none": (
        FRAME
        + "say(frame(DONE, {'count': 10**4000}))\nsay(frame(WRITTEN, [-1, 10**30, 'x']))\n"
        + "say(frame(WRITTEN, {'a': 1}))\nsay(frame(DISPLAY, {'id': [], 'metadata': 7}, b'[]'))",
        None,
    ),
    "nests without end": (
        FRAME
        + "deep = b'[' * 200_000\n"
        + "for kind in range(2, 12):\n say(frame(kind, b'{\"type\": ' + deep))\n"
        + "for depth in range(900, 1000, 7):\n"
        + " nested = b'[' * depth + b']' * depth\n"
        + " say(frame(ERROR, b'{\"type\":' + nested + b'}'))\n"
        + ' said = b\'{"metadata":{"x":\' + nested + b"}}"\n'
        + ' say(frame(DISPLAY, said, b\'{"text/plain": "x"}\'))',
        None,
    ),
    "swaps the channel and the streams": (
        FRAME
        + "for fd in channels():\n keep = os.dup(1); os.dup2(fd, 1); os.dup2(keep, fd)\nprint(1)",
        None,
    ),
    "steals what we ask": (
        FRAME + "import threading\nfor fd in channels():\n"
        " threading.Thread(target=os.read, args=(fd, 1 << 20), daemon=True).start()",
        None,
    ),
}
"""What a cell does, and what comes of it; None where that is nobody's promise."""


@pytest.fixture(scope="module")
async def platform() -> AsyncIterator[Platform]:
    async with Platform(Settings(warm=1)) as opened:
        async with await opened.open_session("python", limits=LIMITS) as first:
            await first.run("1")
        yield opened


def descriptors() -> int:
    """Open ones of this process; those of control groups are kept, and used again."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(not name.startswith("/sys/fs/cgroup") for name in found)


@asynccontextmanager
async def unharmed(platform: Platform, family: Family, **how: Any) -> AsyncIterator[Session]:
    """A session to do things to; afterwards the host has what it had before, and no more."""
    gc.collect()
    before = descriptors()
    session = await platform.open_session("python", **{"limits": LIMITS, **how})
    try:
        yield session
        with anyio.fail_after(SOON):
            await works(session)
    finally:
        await session.close()
    assert () == platform.live.sandboxes()
    gc.collect()
    # A server and what it keeps parked may have come meanwhile; nothing of the session may stay.
    assert before + 12 >= descriptors()


async def works(session: Session) -> None:
    """It takes a cell, answers a question, remembers, and says what it is told."""
    for last in (False, False, True):
        # Again: what a cell left, a thread that reads for it, say, may be found out only then.
        try:
            await answers(session)
        except (AssertionError, SandboxBroken):
            if last:
                raise
        else:
            break


async def answers(session: Session) -> None:
    result = await session.run("y = 20\n22 + y", timeout=3)
    assert 42 == result.value, result
    assert "y" in {one.name for one in await session.variables()}
    result = await session.run("import subprocess\nsubprocess.run(['echo', 'child']).returncode")
    assert (Status.OK, 0) == (result.status, result.value), result


@pytest.mark.parametrize("accident", ACCIDENTS)
async def test_the_death_of_an_interpreter_is_named_and_the_next_run_works(
    platform: Platform, family: Family, accident: str
):
    code, status, number = ACCIDENTS[accident]
    async with unharmed(platform, family) as session:
        await session.run("x = 1")
        with anyio.fail_after(SOON):
            result = await session.run(code)

        assert result.session_reset
        assert number == result.signal
        assert status in (result.status, Status.OK)
        assert Status.OK is not result.status
        assert "lost" in result.error.message
        assert "NameError" == (await session.run("x")).error.type


@pytest.mark.parametrize("deed", STRANGE)
async def test_the_next_run_works_whatever_a_cell_does(
    platform: Platform, family: Family, deed: str
):
    code, status = STRANGE[deed]
    async with unharmed(platform, family) as session:
        with anyio.fail_after(SOON):
            result = await session.run(code, timeout=1.5)

        assert status in (None, result.status), result
        assert Status.FAULT is not result.status
        result.model_dump_json()


LATE = f"""{FRAME}
import fcntl, time
os.write(1, b"4\\n" + b"\\x1b_saggar:%016x\\x1b\\\\" % (1 << 60))
while any(fcntl.ioctl(1, 0x541B, bytes(4))): time.sleep(0.001)
begun = time.monotonic()
os.write(1, b"6\\n")
say(frame(WRITTEN, [1 << 60, 0]) + frame(TEXT, {{"stream": "stdout"}}, b"5\\n"))
time.monotonic() - begun < 0.03
"""
"""Marks a place in a pipe, and says so when the host has long taken what lay there."""


async def test_what_was_taken_before_its_place_was_told_moves_nothing_else(
    platform: Platform, family: Family
):
    async with unharmed(platform, family) as session:
        for _ in range(20):
            result = await session.run(LATE)
            if result.value:  # it was not stopped in the middle
                break

        assert "4\n5\n6\n" == result.stdout


@pytest.mark.parametrize("code", ["import os; os._exit(1)", "import os; os.kill(os.getppid(), 9)"])
async def test_an_interpreter_that_dies_idle_is_replaced_and_that_is_known(
    platform: Platform, family: Family, code: str
):
    """It dies by a timer of its own, between two cells."""
    async with unharmed(platform, family) as session:
        timer = f"import threading\nthreading.Timer(0.1, lambda: exec({code!r})).start()\nx = 1"
        await session.run(timer)
        shell = session._contexts["main"].shell
        with anyio.fail_after(SOON):
            await shell._started.ended.wait()

        after, later = await session.run("x"), await session.run("1")

        assert ("NameError", True) == (after.error.type, after.session_reset)
        assert not later.session_reset


async def test_an_interpreter_that_dies_while_it_restarts_does_not_hang(
    platform: Platform, family: Family, tmp_path: Path
):
    """What is preloaded ends it every other time."""
    flag = (
        "import os\ntry: open('flag', 'x')\nexcept FileExistsError: os.unlink('flag'); os._exit(1)"
    )
    (tmp_path / "x.py").write_text(flag)
    async with unharmed(platform, family, preload=tmp_path) as session:
        for _ in range(4):
            with anyio.fail_after(SOON):
                with suppress(SaggarError):  # every other time
                    await session.restart()


async def test_whoever_kills_the_interpreter_from_beside_is_noticed_at_once(
    platform: Platform, family: Family
):
    async with unharmed(platform, family) as session:
        results = []

        async def run() -> None:
            results.append(await session.run("import time; time.sleep(15)"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.sleep(0.1)
            killer = await session.sandbox.spawn(("pkill", "-9", "-f", "saggar.guest"))
            with anyio.fail_after(2):
                await killer.wait()
                while not results:
                    await anyio.lowlevel.checkpoint()

        assert results[0].session_reset


async def test_memory_does_not_follow_what_a_cell_says(platform: Platform, family: Family):
    """Displays, texts, clears and heads without end: the host keeps what its limit allows."""
    flood = """
one = frame(DISPLAY, {"metadata": {"x": "y" * 500_000}}, b'{"text/plain": "x"}')
one += frame(TEXT, {}) * 1000 + frame(CLEARED) * 1000 + frame(ERROR, {"message": "z" * 500_000})
one += frame(WRITTEN, [10**9, 10**9]) * 1000 + frame(READY) * 1000
while True: say(one)
"""
    async with unharmed(platform, family) as session:
        tracemalloc.start()
        result = await session.run(FRAME + flood, timeout=3)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert result.status in {Status.OUTPUT, Status.TIMEOUT}
        assert 64 * MiB > peak


async def test_others_are_served_while_one_floods(platform: Platform, family: Family):
    """Whatever a cell or what it left says without end: nobody else waits long for his answer."""
    floods = (
        "import os\nwhile True: os.write(1, b'x' * 65536)",
        "while True: print('x')",
        FRAME + "one = frame(TEXT) * 5000\nwhile True: say(one)",
        FRAME + "one = frame(CLEARED) * 5000\nwhile True: say(one)",
        (
            "import subprocess\nsubprocess.Popen(['yes'], start_new_session=True)\n"
            "import time; time.sleep(2)"
        ),
    )
    async with unharmed(platform, family) as session:
        flooded = await platform.open_session("python", limits={**LIMITS, "output": "1GiB"})
        async with flooded, anyio.create_task_group() as tasks:
            for code in floods:
                tasks.start_soon(partial(flooded.run, code, timeout=1))
                await anyio.sleep(0.2)
                for _ in range(3):
                    with anyio.fail_after(1):
                        assert 2 == (await session.run("1 + 1")).value
                while flooded.busy:  # noqa: ASYNC110 - nobody tells; there is a deadline
                    await anyio.sleep(0.05)


async def test_a_client_that_is_gone_leaves_a_session_that_lives(
    platform: Platform, family: Family
):
    async with unharmed(platform, family) as session:
        await session.run("x = 1")
        for _ in range(10):
            async with aclosing(session.events("while True: print('y' * 1000)")) as events:
                async for event in events:
                    if isinstance(event, Output):
                        break

        assert 1 == (await session.run("x")).value


async def test_a_hundred_sessions_come_and_go_and_leave_nothing(platform: Platform, family: Family):
    async with unharmed(platform, family):
        for _ in range(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(come_and_go, platform)


async def come_and_go(platform: Platform) -> None:
    async with await platform.open_session("python", limits=LIMITS) as session:
        assert 2 == (await session.run("1 + 1")).value


async def test_opening_that_is_given_up_leaves_nothing(platform: Platform, family: Family):
    async with unharmed(platform, family):
        for delay in (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05):
            with anyio.move_on_after(delay):
                async with await platform.open_session("python", limits=LIMITS):
                    pass
        with anyio.fail_after(SOON):
            while len(platform.live.sandboxes()) > 1:  # noqa: ASYNC110 - nobody tells; there is a deadline
                await anyio.sleep(0.01)


HELD = """
import anyio
from saggar.config import Settings
async def main():
    async with saggar.Platform(Settings(runtime_dir=FOLDER)) as platform:
        session = await platform.open_session("python", limits={"wall": "60s"}, owner="me")
        sandbox = await platform.open_sandbox()
        await sandbox.spawn(("sh", "-c", "setsid sleep 600 & sleep 600"))
        daemon = "subprocess.Popen(['sleep', '600'], start_new_session=True)"
        await session.run(f"import subprocess; {daemon}")
        async for event in session.events("print('running')\\nwhile True: pass"):
            if type(event).__name__ == "Output":
                say("running")
anyio.run(main)
"""


@pytest.mark.parametrize("account", ["ours"], indirect=True)
def test_nothing_outlives_a_host_that_is_killed_and_the_table_says_what_was_lost(
    family: Family, account, tmp_path: Path
):
    from saggar.sessions.table import Table

    with host(account, HELD.replace("FOLDER", repr(str(tmp_path)))) as process:
        assert hear(process).startswith(b"running")
        process.kill()
        process.wait()

        assert [] == family.left()
    lost = Table(tmp_path).lost()

    assert ["sandbox", "session"] == sorted({row.kind for row in lost})
    assert ["me"] == [row.owner for row in lost if row.kind == "session"]
    assert () == Table(tmp_path).lost()
