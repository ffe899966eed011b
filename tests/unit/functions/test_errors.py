"""Exceptions of the other side: which classes are taken for what they say they are."""

import pickle
import sys
import types
from typing import Any

import pytest

from saggar.errors import GuestError, SaggarError
from saggar.functions.errors import (
    InvalidAnswer,
    RemoteCancelled,
    RemoteCrash,
    RemoteError,
    RemoteOutOfMemory,
    RemoteTimeout,
    failure,
    known,
    like,
)
from saggar.model.result import ErrorInfo, Result, Status

RESULT: Result[Any] = Result(
    status=Status.ERROR, isolation="jail", stdout_bytes=b"out", stderr_bytes=b"err"
)


class Picky(Exception):
    """Its own constructor wants what does not travel."""

    def __init__(self, one, two):  # noqa: ARG002
        raise AssertionError("nothing of the class runs")


def raised(name, module="builtins", args=("text",), message="text"):
    return {
        "module": module,
        "name": name,
        "message": message,
        "traceback": "Traceback: there",
        "args": list(args),
        "whole": True,
    }


@pytest.mark.parametrize("kind", [KeyError, ValueError, OSError, ZeroDivisionError, MemoryError])
def test_a_builtin_exception_keeps_its_type(kind):
    error = like(raised(kind.__name__), RESULT)

    assert isinstance(error, kind)
    assert isinstance(error, RemoteError)
    assert isinstance(error, SaggarError)
    assert ("text",) == error.args
    assert "text" == str(error)
    assert "Traceback: there" == error.remote_traceback
    assert ("out", "err") == (error.stdout, error.stderr)
    assert RESULT is error.result


def test_an_error_of_the_operating_system_has_its_number():
    error = like(raised("FileNotFoundError", args=(2, "No such file")), RESULT)

    assert isinstance(error, FileNotFoundError)
    assert 2 == error.errno


def test_a_class_that_is_loaded_here_keeps_its_type_and_is_not_called():
    error = like(raised("Picky", module=__name__), RESULT)

    assert isinstance(error, Picky)


def test_a_module_that_is_not_loaded_is_not_imported():
    assert "this" not in sys.modules
    error = like(raised("Anything", module="this"), RESULT)

    assert RemoteError is type(error)
    assert "Anything: text" == str(error)
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "SystemExit"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "GeneratorExit"),
        ("builtins", "StopIteration"),
        ("builtins", "StopAsyncIteration"),
        ("asyncio", "CancelledError"),
        ("builtins", "print"),
        ("builtins", "int"),
        ("builtins", "nothing"),
        ("os", "path.join"),
        ("os", "system.__class__"),
        ("", ""),
    ],
)
def test_what_is_no_ordinary_exception_is_a_remote_error_and_no_more(module, name):
    assert RemoteError is type(like(raised(name, module), RESULT))


def test_a_module_is_not_asked_for_what_it_does_not_have(monkeypatch):
    asked: list[str] = []
    module = types.ModuleType("lazy_4711")
    module.__getattr__ = asked.append  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_4711", module)

    assert known("lazy_4711", "Trap") is None
    assert [] == asked


def test_arguments_that_did_not_all_travel_leave_the_message():
    said = raised("ValueError", args=(1,), message="the whole")
    error = like({**said, "whole": False}, RESULT)

    assert ("the whole",) == error.args


def test_it_can_be_pickled_by_whoever_keeps_it():
    error = pickle.loads(pickle.dumps(like(raised("KeyError"), RESULT)))

    assert isinstance(error, KeyError)
    assert isinstance(error, RemoteError)
    assert "Traceback: there" == error.remote_traceback


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.TIMEOUT, RemoteTimeout),
        (Status.MEMORY, RemoteOutOfMemory),
        (Status.CANCELLED, RemoteCancelled),
        (Status.KILLED, RemoteCrash),
        (Status.ERROR, RemoteCrash),
    ],
)
def test_each_end_has_a_type_of_its_own(status, kind):
    error = failure(Result(status=status, isolation="jail"), None, "f")

    assert kind is type(error)
    assert isinstance(error, GuestError)


def test_what_the_host_saw_goes_before_what_the_guest_says():
    error = failure(Result(status=Status.TIMEOUT, isolation="jail"), raised("KeyError"), "f")

    assert isinstance(error, TimeoutError)
    assert not isinstance(error, KeyError)


def test_an_answer_that_was_refused_says_so():
    info = ErrorInfo(type="InvalidValue", message="not sealed")
    error = failure(RESULT.replace(error=info), None, "f")

    assert isinstance(error, InvalidAnswer)
    assert "f: not sealed" == str(error)


def test_the_traceback_is_shown_where_python_shows_it():
    error = failure(RESULT, raised("KeyError"), "f")

    assert ["in the sandbox:\nTraceback: there"] == error.__notes__
