"""`saggar exec` as a person or a script meets it."""

import json
import subprocess
import sys

import pytest
from tests.conftest import ROOT

STATS = ROOT / "examples" / "executors" / "stats.py"
SCHEMA_IN = {
    "type": "object",
    "properties": {"values": {"type": "array", "items": {"type": "number"}}},
    "required": ["values"],
}
SCHEMA_OUT = {"required": ["count", "sum", "mean"]}
FIVE = b'{"values": [1, 2, 3, 4, 5]}'


def run(*words, stdin=b"", **options):
    argv = [sys.executable, "-m", "saggar", "exec", *map(str, words)]
    return subprocess.run(
        argv, input=stdin, capture_output=True, check=False, timeout=50, **options
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.json").write_text(json.dumps(SCHEMA_IN))
    (tmp_path / "out.json").write_text(json.dumps(SCHEMA_OUT))
    return tmp_path


def program(folder, text, name="program.py"):
    (folder / name).write_text(text)
    return name


def error(ended):
    """The error of an answer with --json."""
    answer = json.loads(ended.stdout)
    assert {"ok", "error"} == answer.keys()
    assert {"message", "code", "details"} == answer["error"].keys()
    assert answer["ok"] is False
    return answer["error"]


def test_the_documents_example(folder):
    words = ("--schema-in", "in.json", "--schema-out", "out.json", "--entry", "describe")
    ended = run(*words, STATS, stdin=FIVE)

    assert b'{"count": 5, "sum": 15, "mean": 3.0}\n' == ended.stdout
    assert (0, b"") == (ended.returncode, ended.stderr)


def test_an_answer_as_an_object(folder):
    ended = run(STATS, "--entry", "describe", "--json", stdin=FIVE)

    assert {"ok": True, "output": {"count": 5, "sum": 15, "mean": 3.0}} == json.loads(ended.stdout)


def test_what_it_prints_goes_to_stderr(folder):
    name = program(folder, "def f(v):\n    print('said')\n    return v")
    ended = run(name, "--entry", "f", stdin=b"null")

    assert (b"null\n", b"said\n") == (ended.stdout, ended.stderr)


def test_any_text_is_passed_on(folder):
    name = program(folder, "def f(v): return v")
    ended = run(name, "--entry", "f", stdin='"ärger \\ud83d\\ude00"'.encode())

    assert '"ärger \U0001f600"\n'.encode() == ended.stdout


def test_an_input_that_is_not_allowed(folder):
    bad = b'{"values": [1, "x"]}'
    words = (STATS, "--entry", "describe", "--schema-in", "in.json")
    ended, told = run(*words, stdin=bad), run(*words, "--json", stdin=bad)

    message = 'input validation failed: at /values/1: "x" is not of type "number"'
    assert (2, b"") == (ended.returncode, ended.stdout)
    assert f"saggar: {message}\n".encode() == ended.stderr
    assert (2, b"") == (told.returncode, told.stderr)
    assert {"message": message, "code": "INPUT_VALIDATION", "details": ""} == error(told)


@pytest.mark.parametrize(
    ("stdin", "code", "message"),
    [
        (b"", "NO_INPUT", "nothing on stdin; wanted JSON"),
        (b" \n", "NO_INPUT", "nothing on stdin; wanted JSON"),
        (b"{", "INVALID_JSON", "not JSON"),
        (b"1 2", "INVALID_JSON", "not JSON"),
        (b"NaN", "INVALID_JSON", "not JSON"),
        (b'"\xff"', "INVALID_JSON", "not JSON"),
        (b"[" * 99 + b"]" * 99, "INVALID_JSON", "deeper"),
    ],
)
def test_an_input_that_is_not_json(folder, stdin, code, message):
    ended = run(STATS, "--entry", "describe", "--json", stdin=stdin)

    assert 2 == ended.returncode
    assert code == error(ended)["code"]
    assert message in error(ended)["message"]


def test_an_input_may_be_too_large(folder):
    ended = run(STATS, "--entry", "describe", stdin=b'"' + b"x" * (17 << 20) + b'"')

    assert 2 == ended.returncode
    assert b"more than 16,777,216 bytes" in ended.stderr


def test_an_output_that_is_not_allowed(folder):
    name = program(folder, "def f(v): return {'count': 1}")
    ended = run(name, "--entry", "f", "--schema-out", "out.json", "--json", stdin=b"1")

    assert 1 == ended.returncode
    assert "OUTPUT_VALIDATION" == error(ended)["code"]
    assert error(ended)["message"].startswith("output validation failed: ")


def test_a_function_that_raises(folder):
    name = program(folder, "def f(v): raise ValueError('no good')")
    plain, told = (run(name, "--entry", "f", *words, stdin=b"1") for words in ((), ("--json",)))

    assert 1 == plain.returncode == told.returncode
    assert b"saggar: execution failed: ValueError: no good" in plain.stderr
    assert "EXECUTION" == error(told)["code"]
    assert "execution failed: ValueError: no good" == error(told)["message"]
    assert "line 1, in f" in error(told)["details"]


@pytest.mark.parametrize(
    ("code", "words", "exit_code", "named"),
    [
        ("while True: pass", ("--wall", "300ms"), 124, "TIMEOUT"),
        ("return len(bytearray(400 << 20))", ("--memory", "64MiB"), None, "OOM"),
        ("print('x' * 99999)", ("--output-limit", "9KiB"), 137, "OUTPUT_TOO_LARGE"),
        ("import os; os.kill(os.getpid(), 11)", (), 137, "CRASH"),
    ],
)
def test_a_limit_has_its_code(folder, code, words, exit_code, named):
    name = program(folder, f"def f(v):\n    {code}\n")
    ended = run(name, "--entry", "f", "--json", *words, stdin=b"1")

    if named == "OOM" and error(ended)["code"] == "EXECUTION":
        # An allocation in one piece is refused before it can be counted: the program hears of it.
        assert "MemoryError" in error(ended)["message"]
        return
    assert (exit_code or 137, named) == (ended.returncode, error(ended)["code"])


def test_a_timeout_says_how_long_it_was(folder):
    name = program(folder, "def f(v):\n    while True: pass\n")
    ended = run(name, "--entry", "f", "--wall", "300ms", stdin=b"1")

    assert ended.stderr.endswith(b"saggar: execution timed out after 0.3s\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((STATS,), b"--entry"),
        ((STATS, "--entry", "not a name"), b"--entry: wanted a function's name"),
        (("none.py", "--entry", "f"), b"none.py"),
        ((STATS, "--entry", "f", "--schema-in", "none.json"), b"schema: cannot read 'none.json'"),
        ((STATS, "--entry", "f", "--schema-out", "bad.json"), b"schema: not JSON"),
        ((STATS, "--entry", "f", "--language", "cobol"), b"no language named 'cobol'"),
        ((STATS, "--entry", "f", "--wall", "soon"), b"--wall: wanted a time"),
        ((STATS, "--entry", "f", "--schema-im", "x"), b"did you mean --schema-in?"),
    ],
)
def test_a_mistake_in_the_call(folder, words, message):
    (folder / "bad.json").write_text("{")
    ended = run(*words, stdin=b"1")

    assert (2, b"") == (ended.returncode, ended.stdout)
    assert message in ended.stderr
    assert 1 == ended.stderr.count(b"\n")


def test_an_unknown_function_is_a_failure_of_the_program(folder):
    ended = run(STATS, "--entry", "none", "--json", stdin=b"1")

    assert 1 == ended.returncode
    assert "none" in error(ended)["message"]


def test_help_shows_how(folder):
    ended = run("--help")

    assert 0 == ended.returncode
    assert b"--schema-in FILE" in ended.stdout
    assert b"saggar exec stats.py --entry describe" in ended.stdout
