import pytest

from saggar.errors import InvalidTask
from saggar.languages.bash import Bash
from saggar.model.plan import Runtime
from saggar.model.program import Command, Inline
from saggar.model.task import File, Task


def planned(code="true", **options):
    return Bash().plan(Task.of(code, language="bash", **options))


def test_a_script_is_a_file_that_bash_is_given():
    plan = planned("echo $1", args=["a b"])

    assert ("bash", "main.sh", "a b") == plan.argv
    assert (File(path="main.sh", content=b"echo $1"),) == plan.files
    assert Runtime(name="bash") == plan.runtime
    assert not plan.answers


def test_it_keeps_the_name_it_was_given():
    assert ("bash", "run.sh") == planned(Inline(text="true", filename="run.sh")).argv


def test_there_are_no_typed_functions():
    with pytest.raises(InvalidTask, match="bash has no typed functions"):
        planned(entry="f")


def test_neither_a_value_nor_another_form_of_code():
    with pytest.raises(InvalidTask, match="bash has no value of a last expression"):
        planned(want_value=True)
    with pytest.raises(InvalidTask, match="bash cannot run command code; wanted inline"):
        planned(Command(argv=("ls",)))


def test_an_input_file_cannot_have_the_programs_name():
    with pytest.raises(InvalidTask, match=r"called 'main\.sh', and so is an input file"):
        planned(files={"main.sh": ""})
