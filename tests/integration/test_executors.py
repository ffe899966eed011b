"""Typed executors as their users meet them: real jails, the examples, the documentation."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import ROOT

import saggar
from saggar.errors import (
    ExecutionFailed,
    ExecutionTimeout,
    InvalidInput,
    InvalidOutput,
    PolicyDenied,
)

EXAMPLES = ROOT / "examples" / "executors"
STATS = EXAMPLES / "stats.py"


@dataclass
class Input:
    values: list[float]


@dataclass
class Output:
    count: int
    sum: float
    mean: float


def sandboxed(source, **options) -> Any:
    return saggar.SandboxExecutor(source, entry="f", **options)


def processes_with(mark):
    """Processes of this machine, inside sandboxes too, whose command line or name holds `mark`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


async def gone(mark):
    """Whether they all end while we watch."""
    with anyio.move_on_after(10):
        while processes_with(mark):  # noqa: ASYNC110 - nobody tells of another's processes
            await anyio.sleep(0.02)
    return not processes_with(mark)


@pytest.mark.parametrize("name", ["local.py", "sandbox.py"])
def test_the_documents_example_runs(name):
    ran = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=50, check=False
    )

    assert ("count 5, sum 15.0, mean 3.0\n", "") == (ran.stdout, ran.stderr)


def snippets():
    """The blocks of Python in the documentation of executors, each with the line it begins at."""
    text = (ROOT / "docs" / "executors.md").read_text()
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start()) + 2
        yield pytest.param(found[1], line, id=f"line {line}")


@pytest.mark.parametrize(("code", "line"), [*snippets()])
def test_the_documentation_runs_as_it_is_written(tmp_path, monkeypatch, code, line):
    """Its assertions are the test; files it names are beside it."""
    (tmp_path / "stats.py").write_text(STATS.read_text())
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "snippet"}

    exec(compile("\n" * (line - 1) + code, "docs/executors.md", "exec", dont_inherit=True), space)


def test_a_function_of_a_file_gets_and_gives_its_types():
    stats = saggar.Executor[Input, Output].from_source(STATS, entry="describe", timeout=20)

    assert Output(5, 15.0, 3.0) == stats(Input([1, 2, 3, 4, 5]))
    assert Output(1, 2.0, 2.0) == stats.execute(Input([2]))


async def test_a_call_may_be_awaited_in_any_loop():
    stats = saggar.Executor[Input, Output].from_source(STATS, entry="describe", timeout=20)

    assert Output(2, 3.0, 1.5) == await stats.aexecute(Input([1, 2]))


async def test_many_calls_at_once_have_a_sandbox_each():
    stats = saggar.Executor[Input, Output].from_source(STATS, entry="describe", timeout=50)
    found = {}

    async def one(number):
        found[number] = (await stats.aexecute(Input([number]))).sum

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(one, float(number))

    assert {float(number): float(number) for number in range(12)} == found


async def test_a_call_may_be_made_on_a_platform_of_ones_own():
    async with saggar.Platform() as platform:
        stats = saggar.Executor[Input, Output].from_source(
            STATS, entry="describe", timeout=20, platform=platform
        )

        assert Output(1, 1.0, 1.0) == await stats.aexecute(Input([1]))


async def test_a_ceiling_of_the_platform_holds():
    ceiling = saggar.Policy(limits={"memory": "64MiB"})
    async with saggar.Platform(saggar.Settings(ceiling=ceiling)) as platform:
        hungry = sandboxed(
            "def f(n): return len(bytearray(n))", platform=platform, limits={"memory": "1GiB"}
        )

        with pytest.raises((ExecutionFailed, PolicyDenied)):
            await hungry.aexecute(200 << 20)


def test_what_it_prints_does_not_disturb_the_answer():
    loud = sandboxed("def f(v):\n    print('{\"ok\": false}')\n    return v")

    assert {"a": 1} == loud({"a": 1})
    assert '{"ok": false}\n' == loud.call(1).stdout


def test_null_is_an_input_and_an_output():
    assert sandboxed("def f(v): return v")(None) is None


