"""Programs without walls: what they may rely on, and that nothing of them is left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from glob import glob
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from saggar import Platform
from saggar.drivers.process import ProcessDriver
from saggar.drivers.process.nursery import open_nursery
from saggar.errors import DriverUnavailable, SandboxBroken
from saggar.model.event import Finished, Output
from saggar.model.plan import Layer, WarmKey
from saggar.model.policy import Policy
from saggar.model.program import Command
from saggar.model.result import Status

TRUSTED = Policy(
    isolation="process",
    network="host",
    best_effort={"cpu_share", "disk", "inodes", "memory", "processes"},
)
DAEMON = """
import os, signal, sys, time

def daemon():
    out, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        os.write(told, b"%d" % os.getpid())
        os.closerange(0, 64)
        while True:
            time.sleep(60)
    return int(os.read(out, 32))

print(daemon(), os.getpid(), flush=True)
"""
HOST = """
import os, signal, sys
import saggar
from saggar.platform import _platform

policy = saggar.Policy.model_validate_json(sys.argv[1])

async def run():
    platform = _platform().platform
    async for event in platform.events(sys.stdin.read(), driver="process", policy=policy):
        if event.kind == "output":
            sibling = os.fork()
            if sibling == 0:
                os.closerange(0, 3)
                signal.pause()
            sys.stdout.write(f"{sibling} {event.data.decode()}")
            sys.stdout.flush()

_platform().call(run)
"""


@pytest.fixture
async def platform():
    async with Platform() as opened:
        yield opened


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where this process makes its folders, for the length of a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


async def run(platform, code, **options):
    return await platform.run(code, driver="process", policy=TRUSTED, **options)


async def gone(*pidfds):
    """Until these processes are dead."""
    with anyio.fail_after(10):
        for pidfd in pidfds:
            await anyio.wait_readable(pidfd)
            os.close(pidfd)


def names_of_processes():
    return {read(f"/proc/{name}/comm").strip() for name in os.listdir("/proc") if name.isdigit()}


def read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def children():
    """Those of this process, whichever of its threads had them."""
    return {child for path in glob("/proc/self/task/*/children") for child in read(path).split()}


def living(numbers):
    """Descriptors of those of these processes that are not dead already."""
    found = []
    for number in numbers.split():
        with suppress(ProcessLookupError):
            found.append(os.pidfd_open(int(number)))
    return found


async def watched(platform, code, **options):
    """A run whose first line names processes; pidfds of these, and how it ended."""
    pidfds: list[int] = []
    finished = None
    async for event in platform.events(code, driver="process", policy=TRUSTED, **options):
        if isinstance(event, Output) and not pidfds:
            pidfds = living(event.data)
        if isinstance(event, Finished):
            finished = event
    return pidfds, finished


async def test_the_closed_policy_is_refused_with_the_one_that_is_not(platform):
    with pytest.raises(DriverUnavailable) as caught:
        await platform.run("print(1)", driver="process")
    named = eval(str(caught.value).partition("run with ")[2], {"Policy": Policy})
    result = await platform.run("print(1)", driver="process", policy=named)

    assert (Status.OK, "1\n", "process") == (result.status, result.stdout, result.isolation)


async def test_the_probe_tells_that_there_are_no_walls():
    found = await ProcessDriver().probe()

    assert (True, "process", False) == (found.available, found.rung, found.warm)
    assert "no walls" in found.reasons[0]
    assert not found.enforces("memory")
    assert found.enforces("cpu")


async def test_nothing_of_the_hosts_environment_is_there_not_even_at_the_start(
    platform, monkeypatch
):
    monkeypatch.setenv("OUR_SECRET", "of the host")
    code = """
import os
print(sorted(os.environ), open("/proc/self/environ").read().count("of the host"))
"""
    result = await run(platform, code)

    expected = ["HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"]
    assert f"{expected} 0\n" == result.stdout


async def test_it_has_its_streams_and_the_channel_and_no_other_descriptor(platform):
    result = await run(platform, "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))")

    assert "[0, 1, 2, 3, 4]\n" == result.stdout  # the last one is the listing's own


async def test_it_leads_a_session_and_signals_to_its_group_end_only_itself(platform):
    code = """
