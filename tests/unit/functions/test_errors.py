"""Exceptions of the other side: which classes are taken for what they say they are."""

import pickle
import subprocess
import sys
import traceback
import types
import urllib.error
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
)
from saggar.functions.likeness import failure, known, like
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


class Guarded(Exception):
    """Whatever is done to it runs code of its own, which fails."""

    def __new__(cls, *_):
        raise AssertionError("made")

    def __init_subclass__(cls):
        raise AssertionError("derived from")

    def __getattr__(self, name):
        raise KeyError(name)

    def __setattr__(self, name, value):
        raise AssertionError("set")

    @property
    def result(self):
        raise AssertionError("asked")

    message = result


class Meta(type):
    def __hash__(cls):
        raise AssertionError("hashed")

    def __new__(cls, name, bases, space, **options):
        made.append(name)
        return super().__new__(cls, name, bases, space, **options)


made: list[str] = []


class Ruled(Exception, metaclass=Meta):
    pass


def test_no_code_of_the_class_runs():
    error = failure(RESULT, raised("Guarded", module=__name__), "f")

    assert isinstance(error, Guarded)
    assert "text" == str(error)
    assert "Traceback: there" in "".join(error.__notes__)
    assert "Traceback: there" in "".join(traceback.format_exception(error))


class Misled(UnicodeDecodeError):
    def __setattr__(self, name, value):
        raise AssertionError("set")


def test_no_code_of_the_class_runs_for_arguments_that_it_never_had():
    error = like(raised("Misled", __name__, args=("utf-8", 5)), RESULT)

    assert isinstance(error, Misled)
    assert ("text",) == error.args


def test_a_class_with_a_metaclass_of_its_own_is_not_derived_from():
    assert RemoteError is type(like(raised("Ruled", module=__name__), RESULT))
    assert ["Ruled"] == made


def test_what_stands_where_a_class_is_meant_is_not_asked_what_it_is(monkeypatch):
    class Proxy:
        @property  # type: ignore[misc]
        def __class__(self):
            raise AssertionError("asked")

        def __getattr__(self, name):
            raise AssertionError("asked")

    monkeypatch.setitem(globals(), "proxy", Proxy())

    assert known(__name__, "proxy") is None
    assert known(__name__, "proxy.inner") is None


def test_an_exception_of_the_standard_library_that_looks_for_a_file():
    said = raised("HTTPError", module="urllib.error", args=(), message="HTTP Error 404: no")
    error = failure(RESULT, {**said, "vars": {"code": 404, "msg": "no"}}, "f")

    assert isinstance(error, urllib.error.HTTPError)
    assert (404, "no") == (error.code, error.msg)


def test_its_attributes_come_along_and_are_not_hidden_by_ours():
    said = {**raised("CalledProcessError", "subprocess"), "args": (3, ["x"])}
    held = {"returncode": 3, "cmd": ["x"], "output": b"out", "stderr": b"its own"}
    error: Any = like({**said, "vars": held}, RESULT)
    own = like({**raised("Picky", __name__), "vars": {"code": 5, "stdout": "mine"}}, RESULT)

    assert isinstance(error, subprocess.CalledProcessError)
    assert (3, ["x"]) == (error.returncode, error.cmd)
    assert [b"out", b"its own"] == [error.stdout, error.stderr]
    assert (5, "mine", "err") == (vars(own)["code"], own.stdout, own.stderr)


def test_attributes_that_python_means_something_by_are_left_out():
    held = {"__notes__": "text", "__class__": "int", "with_traceback": 1, "add_note": 2, "a b": 3}
    error = failure(RESULT, {**raised("KeyError"), "vars": held}, "f")

    assert isinstance(error.with_traceback(None), KeyError)
    error.add_note("more")
    assert ["in the sandbox:\nTraceback: there", "more"] == error.__notes__
    assert "a b" not in vars(error)


