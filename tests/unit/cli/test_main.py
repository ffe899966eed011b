import pytest

import saggar
from saggar.cli import main
from saggar.cli.main import explain
from saggar.errors import Overloaded, PrepareFailed, SandboxBroken


def test_without_a_command_one_sees_which_there_are(capsys):
    assert 2 == main([])
    assert "saggar COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_is_an_answer_not_an_error(word, capsys):
    assert 0 == main([word])
    assert "doctor" in capsys.readouterr().out


def test_the_version_is_said(capsys):
    assert 0 == main(["--version"])
    assert f"saggar {saggar.__version__}\n" == capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "doctor", "gc", "bench"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])

    assert 0 == ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: saggar {command}")


def test_a_misspelled_command_names_the_nearest(capsys):
    assert 2 == main(["docter"])
    assert "did you mean 'doctor'?" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_command_is_recognised(tmp_path, capsys):
    path = tmp_path / "x.py"
    path.touch()

    assert 2 == main([str(path)])
    assert f"did you mean saggar run {path}?" in capsys.readouterr().err


def test_an_option_before_the_command_is_explained(capsys):
    assert 2 == main(["--json", "doctor"])
    assert "options go after the command" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "doctor", "gc", "bench"])
def test_a_mistake_in_the_call_is_one_line(command, capsys):
    assert 2 == main([command, "--no-such-option"])
    assert 1 == capsys.readouterr().err.count("\n")


def test_our_failures_have_an_exit_code_of_their_own(capsys):
    assert 70 == explain(SandboxBroken("no walls"))
    assert "saggar: no walls\n" == capsys.readouterr().err


def test_a_group_of_one_is_what_is_in_it(capsys):
    assert 70 == explain(ExceptionGroup("", [ExceptionGroup("", [Overloaded("later")])]))
    assert "saggar: later\n" == capsys.readouterr().err


def test_the_installers_last_words_are_shown(capsys):
    log = "\n".join(f"line {number}" for number in range(100))
    explain(PrepareFailed("numpy cannot be built", log=log))
    said = capsys.readouterr().err

    assert "line 99" in said
    assert "line 79" not in said
    assert said.endswith("saggar: numpy cannot be built\n")


def test_a_mistake_of_ours_is_a_line_that_says_where(capsys):
    try:
        vars()["x"]
    except KeyError as exc:
        code = explain(exc)

    said = capsys.readouterr().err

    assert 70 == code
    assert "KeyError: 'x' (test_main.py:" in said
    assert "Traceback" not in said


def test_what_a_message_quotes_cannot_move_the_cursor(capsys):
    explain(SandboxBroken("\x1b[2Jgone"))

    assert "saggar: \\x1b[2Jgone\n" == capsys.readouterr().err