def test_a_coroutine_function_is_awaited_behind_walls():
    assert 3 == sandboxed("import asyncio\nasync def f(v):\n    return v + 1")(2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(v): raise ValueError('no good')", "execution failed: ValueError: no good"),
        ("def g(v): pass", "execution failed: .*f"),
        ("f = 5", "execution failed: .*"),
        ("def f(v) return", "execution failed: SyntaxError"),
        ("def f(v): raise SystemExit(3)", "execution failed: .*3"),
        ("import os\ndef f(v): os._exit(3)", "execution failed: .*"),
        ("import os\ndef f(v): os.kill(os.getpid(), 9)", "execution failed: .*SIGKILL"),
        ("def f(v): return b'x'", "execution failed: .*|output validation failed: .*"),
        ("def f(v): return float('nan')", "execution failed: .*|output validation failed: .*"),
        ("def f(v):\n    v = []\n    v.append(v)\n    return v", "(execution|output) .*"),
    ],
)
def test_a_function_that_does_not_answer_failed(source, message):
    with pytest.raises((ExecutionFailed, InvalidOutput), match=f"^{message}") as failed:
        sandboxed(source)(1)

    assert failed.value.result is not None


def test_an_answer_its_schema_does_not_allow_carries_the_result():
    short = sandboxed("def f(v):\n    print('said')\n    return v", schema_out={"maxLength": 2})

    with pytest.raises(InvalidOutput) as refused:
        short("long")

    assert 'output validation failed: "long" is longer than 2 characters' == str(refused.value)
    assert "said\n" == refused.value.result.stdout


def test_an_input_its_schema_does_not_allow_starts_nothing():
    with pytest.raises(InvalidInput, match="at /0"):
        sandboxed("def f(v): 1 / 0", schema_in={"items": {"type": "string"}})([1])


def test_a_timeout_ends_the_run():
    late = sandboxed(
        "import subprocess\ndef f(v): subprocess.run(['sleep', '60'])", timeout="500ms"
    )
    begun = time.monotonic()

    with pytest.raises(ExecutionTimeout, match=r"^execution timed out after 0.5s$") as over:
        late(1)

    assert 30 > time.monotonic() - begun
    assert "wall" == over.value.result.limit


async def test_a_cancelled_call_kills_the_run():
    mark = f"saggar-cancelled-{os.getpid()}".encode()
    source = f"import os\ndef f(v): os.execlp('sh', 'sh', '-c', 'sleep 60; : {mark.decode()}')\n"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandboxed(source, timeout=60).aexecute, 1)
        with anyio.fail_after(20):
            while not processes_with(mark):  # noqa: ASYNC110 - nor of its own
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()

    assert await gone(mark)


async def test_a_call_that_blocks_may_be_made_where_a_loop_runs():
    """It blocks the loop, as any call does that is not awaited; it does not fail."""
    assert 2 == sandboxed("def f(v): return v + 1")(1)


def test_there_is_no_network_and_no_host():
    nosy = sandboxed(
        "import os, socket\n"
        "def f(v):\n"
        "    try:\n"
        "        socket.create_connection(('127.0.0.1', 9), 1)\n"
        "    except OSError as exc:\n"
        "        return [os.environ.get('SECRET'), type(exc).__name__ != '']\n"
    )

    assert [None, True] == nosy(1)


def test_files_and_variables_are_there():
    reads = sandboxed(
        "import os\ndef f(v): return [open('data.txt').read(), os.environ['K']]",
        files={"data.txt": "hello"},
        env={"K": "v"},
    )

    assert ["hello", "v"] == reads(1)


@pytest.mark.parametrize("end", ["raise SystemExit(0)", "__import__('os')._exit(0)"])
def test_no_answer_is_no_null(end):
    call = sandboxed(f"def f(v): {end}")

    with pytest.raises(ExecutionFailed, match="NoAnswer: the program ended without an answer"):
        call(1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("{'x': [1, {1: 2}]}", "at /x/1: the key 1 is not text"),
        ("{'x': [1, float('nan')]}", "at /x/1: nan"),
        ("[b'x']", "at /0: bytes"),
    ],
)
def test_an_answer_without_json_form_says_where(answer, said):
    call = sandboxed(f"def f(v): return {answer}")

    with pytest.raises(ExecutionFailed, match=f"the answer has no JSON form: {said}"):
        call(1)
