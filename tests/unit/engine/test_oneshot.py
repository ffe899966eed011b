"""One run from the claim to the verdict: in a real jail, and in a tree that the test plays."""

import json
import os
import signal
import struct
import time

import anyio
import pytest
from tests.conftest import missing
from tests.unit.engine.ends import Ends

from saggar.boundary import frames
from saggar.boundary.order import Order
from saggar.drivers.base import Exit, Reading
from saggar.drivers.jail.driver import JailDriver
from saggar.engine import oneshot, words
from saggar.errors import DriverUnavailable, InvalidTask
from saggar.languages.command import CommandLanguage
from saggar.languages.python import Python
from saggar.model.event import Displayed, Finished, Output, Started, afold
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.plan import Plan, WarmKey
from saggar.model.policy import Policy, Rung
from saggar.model.program import Command
from saggar.model.result import Status
from saggar.model.task import Task

SAY = """
import json, os, struct
READY, DISPLAY, VALUE, ERROR, DONE = range(2, 7)
def frame(kind, head={}, blob=b""):
    head = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<BBxxII", 1, kind, len(head), len(blob)) + head + blob
def say(data):
    data = memoryview(data)
    while data:
        data = data[os.write(3, data):]
"""
BRIEF = {"wall": 0.2, "grace": 0.2}


@pytest.fixture(scope="module")
async def nursery():
    """Real walls, kept for all tests here."""
    policy = Policy(isolation=Rung.LANDLOCK, best_effort=frozenset(LIMIT_NAMES))
    opened = JailDriver().nursery(WarmKey(interpreter="", environment=""), policy, ())
    try:
        made = await opened.__aenter__()
    except DriverUnavailable as exc:
        missing(str(exc))
    yield made
    await opened.__aexit__(None, None, None)


@pytest.fixture
def run(nursery):
    """A program behind real walls, as its result."""

    async def one(code, limits=None, **options):
        process = await nursery.park()
        try:
            return await afold(events(process, code, limits, **options))
        finally:
            process.release()

    return one


def events(process, code, limits=None, **options):
    task = Task.of(code, **options)
    language = CommandLanguage() if isinstance(code, Command) else Python()
    return oneshot.run(process, task, language.plan(task), Limits(**(limits or {})))


async def test_a_run_starts_speaks_and_ends(nursery):
    process = await nursery.park()
    code = "print('a', flush=True)\ndisplay(1)\nraise SystemExit(3)"
    heard = [event async for event in events(process, code)]
    process.release()

    assert (Started, Finished) == (type(heard[0]), type(heard[-1]))
    assert {Output, Displayed} == {type(event) for event in heard[1:-1]}
    assert process.isolation == heard[0].isolation == heard[-1].isolation
    assert (Status.ERROR, 3, None) == (heard[-1].status, heard[-1].exit_code, heard[-1].limit)


async def test_an_answer_is_an_answer_however_the_tree_goes_on(run):
    """The children that it leaves are killed, and what they would have said is nobody's."""
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(9)\nprint('done')"
    result = await run(code)

    assert (Status.OK, 0, "done\n") == (result.status, result.exit_code, result.stdout)
    assert 5 > result.usage.wall


async def test_a_program_has_the_time_between_two_deadlines_to_clean_up(run):
    code = """
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("cleaned up")
"""
    result = await run(code, {"wall": 0.1, "grace": 20})

    assert (Status.TIMEOUT, "wall", 0) == (result.status, result.limit, result.exit_code)
    assert "cleaned up\n" == result.stdout
    assert 0.1 <= result.usage.wall < 5


async def test_who_does_not_listen_is_killed_at_the_second_deadline(run):
    code = "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: signal.pause()"
    result = await run(code, BRIEF)

    assert (Status.TIMEOUT, "wall", "SIGKILL") == (result.status, result.limit, result.signal)
    assert result.exit_code is None
    assert 0.4 <= result.usage.wall < 3


async def test_an_interrupt_that_nobody_catches_is_a_timeout_with_its_traceback(run):
    result = await run("import time\ntime.sleep(60)", {"wall": 0.1, "grace": 20})

    assert (Status.TIMEOUT, 130) == (result.status, result.exit_code)
    assert result.error is not None
    assert ("KeyboardInterrupt", True) == (result.error.type, "line 2" in result.error.traceback)


async def test_a_command_is_interrupted_too(run):
    result = await run(Command(argv=("sleep", "60")), {"wall": 0.1, "grace": 20})

    assert (Status.TIMEOUT, "SIGINT") == (result.status, result.signal)


