"""Another process's way to the sandboxes of this one, with the driver that every machine has."""

import json
import logging
import os
import resource
import signal
import socket
import stat
import sys
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from saggar.config import Settings
from saggar.errors import InvalidTask, NotFound, PlatformError, UsageError
from saggar.model.limits import LIMIT_NAMES
from saggar.model.policy import Network, Policy, Rung
from saggar.platform import Platform
from saggar.sessions import control
from saggar.sessions.control import peer
from saggar.sessions.line import LARGEST, LONGEST, Line
from saggar.sessions.reach import distinct, find, heard, kill, living, look_at_all, reached
from saggar.sessions.table import Row, Table

OPEN = Policy(isolation=Rung.PROCESS, network=Network.HOST, best_effort=frozenset(LIMIT_NAMES))


def row(name, kind="sandbox", created=1.0):
    return Row(name, kind, "jail", "", created)


async def soon(true):
    """Until it is, which is soon."""
    with anyio.fail_after(10):
        while not true():  # noqa: ASYNC110 - of a file, or of what has no event
            await anyio.sleep(0.01)


@asynccontextmanager
async def opened(folder, **options):
    """A sandbox of a platform that others can reach, and where it lives."""
    asked = {"driver": "process", "policy": OPEN, **options}
    async with (
        Platform(Settings(runtime_dir=folder)) as platform,
        await platform.open_sandbox(**asked) as sandbox,
    ):
        place = find(Table(folder), sandbox.id)
        await soon((place.holder.folder / control.NAME).exists)
        yield sandbox, place


@asynccontextmanager
async def told(place, say, **head):
    """A request that was sent."""
    async with reached(place.holder) as line:
        await line.send(say, **{"id": place.id, **head})
        yield line


async def execute(place, *argv, stdin=b"", **head):
    """What a program says, and how it ends."""
    said = {"stdout": b"", "stderr": b""}
    async with told(place, "exec", argv=argv, **head) as line:
        await heard(line)
        await line.send("stdin", stdin)
        while (message := await heard(line)).say != "exit":
            if message.say == "taken":
                await line.send("eof")
            else:
                said[message.say] += message.data
    return said["stdout"], said["stderr"], message.head["code"], message.head["signal"]


@asynccontextmanager
async def ends(folder):
    """A line, and the bare socket at its other end."""
    accepted = []

    async def accept(stream):
        async with stream:
            accepted.append(stream)
            await anyio.sleep_forever()

    async with (
        await anyio.create_unix_listener(folder / "s") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, accept)
        async with await anyio.connect_unix(folder / "s") as stream:
            await soon(lambda: accepted)
            yield Line(stream), accepted[0]
        tasks.cancel_scope.cancel()


async def test_a_message_is_a_line_and_the_bytes_it_announces(tmp_path):
    async with ends(tmp_path) as (line, other):
        await other.send(b'{"say": "data", "size": 3, "x": 1}\na\nb{"say": "done"}\n')
        first, second = await line.receive(), await line.receive()
        await other.aclose()
        last = await line.receive()

    assert ("data", 1, b"a\nb") == (first.say, first.head["x"], first.data)
    assert ("done", b"") == (second.say, second.data)
    assert last is None


async def test_more_bytes_than_fit_are_several_messages(tmp_path):
    async with ends(tmp_path) as (line, other), anyio.create_task_group() as tasks:
        tasks.start_soon(line.send, "data", b"x" * (LARGEST + 1))
        receiving = Line(other)
        found = [await receiving.receive() for _ in range(2)]
        sizes = [len(message.data) for message in found if message]

    assert [LARGEST, 1] == sizes


@pytest.mark.parametrize(
    "said",
    [
        b"hello\n",
        b"[]\n",
        b'{"say": 1}\n',
        b'{"say": "x", "size": -1}\n',
        b'{"say": "x", "size": 99999999999}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (LONGEST + (1 << 17)),
    ],
)
async def test_what_is_no_message_is_refused(tmp_path, said):
    async with ends(tmp_path) as (line, other), anyio.create_task_group() as tasks:
        tasks.start_soon(other.send, said)
        with pytest.raises(InvalidTask):
            await line.receive()
        tasks.cancel_scope.cancel()


def test_the_kernel_says_who_is_at_the_other_end():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert os.geteuid() == peer(ours)


async def test_only_this_user_can_enter_and_the_door_is_in_its_folder(tmp_path):
    async with opened(tmp_path) as (_, place):
        folder = place.holder.folder
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / control.NAME)]

    assert [0o700, 0o600] == modes
    assert not folder.exists()


