"""
Code of a mounted folder, called through the manager: is all of `tests/test_code` there?

As a program, against a manager that runs: `python tests/test_code_folder.py [URL]`, by default
http://localhost:5000, started with `tests/test_code` as the folder of its instances. As a test,
against one that is started here.
"""

import json
import math
import os
import sys
import urllib.request

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_code")
CALLS = {
    "calculate_circle_area(5)": math.pi * 25,
    "greet('World')": "Hello, World!",
    "factorial(5)": 120,
    "factorial(20)": 2432902008176640000,
    "add_numbers(2, 3)": 5,
    "add_numbers('a', 'b')": "ab",
}
"""What is called, and what must come of it."""
KEPT = "kept = add_numbers(40, 2)"


def execute(manager, code, session=0):
    """What an execution printed. Raises with the error that it ended in."""
    request = urllib.request.Request(
        f"{manager}/session/{session}/execute",
        json.dumps({"code": code}).encode(),
        {"Content-Type": "application/json", "X-API-Key": os.environ.get("SAGGAR_KEY", "")},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        outputs = json.load(answer)["outputs"]
    for output in outputs:
        if output["type"] == "error":
            raise RuntimeError(f"{code}: {output['name']}: {output['value']}")
    return "".join(output["text"] for output in outputs if output["type"] == "stream")


def called(manager, call):
    """The value of a call, by way of JSON."""
    return json.loads(execute(manager, f"import json\nprint(json.dumps({call}))"))


def main(manager):
    """Call everything; the exit code."""
    wrong = 0
    for call, expected in CALLS.items():
        found = called(manager, call)
        wrong += found != expected
        sys.stdout.write(f"{'ok   ' if found == expected else 'WRONG'} {call} = {found!r}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:5000"))

# A program ends here, which needs nothing but Python.
import pytest  # noqa: E402


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    """The URL of a manager with two sessions, both with the folder loaded."""
    from tests.unit.server.serving import server

    folder = tmp_path_factory.mktemp("manager")
    words = ("manager", "--port", "0", "--local", "2", "--types", "python:2", "--code", FOLDER)
    state = ("--state", str(folder / "manager.sqlite"))
    with server(*words, *state, command=("-m", "saggar")) as running:
        yield running.url


@pytest.mark.parametrize(("call", "expected"), CALLS.items())
def test_a_function_of_the_folder_can_be_called(manager, call, expected):
    assert expected == called(manager, call)


def test_what_one_execution_names_the_next_one_finds(manager):
    execute(manager, KEPT)

    assert 42 == called(manager, "kept")


def test_another_session_has_the_folder_and_nothing_of_the_first_one(manager):
    execute(manager, KEPT)

    assert "5\n" == execute(manager, "print(add_numbers(2, 3))", session=1)
    with pytest.raises(RuntimeError, match="NameError"):
        execute(manager, "kept", session=1)
