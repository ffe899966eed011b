"""What every executor is: typed by brackets, with errors that say the same whoever raises them."""

import pickle
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import pytest
from pydantic import Field

import saggar
from saggar.errors import (
    ExecutionFailed,
    ExecutionTimeout,
    GuestError,
    InvalidInput,
    InvalidOutput,
    InvalidTask,
    NotFound,
    UsageError,
)
from saggar.functions.executor import Executor
from saggar.functions.local import LocalExecutor
from saggar.functions.sandbox import SandboxExecutor
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.result import Result, Status

A = TypeVar("A")
B = TypeVar("B")
SOURCE = "def describe(values): return sum(values)"


@dataclass
class Input:
    values: list[float]


class Echo(Executor[A, B]):
    """The smallest one."""

    def execute(self, value: A) -> B:
        """What came in, as what goes out."""
        return self._lift(self._lower(value))

    async def aexecute(self, value: A) -> B:
        """The same."""
        return self.execute(value)


def result(status, **fields):
    return Result(status=status, isolation="jail", **fields)


def test_a_call_is_execute():
    assert 5 == Echo[int, int]()(5) == Echo[int, int]().execute(5)


async def test_a_call_may_be_awaited():
    assert 5 == await Echo[int, int]().aexecute(5)


def test_types_in_brackets_are_schemas():
    with pytest.raises(InvalidInput, match=r'^input validation failed: "x" is not of type'):
        Echo[int, Any]()("x")  # type: ignore[arg-type]
    with pytest.raises(InvalidOutput, match=r'^output validation failed: "x" is not of type'):
        Echo[Any, int]()("x")


def test_without_brackets_anything_may_pass():
    assert "x" == Echo[Any, Any]()("x")
    echo: Echo[Any, Any] = Echo()
    assert "x" == echo("x")


def test_a_class_knows_its_types():
    assert Echo[int, str] is Echo[int, str]
    assert issubclass(Echo[int, str], Echo)
    assert "Echo[int, str]" == Echo[int, str].__name__
    assert "Echo[list[int], Input]" == Echo[list[int], Input].__name__


def test_a_subclass_may_fix_the_types():
    class Doubler(LocalExecutor[int, int]):
        def __init__(self) -> None:
            super().__init__(lambda value: 2 * value)

    assert 4 == Doubler()(2)
    with pytest.raises(InvalidInput):
        Doubler()("x")


def test_a_subclass_may_leave_the_types_open():
    class Mine(Echo[A, B]):
        pass

    with pytest.raises(InvalidInput):
        Mine[int, Any]()("x")  # type: ignore[arg-type]


def test_a_type_whose_annotation_has_no_hash_is_a_type():
    kind: Any = Annotated[int, Field(gt=1), ["no", "hash"]]

    assert 2 == Echo[kind, Any]()(2)
    with pytest.raises(InvalidInput):
        Echo[kind, Any]()(1)


@pytest.mark.parametrize("types", [int, (int,), (int, int, int)])
def test_there_are_two_types(types):
    executor: Any = Echo
    with pytest.raises(TypeError, match=r"Echo\[A, B\] takes two types"):
        executor[types]


def test_each_side_may_have_its_own_schema():
    echo: Echo[Any, Any] = Echo(schema_in={"type": "integer"})
    with pytest.raises(InvalidInput):
        echo("x")
    echo = Echo(schema_out={"type": "integer"})
    with pytest.raises(InvalidOutput):
        echo("x")


def test_a_given_schema_wins_over_the_type():
    assert "x" == Echo[int, int](schema_in=True, schema_out=True)("x")  # type: ignore[arg-type]