async def test_processor_time_is_counted_apart_from_time(run):
    result = await run("while True: pass", {"cpu": 0.2, "wall": 20})

    assert (Status.TIMEOUT, "cpu") == (result.status, result.limit)
    assert 0.2 <= result.usage.cpu < 2


async def test_processor_time_of_children_counts(run):
    code = "import os\nfor _ in range(2): os.fork()\nwhile True: pass"
    result = await run(code, {"cpu": 0.2, "wall": 20})

    assert (Status.TIMEOUT, "cpu") == (result.status, result.limit)


async def test_output_up_to_its_limit_is_whole(run):
    result = await run("print('x' * 999)", {"output": 1000})

    assert (Status.OK, 1000, False) == (result.status, len(result.stdout_bytes), result.truncated)


async def test_output_past_its_limit_is_cut_there_and_ends_the_run(run):
    code = "import sys\nprint('y' * 400, file=sys.stderr)\nprint('x' * 601)\nwhile True: pass"
    result = await run(code, {"output": 1000, "wall": 20})

    assert (Status.OUTPUT, "output", True) == (result.status, result.limit, result.truncated)
    assert 1000 == len(result.stdout_bytes) + len(result.stderr_bytes)


async def test_displays_count_as_output(run):
    result = await run("while True: display('x' * 100)", {"output": 1000, "wall": 20})

    assert (Status.OUTPUT, True) == (result.status, result.truncated)
    assert 10 > len(result.displays)


async def test_there_are_only_so_many_displays(run):
    result = await run("while True: display(1)", {"output": "64MiB", "wall": 20})

    assert (Status.OUTPUT, oneshot.MAX_DISPLAYS) == (result.status, len(result.displays))


async def test_displays_that_nobody_waits_for_are_not_lost(run):
    """More than one reading takes, and then an end that tells nothing."""
    result = await run("import os\ndisplay('x' * 100_000)\nos._exit(0)")

    assert (Status.OK, [100_002]) == (
        result.status,
        [len(d.data["text/plain"]) for d in result.displays],
    )


@pytest.mark.parametrize(
    ("blob", "media_type", "said"),
    [
        (b"{", "application/json", "the value is not JSON"),
        (b"", "application/json", "the value is not JSON"),
        (b'"\xff"', "application/json", "the value is not JSON"),
        (b'"\\ud800"', "application/json", "the value is not JSON"),
        (b"NaN", "application/json", "the value is not JSON"),
        (b"[1e999]", "application/json", "a number that is too large"),
        (b"[" * 65 + b"]" * 65, "application/json", "nests deeper than 64"),
        (b"[" * 9999, "application/json", "the value is not JSON"),
        (b"1", "application/x-pickle", "no codec for media type 'application/x-pickle'"),
        (b"1", None, "no codec for media type 'None'"),
        (b"1", ["a"], "no codec"),
        (b"1", "x" * 9999, "no codec"),
    ],
)
async def test_a_value_that_is_none_is_an_error_of_the_program(run, blob, media_type, said):
    result = await run(f"{SAY}say(frame(VALUE, {{'media_type': {media_type!r}}}, {blob!r}))")

    assert (Status.ERROR, None) == (result.status, result.value)
    assert result.error is not None
    assert "InvalidValue" == result.error.type
    assert said in result.error.message


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("[1, {'a': None}]", [1, {"a": None}]),
        ("{1, 2}", "{1, 2}"),
        ("'x' * 100_000", "x" * 100_000),
        ("list(range(40_000))", list(range(40_000))),
    ],
)
async def test_a_value_comes_back(run, code, value):
    result = await run(code, want_value=True)

    assert (Status.OK, value) == (result.status, result.value)


async def test_a_function_gets_its_input_and_a_script_finds_it_on_stdin(run):
    function = await run("def f(x): return x + 1", entry="f", input=41)
    script = await run("import sys; print(sys.stdin.read())", input={"n": 1})

    assert (42, '{"n":1}\n') == (function.value, script.stdout)


async def test_of_two_ends_the_first_counts(run):
    code = f"{SAY}say(frame(DONE, {{'exit': 3}}) + frame(DONE, {{'exit': 0}}))\nwhile True: pass"
    result = await run(code, {"wall": 20})

    assert (Status.ERROR, 3) == (result.status, result.exit_code)
    assert 5 > result.usage.wall


