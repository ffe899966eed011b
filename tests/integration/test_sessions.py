"""Sessions: interpreters that remember, and what is known of every cell."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

import saggar
from saggar import Environment, Platform, Policy, Status
from saggar.config import Settings
from saggar.engine.session import Session
from saggar.errors import Conflict, InvalidTask, NotFound, Overloaded, PrepareFailed
from saggar.model.event import Cleared, Displayed, Event, Finished, Output, Started
from saggar.model.result import Result
from saggar.sessions.directory import Caps, Directory
from saggar.sessions.table import Table

SOON = 10.0
LIMITS = {"wall": "20s", "cpu": "20s", "grace": 1}
FOREVER = "print('here', flush=True)\nwhile True: pass"


@pytest.fixture(scope="module")
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as opened:
        yield opened


@pytest.fixture
async def session(platform: Platform) -> AsyncIterator[Session]:
    async with await platform.open_session("python", limits=LIMITS) as opened:
        yield opened


async def events_of(session: Session, code: str, **how: Any) -> list[Event]:
    async with aclosing(session.events(code, **how)) as events:
        return [event async for event in events]


async def under_way(events, words: bytes = b"here") -> bytes:
    """Read until the cell has said so."""
    heard = b""
    with anyio.fail_after(SOON):
        async for event in events:
            if isinstance(event, Output):
                heard += event.data
                if words in heard:
                    return heard
    raise AssertionError(heard)


async def eventually(holds) -> None:
    with anyio.fail_after(SOON):
        while not holds():  # noqa: ASYNC110 - nobody tells; there is a deadline
            await asyncio.sleep(0)


async def beside(session: Session, code: str = FOREVER, **how: Any) -> tuple:
    """A cell under way in a task of its own: its group, and where its result will be."""
    results: list[Result] = []
    started = anyio.Event()

    async def run() -> None:
        events = []
        async with aclosing(session.events(code, **how)) as stream:
            async for event in stream:
                events.append(event)
                if isinstance(event, Output):
                    started.set()
        results.append(saggar.model.event.fold(events))

    return run, started, results


class TestValues:
    async def test_a_cell_remembers_what_the_ones_before_it_said(self, session: Session):
        await session.run("x = 40")
        result = await session.run("x + 2")

        assert (Status.OK, 42, 2) == (result.status, result.value, result.execution_count)
        assert 2 == session.execution_count

    @pytest.mark.parametrize(
        ("code", "value"),
        [
            ("1.5", 1.5),
            ("'text'", "text"),
            ("[1, {'a': None}]", [1, {"a": None}]),
            ("(1, 2)", [1, 2]),
            ("None", None),
            ("x = 1", None),
            ("7;", None),
            ("True", True),
            ("b'x'", "b'x'"),
            ("{1: 2}", "{1: 2}"),
            ("float('nan')", "nan"),
            ("{1}", "{1}"),
            ("'\\ud800'", "'\\ud800'"),
            ("object", "object"),
            ("10**400", "1" + "0" * 400),
            ("1j", "1j"),
        ],
    )
    async def test_a_value_is_json_where_it_can_and_its_text_elsewhere(
        self, session: Session, code: str, value: object
    ):
        result = await session.run(code)

        assert Status.OK is result.status, result.error
        assert result.value in (value, 10**400)
        result.model_dump_json()

    async def test_the_value_is_shown_as_well(self, session: Session):
        (shown,) = (await session.run("[1, 2]")).displays

        assert ("result", {"text/plain": "[1, 2]"}) == (shown.role, shown.data)

    async def test_a_cell_may_leave_its_value_unkept(self, session: Session):
        await session.run("5")
        await session.run("6", kept=False)

        assert 5 == (await session.run("_")).value
        assert 2 == session.execution_count

    async def test_what_is_too_large_to_show_is_said(self, session: Session):
        result = await session.run("'x' * 3_000_000")

        assert Status.ERROR is result.status
        assert "3000" in result.error.message
        assert 1 == (await session.run("1")).value


class TestDisplays:
    async def test_a_display_comes_where_it_was_shown(self, session: Session):
        code = "print('a')\ndisplay('b')\nprint('c')\n'd'"
        found = [
            event.data if isinstance(event, Output) else event.display.data["text/plain"]
            for event in await events_of(session, code)
            if isinstance(event, Output | Displayed)
        ]

        assert [b"a\n", "'b'", b"c\n", "'d'"] == found

    async def test_a_display_is_updated_by_its_id(self, session: Session):
        await session.run("shown = display('old', display_id='one')")
        (new,) = (await session.run("shown.update('new')")).displays

        assert ("one", True, "'new'") == (new.id, new.update, new.data["text/plain"])

    async def test_what_was_shown_is_cleared(self, session: Session):
        code = "from IPython.display import clear_output\nprint(1)\n"
        code += "clear_output(wait=True)\nclear_output()\nprint(2)\nclear_output()"
        found = [e for e in await events_of(session, code) if isinstance(e, Cleared)]

        assert [True, False] == [event.wait for event in found]

    async def test_an_object_says_how_it_is_shown(self, session: Session):
        """As a table of pandas does."""
        code = "class Table:\n def _repr_html_(self): return '<table></table>'\n"
        code += " def __repr__(self): return 'table'\nTable()"
        (shown,) = (await session.run(code)).displays

        assert {"text/html": "<table></table>", "text/plain": "table"} == shown.data

    async def test_metadata_comes_along(self, session: Session):
        code = "display({'text/plain': 'x'}, raw=True, metadata={'text/plain': {'a': [1]}})"
        (shown,) = (await session.run(code)).displays

        assert {"text/plain": {"a": [1]}} == shown.metadata

    async def test_figures_are_shown_as_pixels_and_as_lines(self, platform: Platform):
        environment = Environment(packages=("matplotlib",))
        try:
            session = await platform.open_session(
                "python",
                environment=environment,
                limits={**LIMITS, "memory": "1GiB"},
            )
        except PrepareFailed as exc:
            pytest.skip(f"no index answers: {exc}"[:200])
        async with session:
            code = (
                "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()\nprint('after')"
            )
            result = await session.run(code)
            again = await session.run("plt.plot([3, 2]);")

        assert Status.OK is result.status, result.error
        assert {"image/png", "image/svg+xml"} <= result.displays[0].data.keys()
        assert result.displays[0].data["image/png"].startswith("iVBOR")
        assert {"image/png", "image/svg+xml"} <= again.displays[-1].data.keys()


class TestOutput:
    async def test_streams_come_in_the_order_in_which_they_were_written(self, session: Session):
        code = "import sys\nfor n in range(20):\n print(n)\n print(n, file=sys.stderr)"
        events = [e for e in await events_of(session, code) if isinstance(e, Output)]

        wanted = [(s, b"%d\n" % n) for n in range(20) for s in ("stdout", "stderr")]
        assert wanted == [(e.stream, e.data) for e in events]

    async def test_children_and_c_code_are_heard_where_they_speak(self, session: Session):
        code = "import os, subprocess\nprint(1)\nos.write(1, b'2\\n')\nprint(3)\n"
        code += "subprocess.run(['echo', '4'])\nprint(5)\n!echo 6\nprint(7)"

        for _ in range(5):
            assert "1\n2\n3\n4\n5\n6\n7\n" == (await session.run(code)).stdout

    async def test_what_is_not_text_comes_as_it_is(self, session: Session):
        result = await session.run(
            "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe')\nprint('\\udcff')"
        )

        assert b"\xff\xfe" in result.stdout_bytes

    async def test_more_output_than_may_be_is_cut_and_the_session_goes_on(self, platform: Platform):
        async with await platform.open_session(
            "python", limits={**LIMITS, "output": "64KiB"}
        ) as session:
            await session.run("x = 1")
            result = await session.run("while True: print('y' * 1000)")

            assert (Status.OUTPUT, "output", True) == (
                result.status,
                result.limit,
                result.truncated,
            )
            assert 65536 == len(result.stdout_bytes)
            assert not result.session_reset
            assert 1 == (await session.run("x")).value


class TestErrors:
    async def test_an_error_has_the_users_traceback_and_nothing_of_ours(self, session: Session):
        result = await session.run("def f():\n    return 1 / 0\n\nf()")

        assert Status.ERROR is result.status
        assert ("ZeroDivisionError", "division by zero") == (
            result.error.type,
            result.error.message,
        )
        assert "return 1 / 0" in result.error.traceback
        assert "saggar" not in result.error.traceback
        assert "interactiveshell" not in result.error.traceback
        assert not result.session_reset

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("raise ExceptionGroup('many', [ValueError(1), KeyError(2)])", "ExceptionGroup"),
            ("def f(:", "SyntaxError"),
            ("%nosuchmagic", "UsageError"),
            ("class R:\n def __repr__(self): raise KeyError('no')\nR()", "KeyError"),
            ("raise SystemExit(3)", "SystemExit"),
            ("exit()", "SystemExit"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("input()", "EOFError"),
            ("import getpass; getpass.getpass()", "EOFError"),
            ("raise BaseException", "BaseException"),
            ("raise GeneratorExit", "GeneratorExit"),
        ],
    )
    async def test_every_kind_of_failure_is_an_error_of_its_cell(
        self, session: Session, code: str, kind: str
    ):
        await session.run("x = 1")
        result = await session.run(code)

        assert (Status.ERROR, kind) == (result.status, result.error.type)
        assert "saggar.guest" not in result.error.traceback
        assert 1 == (await session.run("x")).value

    async def test_an_error_is_kept_where_it_is_written_down(self, session: Session):
        result = await session.run("raise ValueError('\\ud800' * 10)")

        assert "ValueError" == result.error.type
        result.model_dump_json()


class TestQuestions:
    async def test_names_are_completed(self, session: Session):
        await session.run("animals = {'wolf': 1}; animate = 2")
        found = await session.complete("1 + anim", 8)

        assert {"animals", "animate"} == {*found.matches}
        assert (4, 8) == (found.start, found.end)
        assert () == (await session.complete("zzzzqq")).matches
        (end,) = (found := await session.complete("[].app")).matches
        assert "[].append" == "[].app"[: found.start] + end

    async def test_what_is_known_of_a_name_is_told(self, session: Session):
        await session.run("def f(a, b=2):\n    'Adds.'\n    return a + b")

        assert "Adds." in (await session.inspect("f(1", 1))["text/plain"]
        assert "return a + b" in (await session.inspect("f", 1, detail=1))["text/plain"]
        assert {} == await session.inspect("nosuchname")

    @pytest.mark.parametrize(
        ("code", "status", "indent"),
        [("1", "complete", ""), ("if x:", "incomplete", "    "), ("1 1", "invalid", "")],
    )
    async def test_it_is_known_whether_a_line_more_comes(
        self, session: Session, code: str, status: str, indent: str
    ):
        found = await session.is_complete(code)

        assert (status, indent) == (found.status, found.indent)

    async def test_variables_are_listed_without_modules(self, session: Session):
        await session.run("import os\nx = [1, 2]\ndef f(): pass\n_hidden = 1\nn = 3")
        found = {one.name: one for one in await session.variables()}

        assert {"x", "f", "n"} == found.keys()
        assert ("list", "[1, 2]", 2) == (found["x"].type, found["x"].repr, found["x"].size)
        assert found["n"].size is None

    async def test_an_object_that_cannot_be_looked_at_takes_nothing_along(self, session: Session):
        code = """
