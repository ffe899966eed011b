"""Commands: what is heard of them, and that none outlives its time."""

import logging
import os
import sys

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from saggar.environments import commands
from saggar.environments.commands import Command
from saggar.errors import PrepareFailed

LEAVES = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(600)
time.sleep({seconds})
"""


def python(code: str, **options) -> Command:
    return Command([sys.executable, "-I", "-S", "-c", code], **options)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def ended(pids: list[int]) -> bool:
    with anyio.move_on_after(10):
        while any(map(is_alive, pids)):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        return True
    return False


async def test_a_command_gives_its_output_and_its_log():
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    said = await commands.run(python(code), lambda _: "no")

    assert (0, b"out\n") == (said.code, said.output)
    assert ["err", "out"] == sorted(said.log.splitlines())


async def test_lines_are_logged_as_they_come(caplog):
    heard: list[str] = []
    with caplog.at_level(logging.DEBUG, "saggar.environments"):
        await commands.run(python("print('one'); print('two')", hear=heard.append), lambda _: "no")
    name = os.path.basename(sys.executable)

    assert ["one", "two"] == heard
    assert [f"{name}: started", f"{name}: one", f"{name}: two"] == caplog.messages


async def test_a_failure_is_explained_from_its_log():
    with pytest.raises(PrepareFailed, match="it said: broken") as failure:
        await commands.run(
            python("import sys; sys.exit('broken')"), lambda log: f"it said: {log.strip()}"
        )

    assert "broken\n" == failure.value.log


async def test_what_cannot_be_started_is_our_failure():
    with pytest.raises(PrepareFailed, match="/nowhere/uv cannot be started: no such file"):
        await commands.attempt(Command(["/nowhere/uv"]))


async def test_nothing_of_our_environment_is_passed_on(monkeypatch):
    monkeypatch.setenv("CLAY", "grey")
    code = "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"
    said = await commands.attempt(python(code, env={"KILN": "hot"}))

    assert b"['KILN']\n" == said.output


async def test_time_that_is_up_ends_the_whole_tree():
    heard: list[str] = []
    slow = python(LEAVES.format(seconds=600), timeout=1, hear=heard.append)
    with pytest.raises(PrepareFailed, match="did not end within 1 s") as failure:
        await commands.attempt(slow)
    pids = [int(line) for line in heard]

    assert 2 == len(pids)
    assert await ended(pids)
    assert heard == failure.value.log.splitlines()


async def test_who_gives_up_ends_the_whole_tree():
    heard: list[str] = []

    def hear(line: str) -> None:
        heard.append(line)
        if len(heard) == 2:
            scope.cancel()

    with anyio.CancelScope() as scope:
        await commands.attempt(python(LEAVES.format(seconds=600), hear=hear))

    assert scope.cancelled_caught
    assert await ended([int(line) for line in heard])


async def test_a_child_left_behind_does_not_keep_us_waiting():
    code = "import os, time\nif os.fork() == 0:\n    print('left', flush=True); time.sleep(600)"
    with anyio.fail_after(20):
        said = await commands.attempt(python(code))

    assert 0 == said.code


async def test_secrets_are_in_no_log(caplog):
    code = """
import os, sys
print('token', os.environ['HF_TOKEN'], 'at https://me:word@index/simple', file=sys.stderr)
sys.exit(1)
"""
    with caplog.at_level(logging.DEBUG, "saggar.environments"), pytest.raises(PrepareFailed) as no:
        await commands.run(python(code, env={"HF_TOKEN": "hf_secret"}), lambda log: log)

    assert "token *** at https://***@index/simple" == no.value.log.strip()
    assert "token *** at https://***@index/simple" == str(no.value).strip()
    assert "hf_secret" not in caplog.text


async def test_a_long_log_keeps_its_end():
    said = await commands.attempt(python("for n in range(200_000): print(n)"))

    assert said.log.endswith("199999\n")
    assert commands.LOG_KEPT >= len(said.log)


async def test_an_answer_without_end_is_none(monkeypatch):
    monkeypatch.setattr(commands, "OUTPUT_KEPT", 1 << 20)
    with pytest.raises(PrepareFailed, match="said more than 1 MiB"):
        await commands.attempt(python("print('x' * (2 << 20))"))


async def test_a_bar_that_is_drawn_over_itself_is_heard_line_by_line():
    heard: list[str] = []
    await commands.attempt(python("print('1 %\\r2 %\\r3 %')", hear=heard.append))

    assert ["1 %", "2 %", "3 %"] == heard


OWNER = """
import anyio, sys
from saggar.environments import commands
argv = [sys.executable, "-I", "-S", "-c", sys.argv[1]]
hear = lambda line: print(line, flush=True)
anyio.run(commands.attempt, commands.Command(argv, hear=hear))
"""
KIN = """
import os, time
os.write(1, b"%d\\n" % os.getpid())
if os.fork() == 0:
    os.write(1, b"%d\\n" % os.getpid())
time.sleep(600)
"""


async def test_a_kill_of_ours_ends_a_command_and_whom_it_started():
    words = [sys.executable, "-c", OWNER, KIN]
    async with await anyio.open_process(words, stdin=None) as owner:
        assert owner.stdout is not None
        heard = BufferedByteReceiveStream(owner.stdout)
        with anyio.fail_after(30):
            pids = [int(await heard.receive_until(b"\n", 20)) for _ in range(2)]
        owner.kill()

        assert await ended(pids)