async def test_what_is_said_after_the_end_is_not_heard(run):
    late = "frame(ERROR, {'type': 'Late'}) + frame(VALUE, {'media_type': 'application/json'}, b'1')"
    result = await run(f"{SAY}say(frame(DONE, {{'exit': 0}}) + {late})")

    assert (Status.OK, None, None) == (result.status, result.error, result.value)


@pytest.mark.parametrize(
    "head",
    [b"", b"{", b"[]", b"7", b'{"exit": "x"}', b'{"exit": null}', b"[" * 9999, b'{"exit": []}'],
)
async def test_an_end_that_makes_no_sense_is_an_error(run, head):
    result = await run(f"{SAY}say(frame(DONE, {head!r}))")

    assert (Status.ERROR, 1) == (result.status, result.exit_code)


async def test_an_end_is_one_byte_as_everybodys_is(run):
    result = await run(f"{SAY}say(frame(DONE, {{'exit': 10**30 * 256 + 7}}))")

    assert 7 == result.exit_code


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"7",
        b'{"type": 7, "message": [], "traceback": null}',
        b'{"type": "\\ud800", "message": "\\udfff\\u0000", "traceback": "\\ud83d"}',
        b'{"message": "' + b"x" * 500_000 + b'"}',
    ],
)
async def test_an_error_of_any_shape_can_be_told_and_stored(run, head):
    result = await run(f"{SAY}say(frame(ERROR, {head!r}))")

    assert Status.ERROR == result.status
    assert result.error is not None
    assert type(result).model_validate_json(result.model_dump_json()).error == result.error
    assert words.MAX_TEXT >= len(result.error.message)


@pytest.mark.parametrize(
    ("blob", "shown"),
    [
        (b'{"text/plain": "x", "a": 7, "b": null}', [{"text/plain": "x"}]),
        (b'{"text/plain": "\\ud800"}', [{"text/plain": "?"}]),
        (b"{}", []),
        (b"[]", []),
        (b"{", []),
        (b"[" * 9999, []),
    ],
)
async def test_a_display_of_any_shape_can_be_shown_and_stored(run, blob, shown):
    result = await run(f"{SAY}say(frame(DISPLAY, {{}}, {blob!r}))")

    assert (Status.OK, shown) == (result.status, [dict(one.data) for one in result.displays])
    assert result.model_dump_json()


@pytest.mark.parametrize(
    "garbage",
    [
        b"no frame at all",
        struct.pack("<BBxxII", 9, frames.DONE, 0, 0),
        struct.pack("<BBxxII", 1, frames.TASK, 0, 0),
        struct.pack("<BBxxII", 1, frames.VALUE, 0, 1 << 30),
    ],
)
async def test_who_says_what_cannot_be_said_is_ended_at_once(run, garbage):
    """Nothing that follows could be heard: an answer neither."""
    result = await run(f"{SAY}say({garbage!r})\nwhile True: pass", {"wall": 20})

    assert (Status.ERROR, None, None) == (result.status, result.limit, result.exit_code)
    assert 5 > result.usage.wall


@pytest.mark.parametrize("kind", ["READY", "ERROR", "VALUE"])
async def test_a_flood_of_frames_ends_and_others_have_their_turn_meanwhile(run, kind):
    """Each costs us more than the guest: neither its deadline nor anybody else may wait for it."""
    code = f"{SAY}flood = frame({kind}) * 2000\nwhile True: say(flood)"
    ticks = []

    async def tick():
        while True:
            await anyio.sleep(0.01)
            ticks.append(time.monotonic())

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        result = await run(code, {"wall": 0.5, "output": 1000})
        group.cancel_scope.cancel()

    assert result.status in {Status.OUTPUT, Status.TIMEOUT}
    assert 4 > result.usage.wall
    assert 5 < len(ticks)


async def test_a_flood_of_output_does_not_outlive_its_deadline(run):
    code = "import os\nblock = bytes(1 << 20)\nwhile True: os.write(1, block)"
    result = await run(code, {"wall": 0.2, "grace": 0.2, "output": "1TiB"})

    assert (Status.TIMEOUT, "wall") == (result.status, result.limit)
    assert 3 > result.usage.wall


@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("raise SystemExit(7)", 7)])
async def test_who_closes_the_channel_is_judged_by_his_end(run, end, status):
    result = await run(f"import os\nos.close(3)\nprint('on')\n{end}")

    assert ("on\n", status) == (result.stdout, result.exit_code)
    assert (Status.OK if status == 0 else Status.ERROR) == result.status