import os, signal
print(os.getpid() == os.getsid(0) == os.getpgid(0), flush=True)
os.killpg(0, signal.SIGKILL)
"""
    result = await run(platform, code)

    assert ("True\n", Status.KILLED, "SIGKILL") == (result.stdout, result.status, result.signal)


async def test_a_daemon_ends_with_a_run_that_went_well(platform):
    pidfds, finished = await watched(platform, DAEMON)

    assert Status.OK is finished.status
    await gone(*pidfds)


async def test_a_daemon_ends_with_a_run_that_was_killed(platform):
    code = DAEMON + "os.kill(os.getpid(), signal.SIGKILL)"
    pidfds, finished = await watched(platform, code)

    assert Status.KILLED is finished.status
    await gone(*pidfds)


async def test_a_daemon_ends_with_a_run_that_took_too_long(platform):
    code = DAEMON + "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    pidfds, finished = await watched(platform, code, limits={"wall": 0.3, "grace": 0.2})

    assert (Status.TIMEOUT, "wall") == (finished.status, finished.limit)
    await gone(*pidfds)


async def test_a_daemon_ends_with_a_run_that_nobody_waits_for(platform):
    pidfds = []
    with anyio.CancelScope() as scope:
        events = platform.events(DAEMON + "time.sleep(60)", driver="process", policy=TRUSTED)
        async for event in events:
            if isinstance(event, Output):
                pidfds = living(event.data)
                scope.cancel()

    assert scope.cancelled_caught
    await gone(*pidfds)


async def test_a_chain_of_processes_each_of_which_forks_and_ends_is_caught(platform):
    """Each link has a session of its own and lives no longer than it takes to fork the next."""
    name = f"chain-{os.getpid()}"
    code = f"""
import ctypes, os
ctypes.CDLL(None).prctl(15, b"{name}", 0, 0, 0)
out, told = os.pipe()
if os.fork() == 0:
    os.write(told, b"x")
    while True:
        if os.fork():
            os._exit(0)
        os.setsid()
os.read(out, 1)
print(open("/proc/self/comm").read(), end="")
"""
    result = await run(platform, code, limits={"wall": 5})

    assert (Status.OK, f"{name}\n") == (result.status, result.stdout)
    with anyio.fail_after(10):
        while name in names_of_processes():
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("blow", ["SIGKILL", "SIGTERM"])
async def test_who_kills_his_guardian_dies_with_it_and_it_is_no_fault_of_ours(platform, blow):
    code = f"import os, signal, time; os.kill(os.getppid(), signal.{blow}); time.sleep(60)"
    result = await run(platform, code, limits={"wall": 0.5, "grace": 0.2})

    expected = Status.KILLED if blow == "SIGKILL" else Status.TIMEOUT
    assert expected is result.status


async def test_who_stops_his_guardian_is_ended_all_the_same(platform):
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGSTOP); time.sleep(60)"
    result = await run(platform, code, limits={"wall": 0.5, "grace": 0.2})

    assert Status.TIMEOUT is result.status


def test_nothing_outlives_a_host_that_is_killed_not_even_while_its_children_live(temporary):
    """They hold the same sockets open, so that their end is not what tells of the host's."""
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, TRUSTED.model_dump_json()],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with host:
        assert host.stdin
        assert host.stdout
        host.stdin.write(DAEMON + "time.sleep(60)")
        host.stdin.close()
        sibling, *pidfds = living(host.stdout.readline())
        host.kill()
    try:
        anyio.run(gone, *pidfds)
    finally:
        signal.pidfd_send_signal(sibling, signal.SIGKILL)
        anyio.run(gone, sibling)

    assert {"process_folders": 1} == ProcessDriver().sweep()
    assert [] == list(temporary.iterdir())


async def test_what_a_program_wrote_is_gone_however_deep_and_locked(temporary):
    code = """
import os
os.mkdir("locked", 0o700); os.mkdir("locked/in"); os.chmod("locked", 0)
for _ in range(1500):
    os.mkdir("deeper")
    os.chdir("deeper")
print("done")
"""
    async with Platform() as platform:
        result = await run(platform, code)

    assert "done\n" == result.stdout
    assert [] == list(temporary.iterdir())


async def test_folders_go_one_by_one_and_not_when_everything_ends(temporary):
    async with Platform() as platform:
        for _ in range(5):
            assert (await run(platform, "")).ok
        (folder,) = temporary.iterdir()
        with anyio.fail_after(10):
            while len(list(folder.iterdir())) > 1:
                await run(platform, "")