class Evil:
    @property
    def __class__(self): raise ValueError
    def __len__(self): return -1
    def __repr__(self): raise KeyboardInterrupt
    def __dir__(self): raise SystemExit
    def __getattr__(self, name): raise RuntimeError
evil, y = Evil(), 1
"""
        await session.run(code)
        with anyio.fail_after(SOON):
            assert "y" in {one.name for one in await session.variables()}
            await session.complete("evil.")
            await session.inspect("evil")

        assert 1 == (await session.run("y")).value

    async def test_a_huge_object_is_not_written_out_to_be_listed(self, platform: Platform):
        async with await platform.open_session("python", limits=LIMITS) as session:
            await session.run("x = list(range(3_000_000)); s = 'x' * 50_000_000")
            with anyio.fail_after(2):
                found = {one.name: one for one in await session.variables()}

        assert 3_000_000 == found["x"].size
        assert 300 > len(found["x"].repr)

    async def test_a_question_waits_for_the_cell_before_it(self, session: Session):
        run, started, _ = await beside(
            session, "print('here')\nimport time; time.sleep(0.3); late = 1"
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()

            assert "late" in {one.name for one in await session.variables()}


class TestMagics:
    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("%timeit -n1 -r1 pass", "per loop"),
            ("!echo said", "said"),
            ("%cd /tmp\n!pwd", "/tmp"),
            ("%env A=5\n!echo $A", "5"),
            ("%%bash\necho said", "said"),
            ("x = !echo one; echo two\nprint(list(x))", "['one', 'two']"),
            ("%%time\nprint('said')", "said"),
            ("help(len)", "len("),
            ("%who", ""),
        ],
    )
    async def test_magics_work(self, session: Session, code: str, said: str):
        result = await session.run(code)

        assert Status.OK is result.status, result.error
        assert said in result.stdout

    async def test_help_is_shown_without_a_pager(self, session: Session):
        result = await session.run("len?")

        assert "Return the number of items" in result.displays[0].data["text/plain"]

    @pytest.mark.parametrize("magic", ["%pip install x", "%conda install x", "%uv add x"])
    async def test_installing_is_refused_with_the_reason(self, session: Session, magic: str):
        result = await session.run(magic)

        assert Status.ERROR is result.status
        assert "Environment(packages=" in result.error.message

    async def test_a_cell_may_wait_for_what_is_asynchronous(self, session: Session):
        result = await session.run(
            "import asyncio\nasync def f():\n await asyncio.sleep(0.01)\n return 7\nawait f()"
        )

        assert (Status.OK, 7) == (result.status, result.value)
        result = await session.run("async def g(): raise KeyError('k')\nawait g()")
        assert "KeyError" == result.error.type

    async def test_variables_of_one_cell_end_with_it(self, session: Session):
        code = "import os; os.environ.get('A')"

        assert "b" == (await session.run(code, env={"A": "b"})).value
        assert (await session.run(code)).value is None
        await session.run("os.environ['B'] = '1'")
        assert "1" == (await session.run("os.environ['B']")).value

    async def test_variables_that_are_none_are_refused_and_nothing_is_lost(self, session: Session):
        await session.run("x = 1")
        with pytest.raises(InvalidTask, match="env"):
            await session.run("1", env={"a=b": "c"})

        assert 1 == (await session.run("x")).value
        assert not session.busy


class TestTurns:
    async def test_cells_run_one_after_the_other_in_the_order_in_which_they_came(
        self, session: Session
    ):
        await session.run("order = []")
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(session.run, f"order.append({number})")
                await anyio.lowlevel.checkpoint()

        assert [*range(30)] == (await session.run("order")).value

    async def test_a_hundred_callers_are_all_answered(self, session: Session):
        answers = []

        async def ask(number: int) -> None:
            answers.append((number, (await session.run(f"{number} * 2")).value))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, number)

        assert {(n, 2 * n) for n in range(100)} == {*answers}
        assert 0 == session.queued
        assert not session.busy

    async def test_what_waits_is_sent_away_and_what_runs_goes_on(self, session: Session):
        run, started, results = await beside(
            session, "print('here')\nimport time; time.sleep(0.5)\n5"
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            waiting, _, sent = await beside(session, "6")
            for _ in range(3):
                tasks.start_soon(waiting)
            await eventually(lambda: session.queued == 3)

            assert 3 == await session.abort_queued()

        assert [Status.CANCELLED] * 3 == [result.status for result in sent]
        assert 5 == results[0].value

    async def test_who_gives_up_waiting_leaves_the_others_their_turn(self, session: Session):
        run, started, _ = await beside(session, "print('here')\nimport time; time.sleep(0.3)")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            with anyio.move_on_after(0.05):
                await session.run("x = 1")

            assert "NameError" == (await session.run("x")).error.type

    async def test_contexts_remember_apart_and_share_the_files(self, session: Session):
        await session.run("x = 1; open('f', 'w').write('said')")
        await session.new_context("other")

        assert ("main", "other") == session.contexts
        assert "NameError" == (await session.run("x", context="other")).error.type
        assert "said" == (await session.run("open('f').read()", context="other")).value
        with pytest.raises(Conflict, match="already"):
            await session.new_context("other")
        with pytest.raises(NotFound, match="nowhere"):
            await session.run("1", context="nowhere")
        await session.close_context("other")
        assert ["main"] == list(session.contexts)
        with pytest.raises(Conflict, match="main"):
            await session.close_context("main")
        assert 1 == (await session.run("x")).value

    async def test_contexts_run_at_the_same_time(self, session: Session):
        await session.new_context("other")
        run, started, results = await beside(session, context="other")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()

            assert 2 == (await session.run("1 + 1")).value
            assert await session.interrupt(context="other")
        assert "KeyboardInterrupt" == results[0].error.type

    async def test_a_context_that_is_closed_ends_its_cell(self, session: Session):
        await session.new_context("other")
        run, started, results = await beside(session, context="other")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            await session.close_context("other")

        assert Status.CANCELLED is results[0].status
        assert 2 == (await session.run("1 + 1")).value


class TestTheLadder:
    async def test_an_interrupt_ends_a_cell_and_keeps_what_it_had(self, session: Session):
        assert not await session.interrupt()
        run, started, results = await beside(session, "x = 1\n" + FOREVER)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            start = time.monotonic()

            assert await session.interrupt()
        assert 1 > time.monotonic() - start
        assert (Status.ERROR, "KeyboardInterrupt") == (results[0].status, results[0].error.type)
        assert "saggar" not in results[0].error.traceback
        assert 1 == (await session.run("x")).value

    async def test_an_interrupt_reaches_the_cell_while_threads_print(self, session: Session):
        code = "import threading\ndef chat():\n while going: print('.', end='')\n"
        code += "going = True\nthreads = [threading.Thread(target=chat) for _ in range(3)]\n"
        code += "for thread in threads: thread.start()\nx = 1"
        await session.run(code)
        result = await session.run("while True: pass", timeout=0.3)

        assert (Status.TIMEOUT, False) == (result.status, result.session_reset)
        await session.run("going = False\nfor thread in threads: thread.join()")
        assert 1 == (await session.run("x")).value

    async def test_a_cell_that_takes_too_long_is_interrupted(self, session: Session):
        await session.run("x = 1")
        result = await session.run("while True: pass", timeout=0.3)

        assert (Status.TIMEOUT, "wall") == (result.status, result.limit)
        assert not result.session_reset
        assert 1 > result.usage.wall
        assert 1 == (await session.run("x")).value

    async def test_a_cell_that_will_not_stop_loses_its_interpreter(self, platform: Platform):
        async with await platform.open_session(
            "python", limits={**LIMITS, "grace": 0.3}, files={"kept": "said"}
        ) as session:
            await session.run("x = 1")
            code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
            result = await session.run(code, timeout=0.2)

            assert (Status.TIMEOUT, "wall", True) == (
                result.status,
                result.limit,
                result.session_reset,
            )
            assert "fresh" in result.error.message
            assert "NameError" == (await session.run("x")).error.type
            assert "said" == (await session.run("open('kept').read()")).value

    @pytest.mark.parametrize("timeout", [0, -1, 21])
    async def test_a_time_that_cannot_be_is_refused(
        self,
        session: Session,
        timeout: float,  # noqa: ASYNC109 - a cell's
    ):
        with pytest.raises(InvalidTask, match="timeout"):
            await session.run("1", timeout=timeout)

        assert 1 == (await session.run("1")).value

    async def test_a_session_has_a_time_of_its_own_for_each_cell(self, platform: Platform):
        async with await platform.open_session("python", limits=LIMITS, timeout=0.3) as session:
            assert Status.TIMEOUT is (await session.run("while True: pass")).status
            assert (
                Status.OK is (await session.run("import time; time.sleep(0.5)", timeout=2)).status
            )

    async def test_processor_time_is_limited_by_the_cell_and_not_by_the_session(
        self, platform: Platform
    ):
        async with await platform.open_session("python", limits={**LIMITS, "cpu": 1}) as session:
            spend = "import time\nend = time.process_time() + 0.6\n"
            spend += "while time.process_time() < end: pass"
            for _ in range(3):
                assert Status.OK is (await session.run(spend)).status
            result = await session.run("while True: pass")

            assert (Status.TIMEOUT, "cpu") == (result.status, result.limit)

    async def test_a_paused_session_takes_no_cells_and_loses_nothing(self, session: Session):
        await session.run("x = 1")
        await session.sandbox.pause()
        with pytest.raises(Conflict, match="paused"):
            await session.run("x")
        await session.sandbox.resume()

        assert 1 == (await session.run("x")).value

    async def test_the_clock_of_a_cell_stands_still_while_it_is_paused(self, session: Session):
        code = "print('here')\nimport time\nfor _ in range(5): time.sleep(0.1)\n7"
        run, started, results = await beside(session, code, timeout=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            await session.sandbox.pause()
            await anyio.sleep(1.5)  # longer than it may take, were it running
            await session.sandbox.resume()

        assert (Status.OK, 7) == (results[0].status, results[0].value)


class TestListeners:
    @pytest.mark.parametrize("seen", range(5))
    async def test_who_stops_listening_interrupts_his_cell_and_the_session_lives(
        self, session: Session, seen: int
    ):
        """Whether he leaves at once, in the middle of what was said, or when all is over."""
        await session.run("x = 1")
        for code in (FOREVER, "while True: print(1)", "for n in range(50): print(n)", "2"):
            async with aclosing(session.events(code)) as events:
                async for event in events:
                    if (isinstance(event, Started) and not seen) or isinstance(event, Output):
                        break

            with anyio.fail_after(SOON):
                start = time.monotonic()
                assert 1 == (await session.run("x")).value
            assert 0.9 > time.monotonic() - start

    async def test_two_hundred_leave_at_any_moment(self, session: Session):
        await session.run("x = 1")
        for number in range(200):
            with anyio.move_on_after(number % 20 / 10_000):
                await session.run("import time; time.sleep(30)")
            result = await session.run("x")

            assert 1 == result.value, (number, result)

    async def test_who_leaves_and_restarts_finds_a_fresh_one(self, session: Session):
        async with aclosing(session.events(FOREVER)) as events:
            await under_way(events)
        await session.restart()

        assert 2 == (await session.run("1 + 1")).value


class TestRestarts:
    async def test_a_restart_forgets_and_keeps_the_files(self, session: Session):
        await session.run("x = 1; open('kept', 'w').write('said')")
        await session.restart()

        assert "NameError" == (await session.run("x")).error.type
        assert "said" == (await session.run("open('kept').read()")).value
        assert session.ready.ready

    async def test_a_restart_ends_what_runs_and_what_waits(self, session: Session):
        run, started, results = await beside(session)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            waiting, _, sent = await beside(session, "6")
            tasks.start_soon(waiting)
            await eventually(lambda: session.queued == 1)
            await session.restart()

            assert 2 == (await session.run("1 + 1")).value
        assert [Status.CANCELLED] * 2 == [results[0].status, sent[0].status]
        assert results[0].session_reset

    async def test_many_restarts_at_once_are_one(self, session: Session):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(session.restart)

        assert 1 == (await session.run("1")).execution_count

    async def test_closing_while_it_restarts_leaves_nothing(self, platform: Platform):
        before = len(platform.live.sandboxes())
        for code in ("import os; os._exit(0)", "import os, signal; os.kill(os.getppid(), 9)"):
            session = await platform.open_session("python", limits=LIMITS)
            await session.run(code)
            await session.close()
            await anyio.wait_all_tasks_blocked()
        await eventually(lambda: len(platform.live.sandboxes()) == before)

    async def test_closing_ends_what_runs(self, platform: Platform):
        session = await platform.open_session("python", limits=LIMITS)
        run, started, results = await beside(session)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            await session.close()

        assert Status.CANCELLED is results[0].status
        assert not session.ready.ready
        with pytest.raises(Conflict, match="closed"):
            await session.run("1")
        await session.close()


class TestPreload:
    FILES: ClassVar = {
        "b_second.py": "from a_first import double\nprint('second')\nfour = double(2)\n",
        "a_first.py": "print('first')\ndef double(x): return 2 * x\nplace = __file__\n",
        "c_broken.py": "print('third')\n1 / 0\n",
        "d_last.py": "last = four\n",
        "lib/deep.py": "raise RuntimeError('not run by itself')\n",
        "notes.txt": "said",
    }

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name, text in self.FILES.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    async def test_files_run_sorted_before_anything_else(self, platform: Platform, folder: Path):
        log: list[str] = []
        async with await platform.open_session(
            "python", preload=folder, log=log.append, limits=LIMITS
        ) as session:
            said = "".join(log)
            ready = session.ready
            result = await session.run("(last, double(4))")

        assert [4, 8] == result.value
        assert "" == result.stdout
        assert said.index("first") < said.index("second") < said.index("third")
        assert "ZeroDivisionError" in said
        assert "saggar" not in said.replace(".code", "")
        assert ready.ready
        assert "c_broken.py: ZeroDivisionError" in (ready.reason or "")

    async def test_they_run_again_in_every_fresh_interpreter(
        self, platform: Platform, folder: Path
    ):
        log: list[str] = []
        async with await platform.open_session(
            "python", preload=folder, log=log.append, limits=LIMITS
        ) as session:
            await session.run("last = 'changed'")
            await session.restart()
            assert 4 == (await session.run("last")).value
            await session.run("import os; os._exit(1)")
            assert 4 == (await session.run("last")).value
            await session.new_context("other")
            assert 4 == (await session.run("last", context="other")).value

        assert 4 == "".join(log).count("second\n")

    async def test_a_file_that_ends_the_interpreter_is_named(
        self, platform: Platform, tmp_path: Path
    ):
        (tmp_path / "x.py").write_text("import os; os._exit(3)")
        with anyio.fail_after(SOON), pytest.raises(saggar.SaggarError, match=r"x\.py|ended"):
            await platform.open_session("python", preload=tmp_path, limits=LIMITS)

    async def test_a_file_that_never_ends_is_interrupted_and_the_others_run(
        self, platform: Platform, tmp_path: Path
    ):
        (tmp_path / "a.py").write_text("while True: pass")
        (tmp_path / "b.py").write_text("x = 1")
        async with await platform.open_session(
            "python", preload=tmp_path, limits={"wall": 0.5, "grace": 1}
        ) as session:
            assert "a.py: KeyboardInterrupt" in (session.ready.reason or "")
            assert 1 == (await session.run("x")).value

    async def test_a_folder_that_is_not_there_is_refused(self, platform: Platform, tmp_path: Path):
        with pytest.raises(NotFound, match="nowhere"):
            await platform.open_session("python", preload=tmp_path / "nowhere")

    async def test_a_log_that_fails_is_the_callers_error(self, platform: Platform, folder: Path):
        def fail(text: str) -> None:
            raise RuntimeError("full")

        with pytest.raises(saggar.UsageError, match="full"):
            await platform.open_session("python", preload=folder, log=fail)
        async with await platform.open_session("python") as session:
            assert 1 == (await session.run("1")).value


class TestLifetime:
    async def test_who_is_idle_or_too_old_ends_by_the_clock(self, tmp_path: Path):
        """The clock is passed in; looking at a session is no use of it."""
        ahead = 0.0
        async with Platform() as platform:
            directory = Directory(
                platform._running(), Caps(), Table(tmp_path), lambda: time.time() + ahead
            )
            platform._live = directory
            idle = await platform.open_session("python", idle=100)
            old = await platform.open_session("python", max_age=200)
            busy = await platform.open_session("python", idle=100, limits=LIMITS)
            run, started, results = await beside(busy)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await started.wait()
                ahead = 101
                await eventually(lambda: idle.closed)
                assert [old, busy] == [*directory.sessions()]
                ahead = 201
                await eventually(lambda: old.closed)
                assert [busy] == [*directory.sessions()]
                await busy.interrupt()
            await eventually(lambda: busy.closed)

        assert 1 == len(results)

    async def test_more_than_may_live_are_refused_and_the_message_says_which_to_close(self):
        async with Platform(Settings(most_live=2, most_live_each=1)) as platform:
            first = await platform.open_session("python", owner="a")
            with pytest.raises(Overloaded, match=rf"one owner.*{first.id[:6]}"):
                await platform.open_session("python", owner="a")
            await platform.open_session("python", owner="b")
            with pytest.raises(Overloaded) as refused:
                await platform.open_session("python", owner="c")
            assert refused.value.retry_after
            await first.close()
            await platform.open_session("python", owner="a")

    async def test_what_a_policy_denies_no_session_gets(self):
        async with Platform(
            Settings(ceiling=Policy(limits=saggar.Limits(memory="200MiB")))
        ) as platform:
            with pytest.raises(saggar.PolicyDenied):
                await platform.open_session("python", policy=Policy(network="host"))
            async with await platform.open_session("python", limits={"memory": "1GiB"}) as session:
                assert 200 << 20 == session.sandbox.limits.memory

    async def test_an_unknown_language_or_engine_is_refused(self, platform: Platform):
        with pytest.raises(NotFound, match="klingon"):
            await platform.open_session("klingon")
        with pytest.raises(NotFound, match="steam"):
            await platform.open_session("python", engine="steam")

    async def test_a_session_is_found_by_its_id_and_by_no_other(
        self, platform: Platform, session: Session
    ):
        assert session is platform.live.session(session.id)
        assert 20 <= len(session.id)
        with pytest.raises(NotFound, match="no session has this id"):
            platform.live.session(session.id[:-1])

    async def test_few_open_files_and_little_disk_are_enough(self, platform: Platform):
        limits = {"open_files": 40, "disk": "64KiB", "inodes": 8, "processes": 8}
        async with await platform.open_session("python", limits={**LIMITS, **limits}) as session:
            assert 2 == (await session.run("1 + 1")).value

    def test_it_works_without_an_event_loop(self):
        with saggar.open_session("python", limits=LIMITS) as session:
            session.run("x = 40")

            assert 42 == session.run("x + 2").value
            kinds = [type(event) for event in session.events("print(1)")]
            assert [Started, Output, Finished] == kinds
            assert "x" in {one.name for one in session.variables()}
            for event in session.events("while True: print(1)"):
                if isinstance(event, Output):
                    break
            assert 40 == session.run("x").value
            session.restart()
            assert "NameError" == session.run("x").error.type


async def test_numbers_of_events_are_few_however_finely_is_written(platform: Platform):
    async with await platform.open_session("python", limits=LIMITS) as session:
        code = "import sys\nfor n in range(20_000):\n sys.stdout.write('x'); sys.stdout.flush()"
        events = await events_of(session, code)

    assert 20_000 == sum(len(e.data) for e in events if isinstance(e, Output))
    assert 20_000 > len(events)
    assert list(itertools.islice((type(e) for e in events), 1)) == [Started]
