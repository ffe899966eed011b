import pytest

from saggar.errors import InvalidTask
from saggar.languages.command import CommandLanguage
from saggar.model.program import Command, Inline
from saggar.model.task import Task

LS = Command(argv=("ls", "-l"))


def planned(code=LS, **options):
    return CommandLanguage().plan(Task.of(code, **options))


def test_a_command_is_its_vector_with_the_tasks_arguments_behind_it():
    assert ("ls", "-l", "$HOME", "a b") == planned(args=("$HOME", "a b")).argv


def test_the_runner_has_nothing_to_do_for_it():
    plan = planned()

    assert ({}, (), None) == (dict(plan.guest), plan.files, plan.compile)


def test_source_text_is_refused():
    with pytest.raises(InvalidTask, match="command cannot run inline code; wanted an argument"):
        planned(Inline(text="ls"))


@pytest.mark.parametrize("options", [{"want_value": True}, {"entry": "main"}])
def test_a_command_has_no_value(options):
    with pytest.raises(InvalidTask, match="an exit code and output, but no value"):
        planned(**options)


def test_arguments_alone_are_no_command():
    """They are for what an image starts by itself."""
    assert () == planned(Command(argv=()), args=["a"]).argv
