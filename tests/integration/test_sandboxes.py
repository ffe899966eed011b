"""Live sandboxes: programs come and go in one, and its files stay."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

import saggar
from saggar import Platform
from saggar.config import Settings
from saggar.engine.sandbox import Sandbox, SandboxProcess
from saggar.errors import Conflict, InvalidTask, NotFound, Overloaded, SandboxBroken

MiB = 1 << 20
SOON = 10.0
ECHO = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
BUSY = "import os\nprint('busy', flush=True)\nwhile True: pass"


@pytest.fixture(scope="module")
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as opened:
        yield opened


@pytest.fixture
async def sandbox(platform: Platform) -> AsyncIterator[Sandbox]:
    async with await platform.open_sandbox(limits={"processes": 32}) as opened:
        yield opened


def python(code: str, *args: str) -> tuple[str, ...]:
    return "python3", "-c", code, *args


async def said(process: SandboxProcess) -> tuple[bytes, bytes]:
    """All that it writes, until its end."""
    streams = {"stdout": b"", "stderr": b""}
    async for stream, data in process.output():
        streams[stream] += data
    await process.wait()
    return streams["stdout"], streams["stderr"]


async def until(process: SandboxProcess, words: bytes) -> bytes:
    """What it writes, up to these words."""
    heard = b""
    with anyio.fail_after(SOON):
        async for _, data in process.output():
            heard += data
            if words in heard:
                return heard
    raise AssertionError(heard)


async def eventually(holds) -> None:
    with anyio.fail_after(SOON):
        while not await holds():  # noqa: ASYNC110 - nobody tells; there is a deadline
            await asyncio.sleep(0)


async def test_a_program_says_what_it_has_to_and_how_it_ended(sandbox: Sandbox):
    process = await sandbox.spawn(
        python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    )

    assert (b"out\n", b"err\n") == await said(process)
    assert (3, None) == ((await process.wait()).code, (await process.wait()).signal)


async def test_several_live_in_one_at_once(sandbox: Sandbox):
    first = await sandbox.spawn(python(ECHO), stdin=None)
    second = await sandbox.spawn(python(ECHO), stdin=None)
    await first.write(b"one")
    await second.write(b"two")
    first.close_stdin()
    second.close_stdin()

    assert b"two" == (await said(second))[0]
    assert b"one" == (await said(first))[0]
    assert first.id != second.id


async def test_they_share_their_files(sandbox: Sandbox):
    await (await sandbox.spawn(("sh", "-c", "echo kept > file"))).wait()

    assert b"kept\n" == (await said(await sandbox.spawn(("cat", "file"))))[0]
    assert b"kept\n" == await sandbox.files.read("file")


async def test_ten_megabytes_go_in_and_out(sandbox: Sandbox):
    """More than pipes hold, both ways at once: nobody waits for the other for ever."""
    data = os.urandom(10 * MiB)
    process = await sandbox.spawn(python(ECHO), stdin=data)

    with anyio.fail_after(SOON):
        assert (data, b"") == await said(process)


async def test_ten_megabytes_are_written_by_hand_and_read_beside(sandbox: Sandbox):
    data = os.urandom(10 * MiB)
    process = await sandbox.spawn(python(ECHO), stdin=None)
    heard = bytearray()

    async def write() -> None:
        await process.write(data)
        process.close_stdin()

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            async for _, piece in process.output():
                heard += piece

    assert data == heard


async def test_writing_to_who_does_not_read_ends_with_him(sandbox: Sandbox):
    process = await sandbox.spawn(python("import time; time.sleep(60)"), stdin=None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(process.signal, signal.SIGKILL)
        with anyio.fail_after(SOON), pytest.raises(Conflict, match="closed"):
            await process.write(b"x" * MiB)


async def test_writing_without_end_keeps_nobody_else_waiting(sandbox: Sandbox):
    process = await sandbox.spawn(("yes",))
    with anyio.move_on_after(0.3) as patience:
        await process.wait()

    assert patience.cancelled_caught
    await process.signal(signal.SIGKILL)
    assert signal.SIGKILL == (await process.wait()).signal


async def test_what_a_program_leaves_to_its_children_is_not_waited_for(sandbox: Sandbox):
    """A daemon holds the pipes open and writes to them: its parent has ended all the same."""
    process = await sandbox.spawn(("sh", "-c", "setsid yes & echo done"))

    with anyio.fail_after(SOON):
        assert 0 == (await process.wait()).code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_reaches_a_program_and_its_group(sandbox: Sandbox, number: int):
    process = await sandbox.spawn(("sh", "-c", "trap - INT; sleep 60 & echo here; wait"))
    await until(process, b"here")
    await process.signal(number)

    with anyio.fail_after(SOON):
        assert number == (await process.wait()).signal
    await eventually(lambda: _processes(sandbox, 1))


async def _processes(sandbox: Sandbox, most: int) -> bool:
    return ((await sandbox.metrics()).processes or 0) <= most


async def test_a_signal_to_who_has_ended_does_nothing(sandbox: Sandbox):
    process = await sandbox.spawn(("true",))
    await process.wait()
    await process.signal(signal.SIGKILL)

    assert 0 == (await process.wait()).code


@pytest.mark.parametrize(
    ("argv", "kind"),
    [
        (("nosuchprogram",), NotFound),
        (("./nosuchprogram",), NotFound),
        ((".",), InvalidTask),
        ((), InvalidTask),
        (("",), InvalidTask),
        (("a\0b",), InvalidTask),
    ],
)
async def test_what_cannot_be_started_is_said(sandbox: Sandbox, argv, kind):
    with pytest.raises(kind):
        await sandbox.spawn(argv)

    assert 0 == (await (await sandbox.spawn(("true",))).wait()).code


async def test_a_program_finds_the_folder_and_the_variables_that_were_named(sandbox: Sandbox):
    await sandbox.files.mkdir("below/here")
    process = await sandbox.spawn(
        ("sh", "-c", 'pwd; echo "$A" "$HOME"'), env={"A": "b c"}, cwd="below/here"
    )
    folder = f"{sandbox.cwd}/below/here"

    assert f"{folder}\nb c {sandbox.cwd}\n".encode() == (await said(process))[0]
    with pytest.raises(NotFound, match="nowhere"):
        await sandbox.spawn(("true",), cwd="nowhere")
    with pytest.raises(InvalidTask, match="env"):
        await sandbox.spawn(("true",), env={"A=B": ""})


async def test_a_program_inherits_nothing_of_ours(sandbox: Sandbox):
    process = await sandbox.spawn(("sh", "-c", "ls /proc/self/fd; env | grep -i saggar"))

    assert b"0\n1\n2\n3\n" == (await said(process))[0]


async def test_a_program_ignores_no_signal_that_ours_do(sandbox: Sandbox):
    process = await sandbox.spawn(("grep", "SigIgn", "/proc/self/status"))
    ignored = int((await said(process))[0].split()[1], 16)

    # What posix_spawn started, as make does, ignores the two that are the C library's own.
    assert 0 == ignored & ~(1 << 31 | 1 << 32)


async def test_a_terminal_is_one_and_has_a_size(sandbox: Sandbox):
    process = await sandbox.spawn(
        ("sh", "-c", "test -t 0 && stty size; read x; stty size"), pty=(24, 80)
    )
    heard = await until(process, b"24 80")
    await process.resize(50, 132)
    await process.write(b"go\n")
    heard += (await said(process))[0]

    assert b"50 132" in heard
    assert b"go" in heard  # a terminal says what is typed


async def test_a_terminal_takes_ctrl_c_and_ctrl_d(sandbox: Sandbox):
    process = await sandbox.spawn(python(WAITING), pty=(24, 80))
    await until(process, b"here")
    await process.write(b"\x03")
    with anyio.fail_after(SOON):
        assert 0 != (await process.wait()).code

    process = await sandbox.spawn(("cat",), pty=(24, 80))
    await process.write(b"line\n\x04")
    with anyio.fail_after(SOON):
        assert 0 == (await process.wait()).code


@pytest.mark.parametrize("size", [(0, 80), (24, 1 << 16), (-1, 5)])
async def test_a_size_that_no_terminal_has_is_refused(sandbox: Sandbox, size):
    with pytest.raises(InvalidTask, match="rows"):
        await sandbox.spawn(("true",), pty=size)


async def test_what_has_no_terminal_cannot_be_resized(sandbox: Sandbox):
    process = await sandbox.spawn(("true",))

    with pytest.raises(Conflict, match="no terminal"):
        await process.resize(24, 80)
    await process.wait()


async def test_files_are_written_read_listed_moved_and_removed(sandbox: Sandbox):
    files = sandbox.files
    await files.write("a/b.txt", b"said", mode=0o600)
    await files.mkdir("a/c/d")
    entry = await files.stat("a/b.txt")

    assert b"said" == await files.read("a/b.txt")
    assert ("a/b.txt", "file", 4, 0o600) == (entry.path, entry.kind, entry.size, entry.mode)
    assert 60 > abs(entry.modified - time.time())
    assert [("b.txt", "file"), ("c", "folder")] == [(e.path, e.kind) for e in await files.list("a")]
    await files.move("a/b.txt", "a/c/new.txt")
    assert b"said" == await files.read("a/c/new.txt")
    with pytest.raises(NotFound, match=r"a/b\.txt"):
        await files.read("a/b.txt")
    with pytest.raises(InvalidTask):
        await files.remove("a")
    await files.remove("a", recursive=True)
    assert () == await files.list()


async def test_a_file_is_moved_between_file_systems(sandbox: Sandbox):
    await sandbox.files.write("here", b"said")
    await sandbox.files.move("here", "/tmp/there")

    assert b"said" == await sandbox.files.read("/tmp/there")


async def test_a_large_file_goes_in_and_out(sandbox: Sandbox):
    data = os.urandom(20 * MiB)
    await sandbox.files.write("large", data)

    assert data == await sandbox.files.read("large")
    with pytest.raises(InvalidTask, match="more than 1000 bytes"):
        await sandbox.files.read("large", most=1000)


async def test_names_may_be_anything_that_a_file_may_be_called(sandbox: Sandbox):
    names = ["späte", "a b", "-rf", "new\nline", "back\\slash", "\udcff", "x" * 255, "..."]
    for name in names:
        await sandbox.files.write(name, name.encode("utf-8", "surrogateescape"))

    assert sorted(names) == sorted([entry.path for entry in await sandbox.files.list()])
    for name in names:
        assert name.encode("utf-8", "surrogateescape") == await sandbox.files.read(name)


@pytest.mark.parametrize("path", ["", "a\0b", 7])
async def test_what_is_no_path_is_refused(sandbox: Sandbox, path):
    with pytest.raises(InvalidTask, match="path"):
        await sandbox.files.read(path)


async def test_what_is_no_regular_file_is_not_read(sandbox: Sandbox):
    """Neither a pipe that nobody writes to nor a device that never ends keeps us."""
    await (await sandbox.spawn(("sh", "-c", "mkfifo fifo; mkdir folder; ln -s fifo link"))).wait()
    with anyio.fail_after(SOON):
        for path in ("fifo", "folder", "link", "/dev/zero", "/dev/tty"):
            with pytest.raises((InvalidTask, NotFound)):
                await sandbox.files.read(path)
        with pytest.raises(InvalidTask):
            await sandbox.files.write("fifo", b"x")
    kinds = {entry.path: entry.kind for entry in await sandbox.files.list()}

    assert {"fifo": "other", "folder": "folder", "link": "link"} == kinds


async def test_a_link_leads_nowhere_that_the_inside_cannot_go(sandbox: Sandbox, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    await (await sandbox.spawn(("ln", "-s", str(secret), "link"))).wait()

    with pytest.raises((NotFound, InvalidTask)):
        await sandbox.files.read("link")
    with pytest.raises((NotFound, InvalidTask)):
        await sandbox.files.write("link", b"forged")
    assert "secret" == secret.read_text()


async def test_a_hundred_thousand_names_are_listed(platform: Platform):
    limits = {"inodes": 120_000, "disk": "64MiB", "memory": "512MiB", "wall": "60s", "cpu": "60s"}
    async with await platform.open_sandbox(limits=limits) as sandbox:
        made = await sandbox.spawn(python("for n in range(100_000): open(f'{n:06}', 'w').close()"))
        await made.wait()
        found = await sandbox.files.list()

    assert 100_000 == len(found)
    assert "099999" == found[-1].path


async def test_trees_are_carried_in_and_out(sandbox: Sandbox, tmp_path: Path):
    source = tmp_path / "source"
    (source / "deep/empty").mkdir(parents=True)
    (source / "deep/file").write_bytes(b"x" * 3 * MiB)
    (source / "script").write_text("#!/bin/sh\necho ran\n")
    (source / "script").chmod(0o755)
    (source / "link").symlink_to("/etc/passwd")
    await sandbox.files.upload(source, "in")

    assert b"ran\n" == (await said(await sandbox.spawn(("./in/script",))))[0]
    assert {"deep/file", "script"} == {*await sandbox.files.download("in", tmp_path / "out")}
    assert b"x" * 3 * MiB == (tmp_path / "out/deep/file").read_bytes()
    assert (tmp_path / "out/deep/empty").is_dir()
    with pytest.raises(NotFound):
        await sandbox.files.download("nowhere", tmp_path / "none")
    with pytest.raises(NotFound):
        await sandbox.files.upload(tmp_path / "nowhere")


async def test_a_tree_that_does_not_fit_is_refused(platform: Platform, tmp_path: Path):
    (tmp_path / "large").write_bytes(b"x" * 4 * MiB)
    async with await platform.open_sandbox(limits={"disk": "1MiB"}) as sandbox:
        with anyio.fail_after(SOON), pytest.raises(InvalidTask, match=r"[Nn]o space"):
            await sandbox.files.upload(tmp_path)

        assert 0 == (await (await sandbox.spawn(("true",))).wait()).code


async def test_a_file_action_that_is_stopped_is_not_waited_for_without_end(platform: Platform):
    """The guest stops whatever handles its files."""
    async with await platform.open_sandbox(limits={"wall": 1}) as sandbox:
        process = await sandbox.spawn(python(STOPPER))
        await until(process, b"here")
        with anyio.fail_after(30):
            for _ in range(100):
                try:
                    await sandbox.files.list("/usr/lib")
                except SandboxBroken:
                    return  # while it was read, or before it had begun


async def test_a_sandbox_ends_when_its_time_is_over_and_not_before(platform: Platform):
    sandbox = await platform.open_sandbox(ttl=0.5)
    sandbox.extend(30)
    assert 29 < (sandbox.expires or 0) - time.time()
    sandbox.extend(0.3)
    with anyio.fail_after(SOON):
        await sandbox.ended.wait()

    assert not sandbox.alive
    with pytest.raises(SandboxBroken):
        await sandbox.spawn(("true",))
    with pytest.raises(SandboxBroken):
        await sandbox.files.list()
    with pytest.raises(SandboxBroken):
        await sandbox.metrics()
    with pytest.raises(NotFound):
        platform.live.sandbox(sandbox.id)


@pytest.mark.parametrize("ttl", [0, -1])
async def test_no_time_is_no_time_to_live(platform: Platform, sandbox: Sandbox, ttl: float):
    with pytest.raises(InvalidTask, match="ttl"):
        await platform.open_sandbox(ttl=ttl)
    with pytest.raises(InvalidTask, match="ttl"):
        sandbox.extend(ttl)


async def test_a_paused_sandbox_does_nothing_until_it_is_resumed(sandbox: Sandbox):
    process = await sandbox.spawn(python(BUSY))
    await until(process, b"busy")
    await sandbox.pause()
    before = (await sandbox.metrics()).cpu or 0
    await anyio.sleep(0.5)  # that nothing happens takes time to see
    metrics = await sandbox.metrics()

    assert metrics.paused
    assert 0.1 > (metrics.cpu or 0) - before
    for refused in (sandbox.spawn(("true",)), sandbox.files.list()):
        with pytest.raises(Conflict, match="paused"):
            await refused
    await sandbox.resume()
    await eventually(lambda: _has_used(sandbox, before + 0.1))
    await process.signal(signal.SIGKILL)
    await process.wait()


async def _has_used(sandbox: Sandbox, cpu: float) -> bool:
    return ((await sandbox.metrics()).cpu or 0) > cpu


STOPPER = """
import os, signal
spared = {1, os.getpid(), os.getppid()}
print("here", flush=True)
while True:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(name) not in spared: os.kill(int(name), signal.SIGSTOP)
        except OSError: pass