async def test_no_descriptor_and_no_process_is_left(temporary):
    async with Platform() as platform:
        await run(platform, "")
    before = set(os.listdir("/proc/self/fd")), children()
    async with Platform() as platform:
        for code in ("print(1)", "1 / 0", "import os; os._exit(3)", "import os; os.fork()"):
            await run(platform, code)

    assert before == (set(os.listdir("/proc/self/fd")), children())


async def test_a_kernel_without_pidfds_and_memory_files_will_do(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.delattr(os, "memfd_create")
    async with Platform() as platform:
        result = await run(platform, "print(1)")
        found = await ProcessDriver().probe()

    assert "1\n" == result.stdout
    assert any("host's death" in reason for reason in found.reasons)


async def test_the_processor_is_limited_for_all_children_together(platform):
    code = """
import os
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        while True:
            pass
os.wait()
"""
    result = await run(platform, code, limits={"cpu": 0.5, "wall": 20})

    assert (Status.TIMEOUT, "cpu") == (result.status, result.limit)


async def test_memory_is_watched_although_it_is_not_promised(platform):
    code = "kept = [bytearray(b'x') * (1 << 20) for _ in range(120)]\nwhile True: pass"
    result = await run(platform, code, limits={"memory": "64MiB"})

    assert (Status.MEMORY, "memory") == (result.status, result.limit)


async def test_usage_is_what_all_of_them_used(platform):
    code = """
import os, time
if os.fork() == 0:
    kept = bytearray(b"x") * (60 << 20)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    os._exit(0)
os.wait()
os._exit(0)
"""
    usage = (await run(platform, code)).usage

    assert 0.25 < usage.cpu < 2
    assert 60 << 20 < usage.memory < 200 << 20


async def test_a_command_runs_in_place_of_the_interpreter(platform):
    result = await run(platform, Command(argv=("sh", "-c", "kill -TERM $$")))

    assert (Status.KILLED, "SIGTERM") == (result.status, result.signal)


async def test_layers_are_seen_where_they_lie_on_the_host(tmp_path):
    (tmp_path / "layered.py").write_text("value = 7")
    layers = (Layer(path=str(tmp_path), target="/elsewhere", python_path=True),)
    async with ProcessDriver().nursery(WarmKey("", ""), TRUSTED, layers) as nursery:
        process = await nursery.park()

        assert (str(tmp_path),) == process.site


async def test_the_interpreters_own_packages_are_not_there(platform):
    code = "import sys; print([path for path in sys.path if 'site-packages' in path])"

    assert "[]\n" == (await run(platform, code)).stdout


async def test_mounts_and_roots_are_refused():
    for key in (WarmKey("", "", mounts=(("/a", "/b", True),)), WarmKey("", "", root="/r")):
        with pytest.raises(DriverUnavailable, match="cannot mount"):
            async with ProcessDriver().nursery(key, TRUSTED, ()):
                pass


async def test_an_interpreter_that_does_not_exist_is_told(temporary):
    async with open_nursery("/no/such/python", ()) as nursery:
        with pytest.raises(SandboxBroken, match="No such file"):
            await nursery.park()

    assert [] == list(temporary.iterdir())


async def test_an_interpreter_that_does_not_get_ready_is_told_in_its_own_words(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho a first line >&2\necho out of order >&2\nexit 3\n")
    broken.chmod(0o755)
    async with open_nursery(str(broken), ()) as nursery:
        with pytest.raises(SandboxBroken, match="did not start: out of order"):
            await nursery.park()


async def test_a_nursery_that_closes_ends_who_is_parked_and_who_runs(temporary):
    async with open_nursery(sys.executable, ()) as nursery:
        process = await nursery.park()
        pidfd = os.pidfd_open(process._guardian.pid)

    await gone(pidfd)
    assert [] == list(temporary.iterdir())


def test_it_works_as_an_ordinary_user(ordinary_user):
    code = f"""
import saggar
policy = saggar.Policy.model_validate_json({TRUSTED.model_dump_json()!r})
result = saggar.run("print(6 * 7)", driver="process", policy=policy)
print(result.model_dump_json())
"""
    said = ordinary_user.run(ordinary_user.python, "-c", code)

    assert "42\n" == json.loads(said.stdout)["stdout"], said.stderr
