import io
import os
import sys

import pytest

from saggar.cli.options import LIMITS, parser
from saggar.cli.request import environment, in_options, interpreter, request, secrets
from saggar.errors import InvalidTask, NotFound, PolicyDenied, UsageError
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.policy import Network, Policy, Rung


def asked(*words, arguments=(), ceiling=None):
    return request(parser().read(words), arguments, ceiling)


def test_every_limit_has_its_option():
    options = {name.removesuffix("-limit").replace("-", "_") for name in LIMITS}

    assert set(LIMIT_NAMES) == options


def test_without_options_the_policy_is_the_closed_one():
    task, policy = asked("-c", "print(1)")

    assert Policy() == policy
    assert b"" == task.stdin


def test_limits_are_read_as_people_write_them():
    words = ("--wall", "2s", "--memory", "1GiB", "--cpu-share", "0.5", "--output-limit", "2MiB")
    _, policy = asked("-c", "1", *words)

    assert Limits(wall=2, memory=1 << 30, cpu_share=0.5, output=2 << 20) == policy.limits


def test_walls_are_chosen_by_name():
    words = ("--network", "loopback", "--isolation", "landlock", "--best-effort", "cpu-share")
    _, policy = asked("-c", "1", *words)

    assert (Network.LOOPBACK, Rung.LANDLOCK) == (policy.network, policy.isolation)
    assert {"cpu_share"} == policy.best_effort


def test_the_word_host_shows_and_allows_the_host_packages():
    task, policy = asked("-c", "1", "--env", "host", "--env", "A=b=c")

    assert task.program.environment.host_packages
    assert policy.host_packages
    assert {"A": "b=c"} == task.env


def test_an_interpreter_by_path_is_asked_for_and_allowed_at_once():
    task, policy = asked("-c", "1", "--python", sys.executable)

    policy.admit(task)


def test_the_operators_ceiling_narrows_what_was_asked_for():
    ceiling = Policy(limits=Limits(memory="64MiB"))
    _, policy = asked("-c", "1", "--memory", "1GiB", ceiling=ceiling)

    assert 64 << 20 == policy.limits.memory


def test_the_operators_ceiling_refuses_what_cannot_be_narrowed():
    with pytest.raises(PolicyDenied):
        asked("-c", "1", "--network", "host", ceiling=Policy())


def test_arguments_of_the_program_arrive_as_they_are():
    task, _ = asked("-c", "1", arguments=["-x", "--", ""])

    assert ("-x", "--", "") == task.args


def test_a_file_keeps_its_name_for_tracebacks(tmp_path):
    path = tmp_path / "analyse.py"
    path.write_bytes(b"\xef\xbb\xbfprint(1)")
    task, _ = asked(str(path))

    assert ("print(1)", "analyse.py") == (task.program.code.text, task.program.code.filename)


def test_code_can_come_from_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"print(2)")))

    assert "print(2)" == asked("-")[0].program.code.text


def test_stdin_is_passed_on_byte_for_byte(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\r\n")))

    assert b"\xff\r\n" == asked("-c", "1", "--stdin")[0].stdin


def test_code_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "x.py").write_bytes(b"\n# caf\xe9")

    with pytest.raises(InvalidTask, match=r"x\.py is not UTF-8: .* at byte 6, line 2; convert it"):
        asked(str(tmp_path / "x.py"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--output", "x", "main.py"], "no program; put FILE or -c CODE first"),
        (["x.py", "-c", "1"], "both -c and 'x.py' are programs"),
        (["-", "--stdin"], "stdin cannot be the program and its input"),
        (["-c", "1", "--entry-input", "1"], "--entry-input needs --entry"),
        (["-c", "1", "--entry", "f", "--value"], "--value and --entry exclude each other"),
        (["-c", "1", "--entry", "f", "--entry-input", "{"], "--entry-input is not JSON"),
        (["-c", "1", "--entry", "f", "--entry-input", "NaN"], "NaN has no JSON form"),
        (["-c", "1", "--entry", "f", "--entry-input", "[" * 10**5], "--entry-input is not JSON"),
        (["-c", "1", "--entry", "1x"], "--entry: wanted a function's name"),
        (["-c", "1", "--env", "A"], "--env: wanted K=V or the word host, found 'A'"),
        (["-c", "1", "--env", "=1"], "--env: "),
        (["-c", "1", "--env", "A=\0"], "--env: holds a NUL byte"),
        (["-c", "1", "--wall", "abc"], "--wall: wanted a time such as '1.5s', found 'abc'"),
        (["-c", "1", "--wall", "8d"], "--wall: must be at most 7 d, found 8 d"),
        (["-c", "1", "--memory", "256"], "--memory: must be at least 1 MiB, found 256 B"),
        (["-c", "1", "--open-files", "x"], "--open-files: wanted a whole number"),
        (["-c", "1", "--output-limit", "-1"], "--output-limit: wanted a size"),
        (["-c", "1", "--network", "hots"], "--network: must be"),
        (["-c", "1", "--isolation", "tower"], "--isolation: must be"),
        (["-c", "1", "--best-effort", "x"], "--best-effort: no limit named 'x'"),
        (["-c", "1", "--package=--index-url=x"], "--package: wanted a package such as"),
        (["-c", "1", "--preload", "a b"], "--preload: wanted a module such as"),
        (["-c", "1", "--python", "no-such-python"], "no 'no-such-python' on PATH"),
        (["-c", "1", "--output", "../x"], "--output: must be a relative path"),
        (["-c", "1", "--output", "/x"], "--output: must be a relative path"),
        (["no-such-file.py"], "cannot read 'no-such-file.py': no such file"),
        (["."], "cannot read '.': is a directory; name the file in it"),
        (["-c", "1", "--language", "command"], "a command is run from Python"),
        (["-c", "1", "--network", ""], "--network: must be"),
        (["-c", "1", "--isolation", ""], "--isolation: must be"),
        (["-c", "\udcff"], "-c: holds characters that have no UTF-8 form"),
        (["-c", "1", "--input", __file__, __file__], "two files have the path"),
        (["-c", "1", "--input", "no-such-file"], "cannot read 'no-such-file': no such file"),
        (["/dev/zero"], "'/dev/zero' does not fit"),
    ],
)
def test_a_mistake_is_named_as_it_was_typed(words, complaint):
    with pytest.raises(UsageError) as caught:
        asked(*words)

    assert complaint in str(caught.value)