@pytest.mark.parametrize(
    ("name", "args", "slots"),
    [
        (
            "FileNotFoundError",
            (2, "No such file"),
            {"errno": 2, "strerror": "No such file", "filename": "a.txt"},
        ),
        ("ImportError", ("m",), {"name": "n", "path": "p"}),
        ("SyntaxError", ("m",), {"lineno": 3, "offset": 1, "text": "a b", "filename": "f.py"}),
        ("SyntaxError", ("m", [1, 2]), {"lineno": 3}),
    ],
)
def test_what_pythons_own_classes_keep_beside_their_arguments_comes_along(name, args, slots):
    error = like({**raised(name, args=args), "slots": slots}, RESULT)

    assert name == type(error).__name__
    assert slots == {slot: getattr(error, slot) for slot in slots}
    assert traceback.format_exception(error)


def test_slots_of_other_types_than_python_prints_are_left_out():
    lies = {"lineno": [], "offset": "x", "end_offset": 1 << 40, "text": 5, "msg": {}}
    error = like({**raised("SyntaxError"), "slots": lies}, RESULT)

    assert isinstance(error, SyntaxError)
    assert (None, None, None, None) == (error.lineno, error.offset, error.end_offset, error.text)
    assert traceback.format_exception(error)


def test_a_lie_about_a_name_imports_nothing_when_it_is_printed():
    slots = {"name": "this", "name_from": "x", "path": None}
    error = like({**raised("ImportError"), "slots": slots}, RESULT)
    traceback.format_exception(error)

    assert "this" not in sys.modules


def test_a_decoding_error_has_its_bytes():
    args = ("utf-8", b"\xff", 0, 1, "invalid start byte")
    error = like(raised("UnicodeDecodeError", args=args), RESULT)

    assert isinstance(error, UnicodeDecodeError)
    assert (b"\xff", "invalid start byte") == (error.object, error.reason)


@pytest.mark.parametrize(
    "name", ["Overloaded", "PlatformError", "InvalidTask", "GuestError", "PrepareFailed"]
)
def test_a_guest_does_not_speak_for_us(name):
    assert RemoteError is type(like(raised(name, "saggar.errors"), RESULT))


def grouped(*leaves, message="g"):
    said = raised("ExceptionGroup", message=f"{message} (some sub-exceptions)")
    return {**said, "whole": False, "slots": {"message": message}, "exceptions": list(leaves)}


def test_a_group_keeps_what_it_holds():
    error = like(grouped(raised("ValueError"), grouped(raised("Nothing"))), RESULT)

    assert isinstance(error, ExceptionGroup)
    assert isinstance(error, RemoteError)
    assert "g" == error.message  # its own, which goes before ours
    one, other = error.exceptions
    assert isinstance(one, ValueError)
    assert isinstance(other, ExceptionGroup)
    assert RemoteError is type(other.exceptions[0])
    found: list[Exception] = []
    try:
        raise error
    except* ValueError as group:
        found += group.exceptions
    except* RemoteError:
        pass
    assert [one] == found


def test_a_group_can_be_pickled():
    error = pickle.loads(pickle.dumps(failure(RESULT, grouped(raised("ValueError")), "f")))

    assert isinstance(error.exceptions[0], ValueError)
    assert ["in the sandbox:\nTraceback: there"] == error.__notes__


@pytest.mark.parametrize(
    "said",
    [
        grouped(),
        grouped(*[raised("ValueError")] * 300),
        grouped(*[grouped(*[raised("ValueError")] * 30)] * 30),
        {**grouped(), "exceptions": 5},
        {**grouped(), "exceptions": [5]},
    ],
)
def test_a_group_of_too_much_or_of_nothing_is_a_remote_error(said):
    assert RemoteError is type(like(said, RESULT))


def test_what_it_says_is_cut_and_has_no_commands_to_a_terminal():
    long = failure(RESULT, {**raised("KeyError"), "message": "m" * 10_000_000}, "f")
    sly = failure(RESULT, {**raised("KeyError"), "message": "a\x1b[2Jb\n", "args": None}, "f")

    assert len(str(long)) < 100_000
    assert "a\\x1b[2Jb\n" == str(sly)


@pytest.mark.parametrize("odd", [None, 5, [], {"a": 1}])
def test_words_that_are_no_text_say_nothing(odd):
    said = {"module": odd, "name": odd, "message": odd, "traceback": odd, "args": odd, "vars": odd}

    assert RemoteError is type(failure(RESULT, {**said, "slots": odd, "whole": True}, "f"))
    assert isinstance(
        like({**said, "module": "builtins", "name": "OSError", "whole": True}, RESULT), OSError
    )