async def test_who_closes_the_channel_and_stays_is_judged_by_the_clock(run):
    result = await run("import os\nos.close(3)\nwhile True: pass", BRIEF)

    assert (Status.TIMEOUT, "wall") == (result.status, result.limit)


async def test_a_program_that_does_not_read_its_input_ends_no_later_for_it(run):
    result = await run("print('done')", {"wall": 20}, stdin=bytes(4 << 20))

    assert ("done\n", True) == (result.stdout, result.usage.wall < 5)


async def test_a_task_larger_than_any_buffer_arrives_whole(run):
    content = os.urandom(6 << 20)
    code = "import hashlib; print(hashlib.sha256(open('data', 'rb').read()).hexdigest())"
    result = await run(code, files={"data": content})

    import hashlib

    assert f"{hashlib.sha256(content).hexdigest()}\n" == result.stdout


async def test_files_come_back_without_the_program_itself(run):
    code = "import os\nos.mkdir('a')\nfor name in 'a/b', 'c': open(name, 'w').write(name)"
    result = await run(code, collect="**")

    assert {"a/b": b"a/b", "c": b"c"} == {file.path: file.content for file in result.files}


async def test_files_of_a_program_that_was_killed_come_back_too(run):
    code = "open('log', 'w', buffering=1).write('begun\\n')\nwhile True: pass"
    result = await run(code, BRIEF, collect="log")

    assert [b"begun\n"] == [file.content for file in result.files]


async def test_who_gives_up_ends_the_tree(nursery):
    process = await nursery.park()
    ended = os.dup(process.exited)
    with anyio.CancelScope() as scope:
        async for event in events(process, "print('up', flush=True)\nwhile True: pass"):
            if isinstance(event, Output):
                scope.cancel()
    process.release()
    with anyio.fail_after(5):
        await anyio.wait_readable(ended)
    os.close(ended)

    assert scope.cancelled_caught


class Played(Ends):
    """A tree whose inside is the test: what it answers, how it dies, what it seems to use."""

    isolation, cwd, site, rlimits = "played", "/work", (), ((1, 2, 3),)
    entrypoint = None
    environment = {"HOME": "/work", "LANG": "C.UTF-8"}  # noqa: RUF012 - a value of the protocol
    work = -1

    def __init__(self):
        super().__init__()
        self.signals = []
        self.usage = Reading(cpu=0.0, memory=1, current=0)
        self.mortal = True
        self.end = Exit(0, None)
        self.claimed = None
        self.full = False

    def claim(self, limits):
        self.claimed = limits

    def interrupt(self):
        self.signals.append(signal.SIGINT)

    def kill(self):
        self.signals.append(signal.SIGKILL)
        if self.mortal and self.lives >= 0:
            self.end = Exit(None, signal.SIGKILL)
            self.die()

    def read(self):
        return self.usage

    first_read = read

    def disk_full(self):
        return self.full

    async def wait(self):
        await anyio.wait_readable(self.exited)
        return self.end

    def answer(self, code=0, **head):
        self.say(frames.pack(frames.READY, b"{}"))
        self.say(frames.pack(frames.DONE, json.dumps({"exit": code, **head}).encode()))

    def order(self):
        head = frames.HEADER.unpack(self.hear(frames.HEADER.size))[2]
        return Order.decode(self.hear(head))


@pytest.fixture
def played():
    with Played() as made:
        yield made


def judged(process, limits=None, plan=None, **options):
    task = Task.of("pass", **options)
    running = oneshot.run(process, task, plan or Python().plan(task), Limits(**(limits or {})))
    return afold(running)


async def test_an_order_holds_what_was_asked_and_no_more(played):
    played.answer()
    played.mortal = False
    limits = {"wall": 3, "output": 5000}
    await judged(
        played, limits, args=("a",), env={"LANG": "C", "A": "b"}, files={"x": b"y"}, stdin=b"in"
    )
    order = played.order()

    assert Limits(**limits) == played.claimed
    assert {"HOME": "/work", "LANG": "C", "A": "b"} == order.env
    assert (("a",), (("x", b"y", 0o644),), 5000) == (order.args, order.files, order.largest)
    assert (played.cwd, played.site, played.rlimits) == (order.cwd, order.site, order.rlimits)
    assert (None, None, "pass", "main.py") == (
        order.argv,
        order.input,
        order.code,
        order.filename,
    )


async def test_a_plans_files_come_before_the_tasks(played):
    played.answer()
    played.mortal = False
    plan = Plan(argv=("x",), files=({"path": "made", "content": b"", "mode": 0o755},))
    await judged(played, plan=plan, files={"given": b""})

    assert ["made", "given"] == [path for path, _, _ in played.order().files]


