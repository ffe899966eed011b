"""`saggar runner python`: the protocol on the streams of a process, as in the image."""

import json
import subprocess
import sys

import pytest

SAGGAR = (sys.executable, "-m", "saggar", "runner")


def run(*words, stdin=b""):
    return subprocess.run([*SAGGAR, *words], input=stdin, capture_output=True, check=False)


@pytest.fixture
def execute(tmp_path):
    """A module with that function, as the command's option."""

    def write(source):
        file = tmp_path / "execute.py"
        file.write_text(source)
        return ("--execute", str(file))

    return write


def answer(*words, stdin):
    ran = run("python", *words, stdin=json.dumps(stdin).encode())
    assert 0 == ran.returncode, ran.stderr
    return json.loads(ran.stdout)


def failure(*words, stdin):
    return answer(*words, stdin=stdin)["error"]


def test_it_answers_with_what_the_function_returns(execute):
    words = execute("def execute_function(input): return sum(input)")

    assert {"ok": True, "output": 6} == answer(*words, stdin={"input": [1, 2, 3]})


def test_prints_go_to_stderr_and_the_exit_code_is_zero(execute):
    words = execute("def execute_function(input):\n print('noise')\n raise ValueError('boom')")
    ran = run("python", *words, stdin=b'{"input": null}')

    assert (0, b"noise\n", 1) == (ran.returncode, ran.stderr, ran.stdout.count(b"\n"))
    assert "ValueError: boom" == json.loads(ran.stdout)["error"]["message"]


def test_both_schemas_are_kept(execute):
    words = execute("def execute_function(input): return 'x'")
    schemas = {"schema_in": {"type": "integer"}, "schema_out": {"type": "integer"}}

    assert "INPUT_VALIDATION" == failure(*words, stdin=schemas | {"input": "x"})["code"]
    assert "OUTPUT_VALIDATION" == failure(*words, stdin=schemas | {"input": 1})["code"]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("float('nan')", "nan has no JSON form"),
        ("{'a': [b'x']}", "at /a/0: a bytes has no JSON form"),
        ("{'a': {1: 2}}", "at /a: the key 1 is not a string"),
        ("x", "at /0: it contains itself"),
    ],
)
def test_what_has_no_json_form_is_named_by_its_place(execute, returned, said):
    words = execute(f"x = []\nx.append(x)\ndef execute_function(input): return {returned}")

    assert f"output validation failed: {said}" == failure(*words, stdin={"input": 1})["message"]


def test_the_same_value_twice_is_no_cycle(execute):
    words = execute("x = []\ndef execute_function(input): return [x, x, (1,)]")

    assert [[], [], [1]] == answer(*words, stdin={"input": 1})["output"]


def test_the_details_begin_with_the_users_frame(execute):
    words = execute("def execute_function(input):\n    return 1 / input")
    lines = failure(*words, stdin={"input": 0})["details"].splitlines()

    assert "Traceback (most recent call last):" == lines[0]
    assert "execute.py" in lines[1]


@pytest.mark.parametrize("source", ["", "execute_function = 1"])
def test_a_module_without_a_function_is_told_how_to_have_one(execute, source):
    error = failure(*execute(source), stdin={"input": 1})

    assert "NO_EXECUTE_FUNCTION" == error["code"]
    assert error["message"].startswith("No execution function provided. ")


def test_without_a_module_there_is_no_function():
    assert "NO_EXECUTE_FUNCTION" == failure(stdin={"input": 1})["code"]


def test_another_language_is_a_mistake_in_the_call():
    ran = run("cobol")

    assert 2 == ran.returncode
    assert b"no runner named 'cobol'; there are: python" in ran.stderr
