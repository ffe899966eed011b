import pickle
from traceback import format_exception

import pytest

from saggar import errors
from saggar.errors import GuestError, InvalidTask, NotFound, Overloaded, PrepareFailed, SaggarError
from saggar.model import Limits, Policy, Program, Task

EVERY = [kind for kind in vars(errors).values() if isinstance(kind, type)]
OURS = [kind for kind in EVERY if issubclass(kind, SaggarError)]


def test_every_error_has_a_code_of_its_own():
    codes = {kind.code for kind in OURS}

    assert len(OURS) == len(codes)


def test_an_error_without_a_message_says_what_its_class_is_for():
    assert "the policy does not allow it" == str(errors.PolicyDenied())


def test_not_found_says_what_there_is_and_what_was_meant():
    error = NotFound.among("driver", "jial", ["process", "jail"])

    assert "no driver named 'jial'; there are: jail, process; did you mean 'jail'?" == str(error)


def test_not_found_proposes_nothing_when_nothing_is_near():
    error = NotFound.among("driver", "zzz", [])

    assert "no driver named 'zzz'; there are: none" == str(error)


@pytest.mark.parametrize(
    ("error", "attribute"),
    [
        (PrepareFailed("no", log="the log"), "log"),
        (Overloaded("full", retry_after=2.0), "retry_after"),
        (GuestError({"status": "error"}, "it failed"), "result"),
    ],
)
def test_an_error_survives_pickling_with_what_it_carries(error, attribute):
    again = pickle.loads(pickle.dumps(error))

    assert str(error) == str(again)
    assert getattr(error, attribute) == getattr(again, attribute)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Limits(memory="12 parsecs"),
            "limits.memory: wanted a size such as '256MiB', found '12 parsecs'",
        ),
        (
            lambda: Policy(limits={"memory": "12 parsecs"}),
            "policy.limits.memory: wanted a size such as '256MiB', found '12 parsecs'",
        ),
        (
            lambda: Limits.model_validate({}).replace(memry=1),
            "limits: no field named 'memry'; did you mean 'memory'?",
        ),
        (lambda: Limits(wall=0), "limits.wall: must be greater than 0, found 0"),
        (
            lambda: Program.of("pass").replace(code={"kind": "inline"}),
            "program.code.inline.text: is missing",
        ),
        (
            lambda: Program(code={"kind": "magic"}),
            "program.code: must be one of inline, pickled, named, command, found 'magic'",
        ),
        (
            lambda: Policy(network="wifi"),
            "policy.network: must be 'none', 'loopback' or 'host', found 'wifi'",
        ),
        (
            lambda: Task.of("pass", env={"A=B": "c"}),
            "task.env: the name of a variable cannot hold '=': 'A=B'",
        ),
    ],
)
def test_a_value_built_wrongly_is_an_invalid_task_in_one_line(build, message):
    with pytest.raises(InvalidTask) as caught:
        build()

    assert message == str(caught.value)


def test_many_mistakes_are_still_one_short_line():
    with pytest.raises(InvalidTask) as caught:
        Limits(wall=0, cpu=0, memory=0, disk="x" * 10_000, output=-1)

    assert str(caught.value).endswith("; and 2 more")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_was_found_is_cut_short():
    with pytest.raises(InvalidTask) as caught:
        Policy(network="x" * 1_000_000)

    assert len(str(caught.value)) < 200


def test_what_an_installer_said_is_shown_below_the_message():
    error = PrepareFailed("numpy==99 cannot be installed", "resolving\nno such version\n")
    again = pickle.loads(pickle.dumps(error))

    assert "the installer said:\nresolving\nno such version" in "".join(format_exception(error))
    assert (error.log, error.__notes__) == (again.log, again.__notes__)
    assert not hasattr(PrepareFailed("no uv"), "__notes__")