"""
WAITING = "import time\nprint('here', flush=True)\ntime.sleep(60)"
FORKING = """
import os, time
print("busy", flush=True)
while True:
    if os.fork() == 0:
        end = time.monotonic() + 0.05
        while time.monotonic() < end: pass
        os._exit(0)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
"""


async def test_what_is_born_while_it_is_paused_is_paused_too(sandbox: Sandbox):
    process = await sandbox.spawn(python(FORKING))
    await until(process, b"busy")
    for _ in range(5):
        await sandbox.pause()
        before = (await sandbox.metrics()).cpu or 0
        await anyio.sleep(0.2)

        assert 0.05 > ((await sandbox.metrics()).cpu or 0) - before
        await sandbox.resume()
    await process.signal(signal.SIGKILL)
    await process.wait()


async def test_what_a_sandbox_uses_is_measured(sandbox: Sandbox):
    code = (
        "x = bytearray(60 << 20)\nopen('f', 'wb').write(x[:5 << 20])\nprint('here', flush=True)\n"
    )
    process = await sandbox.spawn(python(code + "import time; time.sleep(60)"))
    await until(process, b"here")
    metrics = await sandbox.metrics()

    assert 60 * MiB < (metrics.memory or 0) <= (metrics.peak or 0)
    assert 5 * MiB <= (metrics.disk or 0) < 8 * MiB
    assert 1 <= (metrics.inodes or 0) < 50
    assert 2 <= (metrics.processes or 0) < 6
    assert 0 < (metrics.cpu or 0) < 10
    assert metrics.expires is None
    assert not metrics.paused
    await process.signal(signal.SIGKILL)
    await process.wait()


async def test_processes_of_one_sandbox_share_its_limit_of_memory(platform: Platform):
    """What takes too much is ended; the sandbox lives on."""
    async with await platform.open_sandbox(limits={"memory": "128MiB"}) as sandbox:
        process = await sandbox.spawn(
            python("x = bytearray(1 << 30)\nfor n in range(0, 1 << 30, 4096): x[n] = 1")
        )

        assert 0 != (await process.wait()).code
        assert 0 == (await (await sandbox.spawn(("true",))).wait()).code


async def test_a_fork_bomb_stays_in_its_sandbox(platform: Platform):
    async with await platform.open_sandbox(limits={"processes": 16}) as sandbox:
        process = await sandbox.spawn(
            python("import os\nwhile True:\n try: os.fork()\n except OSError: pass")
        )
        await eventually(lambda: _processes_at_least(sandbox, 14))

        assert 16 >= ((await sandbox.metrics()).processes or 0)
        await process.signal(signal.SIGKILL)
        await process.wait()
        await eventually(lambda: _processes(sandbox, 2))


async def _processes_at_least(sandbox: Sandbox, least: int) -> bool:
    return ((await sandbox.metrics()).processes or 0) >= least


async def test_closing_ends_everything_in_it(platform: Platform):
    sandbox = await platform.open_sandbox()
    process = await sandbox.spawn(("sh", "-c", "setsid sleep 60 & sleep 60"))
    await sandbox.close()

    assert signal.SIGKILL == (await process.wait()).signal
    assert sandbox not in platform.live.sandboxes()


async def test_a_start_that_nobody_waits_for_leaves_nothing(sandbox: Sandbox):
    """The caller gives up at any moment: nothing of it runs on, and the next one starts."""
    for delay in (0, 0.0002, 0.0005, 0.001, 0.002, 0.004):
        process = None
        with anyio.move_on_after(delay):
            process = await sandbox.spawn(("sleep", "60"), stdin=None)
        if process is not None:
            await process.signal(signal.SIGKILL)
            await process.wait()
    await eventually(lambda: _processes(sandbox, 1))

    assert 0 == (await (await sandbox.spawn(("true",))).wait()).code


async def test_descriptors_are_given_back(platform: Platform):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with await platform.open_sandbox() as sandbox:
        before = 0
        for turn in range(20):
            if turn == 1:  # what is opened once, the door for other processes say, is open by now
                before = count()
            await said(await sandbox.spawn(("echo", "x")))
            await (await sandbox.spawn(("true",), pty=(24, 80))).wait()
            await sandbox.files.write("x", b"y")
            await sandbox.files.list()
            with pytest.raises(NotFound):
                await sandbox.spawn(("nosuch",))
            with pytest.raises(NotFound):
                await sandbox.files.read("nosuch")

        assert before >= count()  # others may have closed theirs meanwhile


async def test_as_few_open_files_as_may_be_are_enough(platform: Platform):
    async with await platform.open_sandbox(limits={"open_files": 32}) as sandbox:
        assert 0 == (await (await sandbox.spawn(("true",))).wait()).code


async def test_more_than_may_live_are_refused():
    settings = Settings(most_live=3, most_live_each=2)
    async with Platform(settings) as platform:
        first = await platform.open_sandbox(owner="a")
        await platform.open_sandbox(owner="a")
        with pytest.raises(Overloaded, match="most for one owner"):
            await platform.open_sandbox(owner="a")
        await platform.open_sandbox(owner="b")
        with pytest.raises(Overloaded, match="which is the most;"):
            await platform.open_sandbox(owner="c")
        await first.close()

        assert (
            0
            == (await (await (await platform.open_sandbox(owner="a")).spawn(("true",))).wait()).code
        )


async def test_ids_cannot_be_guessed(platform: Platform):
    async with await platform.open_sandbox() as first, await platform.open_sandbox() as second:
        assert first.id != second.id
        assert 20 <= len(first.id)


async def test_it_ends_with_its_platform():
    async with Platform() as platform:
        sandbox = await platform.open_sandbox()
        process = await sandbox.spawn(("sleep", "60"))

    assert not sandbox.alive
    assert process.exited is not None


def test_it_works_without_an_event_loop(tmp_path: Path):
    with saggar.open_sandbox() as sandbox:
        process = sandbox.spawn(("cat",), stdin=None)
        process.write(b"said")
        process.close_stdin()

        assert [("stdout", b"said")] == list(process.output())
        assert 0 == process.wait().code
        sandbox.files.write("x", b"y")
        assert ("x",) == sandbox.files.download(".", tmp_path)
        sandbox.pause()
        sandbox.resume()