async def test_a_plan_without_words_starts_what_the_sandbox_would_start_by_itself(played):
    played.answer()
    played.mortal = False
    played.entrypoint = ("node", "/app/execute.js"), "/app"
    await judged(played, plan=Plan(argv=()), args=("-v",), files={"given": b"x"})
    order = played.order()

    assert (("node", "/app/execute.js", "-v"), "/app") == (order.argv, order.cwd)
    assert (("/work/given", b"x", 0o644),) == order.files


async def test_where_nothing_starts_by_itself_a_plan_needs_words(played):
    with pytest.raises(InvalidTask, match="no command to run"):
        await judged(played, plan=Plan(argv=()))


async def test_a_tree_that_dies_before_it_takes_its_order_is_our_fault(played):
    played.die()

    assert Status.FAULT == (await judged(played)).status


async def test_how_the_first_process_ended_is_the_kernels_word(played):
    played.say(frames.pack(frames.READY, b"{}"))
    played.end = Exit(None, signal.SIGSEGV, cpu=1.5, memory=77)
    played.die()
    played.usage = Reading()
    result = await judged(played)

    assert (Status.KILLED, "SIGSEGV") == (result.status, result.signal)
    assert (1.5, 77) == (result.usage.cpu, result.usage.memory)


async def test_the_watchdog_ends_who_uses_too_much_memory(played):
    played.usage = Reading(cpu=0.0, memory=99 << 20, current=65 << 20)
    played.say(frames.pack(frames.READY, b"{}"))
    result = await judged(played, {"memory": "64MiB"})

    assert (Status.MEMORY, "memory") == (result.status, result.limit)
    assert 99 << 20 == result.usage.memory


async def test_a_full_disk_and_refused_forks_are_told(played):
    played.full = True
    played.answer()

    assert "disk" == (await judged(played)).limit


@pytest.mark.parametrize(("refused", "limit"), [("disk", "disk"), ("file_size", "file_size")])
async def test_the_limit_that_the_last_error_met_is_told(played, refused, limit):
    played.answer(1, refused=refused)
    result = await judged(played)

    assert (Status.ERROR, limit) == (result.status, result.limit)


async def test_a_limit_that_does_not_exist_is_not_believed(played):
    played.answer(1, refused="patience")

    assert (await judged(played)).limit is None


async def test_what_has_answered_is_killed_before_anybody_hears_of_it(played):
    played.answer()
    result = await judged(played)

    assert (Status.OK, [signal.SIGKILL]) == (result.status, played.signals)


async def test_first_an_interrupt_then_a_kill(played):
    played.say(frames.pack(frames.READY, b"{}"))
    result = await judged(played, {"wall": 0.05, "grace": 0.05})

    assert (Status.TIMEOUT, "wall") == (result.status, result.limit)
    assert [signal.SIGINT, signal.SIGKILL] == played.signals[:2]


async def test_a_tree_that_does_not_die_is_our_fault(played, monkeypatch):
    monkeypatch.setattr(oneshot, "DYING", 0.1)
    played.mortal = False
    played.say(frames.pack(frames.READY, b"{}"))
    result = await judged(played, {"wall": 0.05, "grace": 0.05}, collect="*")

    assert (Status.FAULT, ()) == (result.status, result.files)


async def test_a_caller_who_takes_his_time_is_waited_for_without_harm(played):
    """Between two events of his the deadline passes; it is seen at the next."""
    played.say(frames.pack(frames.READY, b"{}"))
    os.write(played.writes_stdout, b"one")
    kinds = []
    task = Task.of("pass")
    limits = Limits(wall=0.1, grace=0.1)
    async for event in oneshot.run(played, task, Python().plan(task), limits):
        kinds.append(event.kind)
        await anyio.sleep(0.3 if event.kind == "output" else 0)

    assert ["started", "output", "finished"] == kinds
    assert signal.SIGKILL in played.signals


async def test_a_run_that_is_not_heard_to_its_end_lets_go_of_its_selector(played):
    before = len(os.listdir("/proc/self/fd"))
    played.say(frames.pack(frames.READY, b"{}"))
    task = Task.of("pass")
    running = oneshot.run(played, task, Python().plan(task), Limits())
    await anext(running)
    await running.aclose()

    assert before == len(os.listdir("/proc/self/fd")) + 1  # stdin has been closed
