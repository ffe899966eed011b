import json
import subprocess
import sys

import pytest

import saggar
from saggar.cli import main
from saggar.cli.main import explain
from saggar.errors import DriverUnavailable, Overloaded, PrepareFailed, SandboxBroken


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


def test_the_help_of_a_command_can_be_asked_for_in_two_ways(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["help", "gc"])

    assert 0 == ended.value.code
    assert capsys.readouterr().out.startswith("usage: saggar gc")


def test_a_misspelled_option_of_ours_names_the_nearest(capsys):
    assert 2 == main(["--vresion"])
    assert "did you mean saggar --version?" in capsys.readouterr().err


def test_a_refused_policy_is_proposed_as_options(capsys):
    explain(DriverUnavailable("Policy(best_effort={'cpu_share'}) would do without"))

    assert "saggar: --best-effort cpu-share would do without\n" == capsys.readouterr().err


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"], ["gc"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_an_answer_that_cannot_be_written_is_one_line(words, buffered):
    """Python flushes as it ends, and would complain in its own way."""
    argv = [sys.executable, *([] if buffered else ["-u"]), "-m", "saggar", *words]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False, text=True)

    said = "saggar: the answer cannot be written to stdout: no space left on device\n"
    assert (70, said) == (ended.returncode, ended.stderr)


@pytest.mark.parametrize("words", [["--version"], ["run", "--help"]])
def test_an_answer_that_nobody_reads_is_no_complaint(words):
    command = [sys.executable, "-m", "saggar", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read()

    assert (141, b"") == (process.returncode, said)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_terminal_without_utf8_gets_the_page_all_the_same(errors):
    """One mark is lost, and the document for programs loses none."""
    variables = {"PYTHONIOENCODING": f"ascii:{errors}"}
    pages = [
        subprocess.run(
            [sys.executable, "-m", "saggar", "doctor", *words],
            env=variables,
            capture_output=True,
            check=False,
        )
        for words in ([], ["--json"])
    ]

    assert all(page.stderr == b"" for page in pages)
    assert "drivers" in json.loads(pages[1].stdout)


def test_an_unknown_driver_in_the_settings_names_the_nearest(monkeypatch, capsys):
    monkeypatch.setenv("SAGGAR_DRIVER", "jial")

    assert 2 == main(["doctor"])
    assert "no driver named 'jial'" in capsys.readouterr().err
