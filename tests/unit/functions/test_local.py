"""Functions of this process: schemas, deadlines, async ones, and those in a fork of it."""

import asyncio
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel
from tests.unit.child import in_child

from saggar.errors import (
    ExecutionFailed,
    ExecutionTimeout,
    InvalidInput,
    InvalidOutput,
    InvalidTask,
    PlatformError,
    UsageError,
)
from saggar.functions import forked
from saggar.functions.executor import Executor
from saggar.functions.local import TIMEOUT, LocalExecutor

NUMBERS = {"type": "array", "items": {"type": "number"}}
SOON = 0.05
BOTH = pytest.mark.parametrize("isolation", ["thread", "fork"])


@dataclass
class Input:
    values: list[float]


@dataclass
class Output:
    count: int
    sum: float
    mean: float


class Model(BaseModel):
    n: int


class Row(TypedDict):
    n: int


def describe(given: Input) -> Output:
    total = sum(given.values)
    return Output(len(given.values), total, total / len(given.values))


def forever(_value=None):
    while True:
        pass


def same(value):
    return value


def fails(_value):
    raise ValueError("no good")


async def doubled(value):
    await asyncio.sleep(0)
    return 2 * value


def children():
    """Processes that are ours, zombies too."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return file.read().split()


@BOTH
def test_the_documents_example(isolation):
    executor = LocalExecutor[Input, Output](describe, timeout=10, isolation=isolation)

    assert Output(5, 15.0, 3.0) == executor(Input([1, 2, 3, 4, 5]))
    assert Output(5, 15.0, 3.0) == executor.execute(Input([1, 2, 3, 4, 5]))


@BOTH
async def test_the_documents_example_in_an_event_loop(isolation):
    executor = LocalExecutor[Input, Output](describe, timeout=10, isolation=isolation)

    assert Output(5, 15.0, 3.0) == await executor.aexecute(Input([1, 2, 3, 4, 5]))


def test_it_is_an_executor_that_is_called():
    executor: Any = LocalExecutor(len, timeout="3s")

    assert isinstance(executor, Executor)
    assert callable(executor)
    assert 3 == executor([1, 2, 3])
    assert "LocalExecutor(len, timeout=3)" == repr(executor)


def test_the_deadline_is_30_seconds_unless_said_otherwise():
    assert 30 == TIMEOUT
    assert "timeout=30)" in repr(LocalExecutor(len))


@pytest.mark.parametrize("fn", [None, 5, "name"])
def test_a_function_is_required(fn):
    with pytest.raises(InvalidTask, match="execute function is required; found"):
        LocalExecutor(fn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout: must be greater than 0, found 0"),
        ({"timeout": -1}, "timeout: "),
        ({"timeout": math.inf}, "timeout: "),
        ({"timeout": math.nan}, "timeout: "),
        ({"timeout": "soon"}, "timeout: wanted a time such as '1.5s', found 'soon'"),
        ({"timeout": None}, "timeout: "),
        ({"isolation": "jail"}, "isolation: wanted 'thread' or 'fork', found 'jail'"),
        ({"schema_in": {"type": "nope"}}, "schema: at /type"),
        ({"schema_out": b"{"}, "schema: not JSON"),
        ({"schema_out": "/no/such/file"}, "schema: cannot read"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(options, message):
    with pytest.raises(InvalidTask, match=message):
        LocalExecutor(len, **options)


@BOTH
def test_an_exception_is_named(isolation):
    with pytest.raises(ExecutionFailed) as failed:
        LocalExecutor(fails, isolation=isolation)(1)

    assert "execution failed: ValueError: no good" == str(failed.value)


def test_an_exception_is_the_cause():
    with pytest.raises(ExecutionFailed) as failed:
        LocalExecutor(fails)(1)

    assert isinstance(failed.value.__cause__, ValueError)


@BOTH
def test_an_exception_that_has_no_text_is_named_by_its_class(isolation):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def mute(_):
        raise Mute

    with pytest.raises(ExecutionFailed) as failed:
        LocalExecutor(mute, isolation=isolation)(1)

    assert "execution failed: Mute" == str(failed.value)


@pytest.mark.parametrize(
    ("isolation", "timeout", "text"),
    [("thread", 0.05, "0.05s"), ("fork", "50ms", "0.05s"), ("fork", 1, "1s")],
)
def test_a_timeout_says_how_long_it_was(isolation, timeout, text):
    with pytest.raises(ExecutionTimeout) as over:
        LocalExecutor(forever, timeout=timeout, isolation=isolation)(1)

    assert f"execution timed out after {text}" == str(over.value)
    assert isinstance(over.value, TimeoutError)


def test_a_timeout_with_schemas_and_types_is_the_same():
    executor = LocalExecutor[list[float], float](forever, timeout=SOON)

    with pytest.raises(ExecutionTimeout):
        executor([1.0])


def test_ctrl_c_passes_through():
    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalExecutor(interrupted)(1)


@BOTH
def test_input_that_is_not_allowed_never_reaches_the_function(isolation):
    executor: Any = LocalExecutor(fails, schema_in=NUMBERS, isolation=isolation)

    with pytest.raises(InvalidInput) as refused:
        executor([1, "x"])

    assert 'input validation failed: at /1: "x" is not of type "number"' == str(refused.value)


@BOTH
def test_output_that_is_not_allowed_is_refused(isolation):
    executor: Any = LocalExecutor(same, schema_out={"type": "string"}, isolation=isolation)

    with pytest.raises(InvalidOutput) as refused:
        executor([1])

    assert 'output validation failed: [1] is not of type "string"' == str(refused.value)


@pytest.mark.parametrize("side", ["schema_in", "schema_out"])
def test_one_schema_alone_counts(side):
    schemas: dict[str, Any] = {side: {"type": "integer"}}
    executor: Any = LocalExecutor(same, **schemas)

    assert 1 == executor(1)
    with pytest.raises((InvalidInput, InvalidOutput)):
        executor("x")


def test_the_same_schema_on_both_sides_counts_on_both():
    executor: Any = LocalExecutor(
        str, schema_in={"type": "integer"}, schema_out={"type": "integer"}
    )

    with pytest.raises(InvalidInput):
        executor("x")
    with pytest.raises(InvalidOutput):
        executor(1)


@pytest.mark.parametrize(
    ("executor", "good", "bad"),
    [
        (LocalExecutor[int, Any](same), 1, "x"),
        (LocalExecutor[Row, Row](same), {"n": 1}, {"n": "x"}),
        (LocalExecutor[list[Input], Any](same), [Input([1.0])], [Input(["x"])]),  # type: ignore[list-item]
        (LocalExecutor[Model, Model](same), Model(n=1), {"n": "x"}),
        (LocalExecutor[Input | None, Any](same), None, 5),
    ],
)
def test_a_type_is_a_schema(executor, good, bad):
    assert good == executor(good)
    with pytest.raises(InvalidInput):
        executor(bad)


def test_the_json_form_of_an_input_becomes_its_type():
    executor = LocalExecutor[Input, Any](lambda given: type(given).__name__)

    assert "Input" == executor({"values": [1]})


def test_the_json_form_of_an_output_becomes_its_type():
    given: Any = {"count": 1, "sum": 2, "mean": 3}
    executor = LocalExecutor[Any, Output](lambda _: given)

    assert Output(1, 2.0, 3.0) == executor(None)


def test_a_given_schema_wins_and_the_type_still_converts():
    executor = LocalExecutor[Input, Any](same, schema_in=True)

    with pytest.raises(InvalidInput, match="at /values: Input should be a valid list"):
        executor({"values": "x"})


def test_an_answer_of_another_class_is_refused():
    executor = LocalExecutor[Any, Output](lambda _: Input([]))  # type: ignore[arg-type]

    with pytest.raises(InvalidOutput, match="output validation failed: wanted Output, found Input"):
        executor(None)


@pytest.mark.parametrize("value", [b"x", [math.nan], {1: 2}, {1, 2}, object()])
def test_what_has_no_json_form_is_no_input_where_there_is_a_schema(value):
    with pytest.raises(InvalidInput, match=r"input validation failed: .*(JSON form|is not text)"):
        LocalExecutor(same, schema_in={"enum": [None]})(value)


@pytest.mark.parametrize("value", [b"x", [math.nan], {1: 2}, {1, 2}, object()])
def test_what_has_no_json_form_is_no_output_where_there_is_a_schema(value):
    executor: Any = LocalExecutor(lambda _: value, schema_out={"enum": [1]})

    with pytest.raises(InvalidOutput, match=r"output validation failed: .*(JSON form|is not text)"):
        executor(1)


def test_without_schemas_any_value_may_pass():
    value = object()

    assert LocalExecutor(same)(value) is value


def test_null_is_an_input():
    assert LocalExecutor(same, schema_in={"type": "null"})(None) is None


def test_an_executor_may_be_called_by_many_threads():
    executor: Any = LocalExecutor(
        same, schema_in={"type": "integer"}, schema_out={"type": "integer"}
    )
    with ThreadPoolExecutor(8) as pool:
        assert list(range(2000)) == list(pool.map(executor, range(2000)))


def test_an_executor_may_call_another():
    """The inner one is over, and the outer one sees a failure like any other."""
    inner: Any = LocalExecutor(forever, timeout=SOON)
    outer: Any = LocalExecutor(inner, timeout=30)

    with pytest.raises(ExecutionFailed, match=r"ExecutionTimeout: execution timed out after 0.05s"):
        outer(1)


def test_the_outer_executor_ends_what_is_within():
    inner: Any = LocalExecutor(forever, timeout=30)
    outer: Any = LocalExecutor(inner, timeout=SOON)

    with pytest.raises(ExecutionTimeout, match=r"after 0.05s"):
        outer(1)


def test_a_coroutine_function_is_awaited():
    assert 42 == LocalExecutor(doubled)(21)


@pytest.mark.parametrize(
    "wrapped", [partial(doubled), type("C", (), {"__call__": staticmethod(doubled)})()]
)
def test_what_makes_a_coroutine_is_one(wrapped):
    assert 42 == LocalExecutor(wrapped, schema_out={"type": "integer"})(21)


async def test_a_coroutine_function_is_awaited_in_the_loop_there_is():
    loop = asyncio.get_running_loop()

    async def here(_):
        return asyncio.get_running_loop() is loop

    assert await LocalExecutor(here).aexecute(1)


async def test_a_coroutine_function_cannot_be_waited_for_where_a_loop_runs():
    with pytest.raises(UsageError, match="an event loop runs here; use `await"):
        LocalExecutor(doubled)(1)


@BOTH
def test_a_coroutine_has_a_deadline(isolation):
    async def sleeping(_):
        await asyncio.sleep(60)

    with pytest.raises(ExecutionTimeout, match=r"^execution timed out after 0.05s$"):
        LocalExecutor(sleeping, timeout=SOON, isolation=isolation)(1)


async def test_a_coroutine_has_a_deadline_in_a_loop():
    with pytest.raises(ExecutionTimeout, match=r"^execution timed out after 0.05s$"):
        await LocalExecutor[Any, Any](anyio.sleep, timeout=SOON).aexecute(60)


async def test_a_coroutines_own_timeout_is_a_failure():
    async def times_out(_):
        raise TimeoutError("mine")

    with pytest.raises(ExecutionFailed, match="TimeoutError: mine"):
        await LocalExecutor(times_out).aexecute(1)


async def test_a_coroutine_that_fails_is_named():
    async def failing(_):
        raise KeyError("x")

    with pytest.raises(ExecutionFailed, match="execution failed: KeyError: 'x'"):
        await LocalExecutor(failing).aexecute(1)


async def test_the_loop_goes_on_while_a_function_runs():
    arrived = threading.Event()
    executor: Any = LocalExecutor(arrived.wait, timeout=30)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(executor.aexecute, 20)
        await checkpoint()
        arrived.set()

    assert arrived.is_set()


async def test_a_deadline_holds_in_a_loop_too():
    with pytest.raises(ExecutionTimeout):
        await LocalExecutor(forever, timeout=SOON).aexecute(1)


async def test_both_sides_are_checked_in_a_loop_too():
    with pytest.raises(InvalidInput):
        await LocalExecutor(doubled, schema_in=NUMBERS).aexecute("x")
    with pytest.raises(InvalidOutput):
        await LocalExecutor(doubled, schema_out=NUMBERS).aexecute("x")


async def test_a_cancelled_coroutine_is_cancelled():
    ended = []

    async def sleeping(_):
        try:
            await anyio.sleep(60)
        finally:
            ended.append(True)

    with anyio.move_on_after(SOON):
        await LocalExecutor(sleeping).aexecute(1)

    assert [True] == ended


def test_a_fork_does_not_touch_this_process():
    seen: list[int] = []
    LocalExecutor(seen.append, isolation="fork")(1)

    assert [] == seen
    assert os.getpid() != LocalExecutor(lambda _: os.getpid(), isolation="fork")(1)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda _: os._exit(3), "exit code 3"),
        (lambda _: os._exit(0), "exit code 0"),
        (lambda _: os.kill(os.getpid(), signal.SIGUSR1), "killed by signal 10"),
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), "killed by signal 9"),
    ],
)
def test_a_fork_that_ends_without_an_answer_says_how(end, told):
    with pytest.raises(ExecutionFailed, match=f"ended without an answer, {told}"):
        LocalExecutor(end, isolation="fork")(1)

    assert [] == children()


def test_a_fork_that_asks_to_exit_failed():
    with pytest.raises(ExecutionFailed, match="execution failed: SystemExit: 3"):
        LocalExecutor(sys.exit, isolation="fork")(3)


def test_a_fork_ends_whatever_it_waits_for():
    """Also in C, where no watchdog reaches."""
    begun = time.monotonic()
    with pytest.raises(ExecutionTimeout):
        LocalExecutor(time.sleep, timeout=SOON, isolation="fork")(60)

    assert 30 > time.monotonic() - begun
    assert [] == children()


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 30_000_000])
def test_a_fork_may_answer_much(size):
    assert size == len(LocalExecutor(lambda n: "x" * n, isolation="fork")(size))


def test_a_fork_may_answer_many_things():
    assert [[]] * 250_000 == LocalExecutor(lambda n: [[]] * n, isolation="fork")(250_000)


def ring(_value):
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda _: [math.nan], "at /0: nan has no JSON form"),
        (lambda _: {"a": b"x"}, "at /a: bytes have no JSON form; send them as a file"),
        (lambda _: {"a": {1: 2}}, "at /a/1: the key 1 is not text"),
        (lambda _: "\udc80", "holds characters that have no UTF-8 form"),
        (lambda _: object(), "object has no JSON form"),
        (ring, "at /0: contains itself"),
    ],
)
def test_a_fork_answers_with_json(answer, problem):
    with pytest.raises(InvalidOutput) as refused:
        LocalExecutor(answer, isolation="fork")(1)

    assert f"output validation failed: {problem}" == str(refused.value)


def test_a_forks_failure_has_its_traceback():
    with pytest.raises(ExecutionFailed) as failed:
        LocalExecutor(fails, isolation="fork")(1)

    assert 'raise ValueError("no good")' in "".join(failed.value.__notes__)


def test_a_forks_failure_may_hold_any_text():
    def fail(_):
        raise ValueError("\udc80" * 100_000)

    with pytest.raises(ExecutionFailed, match=r"ValueError: \\udc80"):
        LocalExecutor(fail, isolation="fork")(1)


def test_what_a_fork_prints_is_printed_once(capfd):
    sys.stdout.write("before ")
    LocalExecutor(lambda _: sys.stdout.write("within "), isolation="fork")(1)
    sys.stdout.write("after\n")
    sys.stdout.flush()

    assert "before within after\n" == capfd.readouterr().out


def test_many_forks_at_once_do_not_wait_for_each_other():
    """A copy holds the pipes of those forked before it: their answers must not need its end."""

    def sleep(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    executor: Any = LocalExecutor(sleep, timeout=30, isolation="fork")
    slow, quick = [3.0] * 4, [0.0] * 60
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(executor, each) for each in slow]
        begun = time.monotonic()
        assert quick == list(pool.map(executor, quick))
        took = time.monotonic() - begun
        assert slow == [each.result() for each in waiting]

    assert 2.5 > took
    assert [] == children()


def test_what_a_fork_started_ends_with_it():
    def leaves_one_behind(_):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid

    pid = LocalExecutor(leaves_one_behind, timeout=30, isolation="fork")(1)
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone, _, _ = select.select([process], [], [], 10)
    os.close(process)

    assert [process] == gone


def test_descriptors_are_closed_after_a_fork():
    executor: Any = LocalExecutor(same, isolation="fork")
    executor(1)
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        executor(1)

    assert len(before) == len(os.listdir("/proc/self/fd"))


def test_no_room_for_a_fork_is_ours_to_lack(monkeypatch):
    def refused():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refused)
        with pytest.raises(PlatformError, match="no room for a process"):
            LocalExecutor(same, isolation="fork")(1)

    assert len(before) == len(os.listdir("/proc/self/fd"))


def test_a_fork_whose_end_is_reaped_by_others_still_answers():
    def child():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return LocalExecutor(same, isolation="fork")(7)

    assert 7 == in_child(child)


@pytest.mark.parametrize("flag", [forked._PIDFD_SIGNAL_PROCESS_GROUP, 1 << 30])
def test_what_a_fork_leaves_in_its_group_goes_with_it(monkeypatch, flag):
    """By a handle of the whole group, and as a kernel has it that does not know of those."""
    monkeypatch.setattr(forked, "_PIDFD_SIGNAL_PROCESS_GROUP", flag)
    ours, theirs = os.pipe()

    def leave(answer):
        if os.fork() == 0:
            time.sleep(60)
        return answer

    assert 7 == LocalExecutor(leave, isolation="fork")(7)
    os.close(theirs)
    ended = select.select([ours], [], [], 20)[0]
    os.close(ours)

    assert [ours] == ended


def test_a_number_that_somebody_else_may_have_by_now_is_not_killed(monkeypatch):
    """The fork is dead and reaped; a group is called by its number all the same."""
    monkeypatch.setattr(forked, "_PIDFD_SIGNAL_PROCESS_GROUP", 1 << 30)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        gone = os.fork()
        if gone == 0:
            os._exit(0)
        handle = os.pidfd_open(gone)
        os.waitpid(gone, 0)

        assert not forked._end(other.pid, handle)
        assert other.poll() is None
        other.kill()
    os.close(handle)


def test_a_deadline_around_a_fork_ends_it():
    outer: Any = LocalExecutor(
        LocalExecutor(time.sleep, timeout=60, isolation="fork"), timeout=SOON
    )

    begun = time.monotonic()
    with pytest.raises(ExecutionTimeout, match=r"0.05s"):
        outer(60)

    assert 30 > time.monotonic() - begun
    assert [] == children()


def test_a_deadline_holds_within_a_fork():
    inner: Any = LocalExecutor(forever, timeout=SOON)

    with pytest.raises(ExecutionFailed, match=r"execution timed out after 0.05s"):
        LocalExecutor(inner, timeout=30, isolation="fork")(1)


async def test_a_cancelled_fork_is_killed():
    with anyio.move_on_after(0.2) as scope:
        await LocalExecutor(time.sleep, timeout=60, isolation="fork").aexecute(60)

    assert scope.cancelled_caught
    assert [] == children()


def test_a_fork_dies_with_the_process_that_made_it():
    """Killed without a chance to tidy up, a process leaves no copy of it behind."""
    read, write = os.pipe()

    def child():
        def tell(_):
            os.write(write, str(os.getpid()).encode())
            signal.pause()

        def end():
            os.read(ready, 1)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=end, daemon=True).start()
        LocalExecutor(tell, timeout=60, isolation="fork")(1)

    ready, go = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(in_child, child)
        process = os.pidfd_open(int(os.read(read, 20)))
        os.write(go, b"x")
        with pytest.raises(ChildProcessError, match="SIGKILL"):
            ended.result(30)
    gone, _, _ = select.select([process], [], [], 10)
    for fd in (read, write, ready, go, process):
        os.close(fd)

    assert [process] == gone