@pytest.mark.root
async def test_another_user_is_refused_even_where_the_folder_lets_him(tmp_path):
    async with opened(tmp_path) as (_, place):
        (place.holder.folder / control.NAME).chmod(0o666)
        for folder in [place.holder.folder, *place.holder.folder.parents]:
            if folder.is_relative_to(tmp_path.parent.parent):
                folder.chmod(0o755)
        code = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "print(s.recv(9999).decode())"  # he is told before he has asked
        )
        argv = ["/usr/bin/python3", "-c", code, control.NAME]  # an address is a short name
        folder = place.holder.folder
        ended = await anyio.run_process(argv, user=65534, cwd=folder, check=False)

    assert b"another user's" in ended.stdout, ended.stderr


async def test_what_lives_is_listed_with_what_it_uses(tmp_path):
    async with opened(tmp_path, owner="ada", ttl=60) as (sandbox, _):
        (look,) = await look_at_all(Table(tmp_path))
        (found,) = look.rows

    assert not look.silent
    assert (sandbox.id, "sandbox", "process", "ada") == (
        found["id"],
        found["kind"],
        found["driver"],
        found["owner"],
    )
    assert (os.getpid(), sandbox.expires) == (found["pid"], found["expires"])
    assert found["processes"] >= 1


async def test_a_program_is_relayed_with_its_streams_and_its_end(tmp_path):
    script = "cat; echo err >&2; echo $WORD; exit 5"
    async with opened(tmp_path) as (_, place):
        found = await execute(place, "sh", "-c", script, stdin=b"in\n", env={"WORD": "there"})

    assert (b"in\nthere\n", b"err\n", 5, None) == found


async def test_a_program_ended_by_a_signal_says_which(tmp_path):
    async with opened(tmp_path) as (_, place), told(place, "exec", argv=["sleep", "60"]) as line:
        await heard(line)
        await line.send("signal", number=signal.SIGTERM)
        ended = await heard(line)

    assert (None, signal.SIGTERM) == (ended.head["code"], ended.head["signal"])


async def test_output_is_whole_however_slowly_it_is_read(tmp_path):
    async with opened(tmp_path) as (_, place):
        found, *_ = await execute(place, "head", "-c", "3000000", "/dev/zero")

    assert 3_000_000 == len(found)


async def test_a_program_that_does_not_read_can_still_be_told_to_end(tmp_path):
    """Its stdin is full, and the signal comes behind it."""
    async with opened(tmp_path) as (_, place), told(place, "exec", argv=["sleep", "60"]) as line:
        await heard(line)
        await line.send("stdin", b"x" * LARGEST)
        await line.send("signal", number=signal.SIGKILL)
        while (message := await heard(line)).say != "exit":
            pass

    assert signal.SIGKILL == message.head["signal"]


async def test_a_program_ends_with_its_caller(tmp_path):
    async with opened(tmp_path) as (sandbox, place):
        async with told(place, "exec", argv=["sleep", "60"]) as line:
            await heard(line)
            before = len(sandbox.keeper._started)
        await soon(lambda: not sandbox.keeper._started)

    assert 1 == before


async def test_two_programs_are_relayed_at_once(tmp_path):
    async with opened(tmp_path) as (_, place), told(place, "exec", argv=["cat"]) as one:
        await heard(one)
        other = await execute(place, "echo", "2")
        await one.send("eof")
        ended = await heard(one)

    assert (b"2\n", 0) == (other[0], ended.head["code"])


@pytest.mark.parametrize(
    ("say", "head", "kind", "words"),
    [
        ("exec", {"argv": ["no-such-program"]}, NotFound, "no-such-program"),
        ("exec", {"argv": []}, InvalidTask, "argv"),
        ("exec", {"argv": ["ls", 7]}, InvalidTask, "argv"),
        ("exec", {"argv": ["ls"], "pty": [0, 80]}, InvalidTask, "pty"),
        ("exec", {"id": "nobody", "argv": ["ls"]}, NotFound, "no live sandbox"),
        ("kill", {"id": "nobody"}, NotFound, "no live sandbox"),
        ("get", {"path": "no-such-file"}, NotFound, "no-such-file"),
        ("put", {"path": "x", "name": "../y"}, InvalidTask, "slash"),
        ("dance", {}, InvalidTask, "dance"),
    ],
)
async def test_a_refusal_says_what_is_wrong_and_nobody_else_notices(
    tmp_path, say, head, kind, words
):
    async with opened(tmp_path) as (_, place):
        with pytest.raises(kind, match=words):
            async with told(place, say, **head) as line:
                await heard(line)
        after = await execute(place, "echo", "on")

    assert b"on\n" == after[0]


async def test_a_program_is_told_nothing_unknown(tmp_path):
    async with opened(tmp_path) as (sandbox, place):
        async with told(place, "exec", argv=["sleep", "60"]) as line:
            await heard(line)
            await line.send("sing")
            with pytest.raises(InvalidTask, match="cannot be told 'sing'"):
                await heard(line)
        await soon(lambda: not sandbox.keeper._started)