def test_an_executor_of_a_source_has_its_types(tmp_path):
    file = tmp_path / "stats.py"
    file.write_text(SOURCE)
    made = Executor[list[float], float].from_source(file, entry="describe", timeout=3)

    assert isinstance(made, SandboxExecutor)
    assert 3 == made.policy.limits.wall
    assert ("python", "describe") == (made.task.program.language, made.task.program.entry)
    with pytest.raises(InvalidInput, match="at /0"):
        made(["x"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("name", "language"),
    [("a.py", "python"), ("a.mjs", "node"), ("a.ts", "node"), ("a.go", "go"), ("a", "python")],
)
def test_the_ending_of_a_file_says_its_language(tmp_path, name, language):
    (tmp_path / name).write_text(SOURCE)

    made: Any = Executor.from_source(tmp_path / name, entry="describe")
    named: Any = Executor.from_source(tmp_path / name, entry="describe", language="python")

    assert language == made.task.program.language
    assert "python" == named.task.program.language


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "latin.py").write_bytes(b"\xff")

    for name in ("none.py", "latin.py"):
        with pytest.raises(InvalidTask, match="cannot read"):
            Executor.from_source(tmp_path / name, entry="f")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"entry": "not a name"}, InvalidTask, "wanted a function's name"),
        ({"entry": "f", "language": "cobol"}, NotFound, "no language named 'cobol'"),
        ({"entry": "f", "timeout": "soon"}, InvalidTask, "timeout: wanted a time"),
        ({"entry": "f", "limits": {"memory": "much"}}, InvalidTask, "memory: wanted a size"),
        ({"entry": "f", "schema_in": {"type": "nope"}}, InvalidTask, "schema: at /type"),
        ({"entry": "f", "schema_out": b"no"}, InvalidTask, "schema: not JSON"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(options, error, message):
    with pytest.raises(error, match=message):
        SandboxExecutor(SOURCE, **options)


def test_the_walls_are_closed_and_the_timeout_is_the_wall_clock():
    made: SandboxExecutor[Any, Any] = SandboxExecutor(SOURCE, entry="describe")

    assert Policy(limits=Limits(wall=30)) == made.policy


def test_given_limits_are_kept():
    made: SandboxExecutor[Any, Any] = SandboxExecutor(
        SOURCE, entry="f", limits={"memory": "64MiB"}, timeout="2s"
    )

    assert (2, 64 << 20) == (made.policy.limits.wall, made.policy.limits.memory)


@pytest.mark.parametrize("value", [b"x", [float("nan")], {1: 2}, object()])
def test_an_input_without_json_form_never_leaves(value):
    made: SandboxExecutor[Any, Any] = SandboxExecutor(SOURCE, entry="f")

    with pytest.raises(InvalidInput, match=r"^input validation failed: (at /|bytes|object)"):
        made(value)


def test_a_timeout_is_told_with_its_limit():
    made: SandboxExecutor[Any, Any] = SandboxExecutor(SOURCE, entry="f", timeout=3)

    with pytest.raises(ExecutionTimeout, match=r"^execution timed out after 3s$"):
        made.judge(result(Status.TIMEOUT, limit="wall"))
    with pytest.raises(ExecutionTimeout, match=r"after 10s of processor time$"):
        made.judge(result(Status.TIMEOUT, limit="cpu"))


@pytest.mark.parametrize("status", [Status.ERROR, Status.MEMORY, Status.KILLED, Status.OUTPUT])
def test_any_other_end_is_a_failure_that_carries_its_result(status):
    made: SandboxExecutor[Any, Any] = SandboxExecutor(SOURCE, entry="f")
    ended = result(status)

    with pytest.raises(ExecutionFailed, match=f"^execution failed: {status}") as failed:
        made.judge(ended)
    assert failed.value.result is ended


ERRORS = [
    (InvalidInput("at /0: no"), "input validation failed: at /0: no"),
    (InvalidOutput(None, "at /0: no"), "output validation failed: at /0: no"),
    (ExecutionTimeout(None, "3s"), "execution timed out after 3s"),
    (ExecutionFailed({"some": "result"}, "ValueError: no"), "execution failed: ValueError: no"),
]


@pytest.mark.parametrize(("error", "message"), ERRORS)
def test_an_error_says_what_the_document_says(error, message):
    assert message == str(error)


@pytest.mark.parametrize(("error", "message"), ERRORS)
def test_an_error_survives_pickling(error, message):
    again = pickle.loads(pickle.dumps(error))

    assert type(error) is type(again)
    assert message == str(again)
    assert error.problem == again.problem
    assert getattr(error, "result", None) == getattr(again, "result", None)


def test_the_callers_mistakes_are_his_and_the_functions_are_its_own():
    assert issubclass(InvalidInput, UsageError)
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(ExecutionTimeout, TimeoutError)
    for kind in (InvalidOutput, ExecutionTimeout, ExecutionFailed):
        assert issubclass(kind, GuestError)


def test_executors_are_public_names():
    assert saggar.Executor is Executor
    assert saggar.LocalExecutor is LocalExecutor
    assert saggar.SandboxExecutor is SandboxExecutor
