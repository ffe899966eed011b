import marshal

import pytest

from saggar.errors import InvalidTask
from saggar.languages.python import Python
from saggar.model.limits import Limits
from saggar.model.program import Command, Inline, Named, Pickled
from saggar.model.task import Task


def planned(code="pass", **options):
    return Python().plan(Task.of(code, **options))


def test_a_script_is_left_to_the_runner_with_its_file_name():
    plan = planned("print(1)")

    assert plan.argv is None
    assert plan.compile is None
    assert () == plan.files
    assert {
        "code": "print(1)",
        "filename": "main.py",
        "entry": None,
        "want_value": False,
    } == plan.guest


def test_what_is_asked_of_it_is_told_to_the_runner():
    code = Inline(text="6 * 7", filename="answer.py")

    assert {
        "code": "6 * 7",
        "filename": "answer.py",
        "entry": None,
        "want_value": True,
    } == planned(code, want_value=True).guest
    assert "f" == planned("def f(): pass", entry="f").guest["entry"]


@pytest.mark.parametrize("code", [Command(argv=("ls",)), Named(name="f")], ids=lambda c: c.kind)
def test_other_forms_of_code_are_refused_by_name(code):
    with pytest.raises(InvalidTask, match=f"python cannot run {code.kind} code; wanted inline"):
        planned(code)


def test_a_pickled_function_is_called_by_a_body_of_ours():
    plan = planned(Pickled(payload=b"function"), input=[[1], {}])

    assert "saggar.guest.remote" == plan.guest["body"]
    assert ("saggar.guest.remote",) == plan.preload
    assert b"" == plan.stdin  # its arguments are no input() of its
    assert ("application/json", b"function", b"[[1],{}]") == marshal.loads(plan.guest["input"])
    assert plan.largest == Limits().memory


@pytest.mark.parametrize("said", [{"want_value": True}, {"entry": "f"}])
def test_a_pickled_function_has_an_entry_and_a_value_already(said):
    with pytest.raises(InvalidTask, match="leave entry and want_value out"):
        planned(Pickled(payload=b""), **said)


def test_an_entry_has_a_value_of_its_own():
    with pytest.raises(InvalidTask, match="leave want_value out"):
        planned("def f(): pass", entry="f", want_value=True)


def test_an_input_file_cannot_have_the_programs_name():
    with pytest.raises(InvalidTask, match=r"the program is called 'main\.py', and so is an input"):
        planned(files={"main.py": "print(2)"})


def test_an_input_file_of_that_name_in_a_folder_is_another_file():
    assert planned(files={"folder/main.py": ""}).guest["filename"] == "main.py"


def test_a_plan_is_only_a_plan():
    """The same one for the same task, and nothing has happened."""
    assert planned("1 / 0") == planned("1 / 0")