async def test_whoever_says_nothing_useful_is_sent_away(tmp_path):
    async with opened(tmp_path) as (_, place), reached(place.holder) as line:
        await line._stream.send(b"GET / HTTP/1.1\n\n")
        with pytest.raises(InvalidTask):
            await heard(line)


async def test_not_all_of_the_world_is_answered_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "MOST", 1)
    async with opened(tmp_path) as (_, place), told(place, "exec", argv=["cat"]) as line:
        await heard(line)
        with pytest.raises(PlatformError, match="the most"):
            await execute(place, "ls")


CALLER = """
import socket, sys
sys.stdin.readline()
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
sys.stdout.write("there\\n")  # in one piece, however it is buffered
sys.stdout.flush()
s.sendall(b'{"say": "list"}\\n')
sys.stdout.write(s.makefile().readline())
sys.stdout.flush()
"""


async def test_a_process_without_descriptors_answers_when_it_has_some(tmp_path):
    async with opened(tmp_path) as (sandbox, place):
        argv = [sys.executable, "-c", CALLER, control.NAME]
        folder = place.holder.folder
        async with await anyio.open_process(argv, stderr=None, cwd=folder) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                await process.stdin.send(b"\n")
                connected = await process.stdout.receive()
                for _ in range(10):  # the door sees him, and cannot let him in
                    await anyio.lowlevel.checkpoint()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with anyio.fail_after(10):
                answer = await process.stdout.receive()

    assert b"there\n" == connected
    assert sandbox.id.encode() in answer


async def test_a_sandbox_is_killed_from_elsewhere(tmp_path):
    async with opened(tmp_path) as (sandbox, place):
        await kill(place)

        assert sandbox.ended.is_set()
        assert () == living(Table(tmp_path))


async def test_a_process_that_does_not_answer_is_shown_by_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("saggar.sessions.reach.PATIENCE", 0.1)
    code = (
        "import os, sys; from saggar.sessions.table import *; from pathlib import Path\n"
        "Table(Path(sys.argv[1])).add(Row('abc', 'session', 'jail', '', 1.0, 'python', 'shell'))\n"
        "print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    async with await anyio.open_process(argv, stderr=None) as process:
        assert process.stdout is not None
        await process.stdout.receive()
        (look,) = await look_at_all(Table(tmp_path))
        (found,) = look.rows

    assert look.silent
    assert ("abc", "python", "shell", process.pid) == (
        found["id"],
        found["language"],
        found["engine"],
        found["pid"],
    )


def test_the_beginning_of_an_id_finds_it_where_it_is_unique(tmp_path):
    table = Table(tmp_path)
    for name in ("abc1", "abd2", "abd23", "e"):
        table.add(row(name))

    assert ["abc1", "abd2", "e"] == [find(table, word).id for word in ("abc", "abd2", "e")]
    with pytest.raises(UsageError, match="'ab' begins 3 ids"):
        find(table, "ab")
    for word in ("", "x", "bc1"):
        with pytest.raises(NotFound):
            find(table, word)


def test_a_session_and_its_sandbox_are_one():
    rows = [row("a", "session"), row("a"), row("b", created=0.5)]

    assert [("b", "sandbox"), ("a", "session")] == [(r.id, r.kind) for r in distinct(rows)]


def lose(folder, *rows):
    """The folder of a process that is dead."""
    place = folder / "live" / "4194304-7-00"
    place.mkdir(parents=True)
    for kind, name in rows:
        said = {"id": name, "kind": kind, "driver": "jail", "owner": "", "created": 1.0}
        (place / f"{kind}-{name}.json").write_text(json.dumps(said))
    (place / control.NAME).touch()
    return place


async def test_what_was_lost_is_said_once_and_swept(tmp_path, caplog):
    place = lose(tmp_path, ("session", "abc"), ("sandbox", "abc"), ("sandbox", "d"))
    with caplog.at_level(logging.INFO):
        async with opened(tmp_path):
            pass

    assert 1 == caplog.text.count("lost with a process that was killed")
    assert "session abc" in caplog.text
    assert not place.exists()


async def test_a_sweep_counts_what_was_lost(tmp_path):
    lose(tmp_path, ("session", "abc"), ("sandbox", "abc"), ("sandbox", "d"))
    async with Platform(Settings(runtime_dir=tmp_path, cache_dir=tmp_path / "cache")) as platform:
        swept, again = await platform.sweep(), await platform.sweep()

    assert (1, 2) == (swept["lost_sessions"], swept["lost_sandboxes"])
    assert not {"lost_sessions", "lost_sandboxes"} & again.keys()


def test_tables_of_one_process_do_not_close_each_other(tmp_path):
    one, other = Table(tmp_path), Table(tmp_path)
    one.add(row("a"))
    other.add(row("b"))
    other.add(row("b", "session"))
    other.remove("b")
    one.close()

    assert [("b", "session")] == [(r.id, r.kind) for _, r in living(other)]