def test_a_nul_among_the_arguments_is_refused():
    with pytest.raises(InvalidTask, match="the program's arguments: holds a NUL byte"):
        asked("-c", "1", arguments=["a\0b"])


def test_an_interpreter_on_the_path_is_found(tmp_path, monkeypatch):
    python = tmp_path / "python-of-mine"
    python.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert str(python) == interpreter("python-of-mine")


def test_a_version_stays_a_version():
    assert "3.12" == environment(parser().read(["-c", "1", "--python", "3.12"])).python


def test_a_relative_interpreter_becomes_absolute():
    assert os.path.join(os.getcwd(), "bin/python") == interpreter("./bin/python")


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("x.py", "python"),
        ("x", "python"),
        ("x.js", "node"),
        ("x.mts", "node"),
        ("x.go", "go"),
        ("x.sh", "bash"),
    ],
)
def test_a_files_ending_tells_its_language(tmp_path, name, language):
    (tmp_path / name).write_text("")

    assert language == asked(str(tmp_path / name))[0].program.language
    assert "go" == asked(str(tmp_path / name), "--language", "go")[0].program.language


def test_a_language_of_no_name_is_not_taken_for_python():
    assert "" == asked("-c", "1", "--language", "")[0].program.language


def test_a_proposed_policy_is_said_in_options():
    policy = "Policy(isolation='process', network='host', best_effort={'cpu_share', 'disk'})"
    words = "--isolation process --network host --best-effort cpu-share --best-effort disk"

    assert f"may run with {words}" == in_options(f"may run with {policy}")


def test_a_policy_that_no_option_asks_for_stays_as_it_is():
    assert "Policy(mounts=('/x',))" == in_options("Policy(mounts=('/x',))")


def test_secrets_are_named_and_their_values_are_those_of_our_environment(monkeypatch):
    monkeypatch.setenv("DB_URL", "of-this-shell")
    monkeypatch.setenv("SAGGAR_SECRET_TOKEN", "of-the-operator")
    task, _ = asked("-c", "1", "--secret", "DB_URL", "--secret", "TOKEN")
    found = secrets(task.secrets)

    assert ("DB_URL", "TOKEN") == task.secrets
    assert {"DB_URL": "of-this-shell", "TOKEN": "of-the-operator"} == found.reveal()
    with pytest.raises(NotFound, match="neither OTHER nor SAGGAR_SECRET_OTHER is set here"):
        secrets(("OTHER",))


def test_a_value_in_the_command_line_is_refused_and_not_repeated():
    with pytest.raises(UsageError, match="--secret: wanted a name such as 'DB_URL'") as found:
        asked("-c", "1", "--secret", "DB_URL=hush")
    assert "hush" not in str(found.value)
    with pytest.raises(InvalidTask, match="--secret: "):
        asked("-c", "1", "--secret", "no name")


def test_gpus_are_asked_for_and_allowed_at_once():
    _, policy = asked("-c", "1", "--gpu", "2")

    assert 2 == policy.gpu
    with pytest.raises(UsageError, match="--gpu: must be"):
        asked("-c", "1", "--gpu", "many")
    with pytest.raises(PolicyDenied, match="gpu"):
        asked("-c", "1", "--gpu", "1", ceiling=Policy())
