"""A program inside: what `python main.py` does, and what it can do beyond that."""

import base64
import errno
import json
import re
import signal
import subprocess

import pytest
from tests.unit.guest.programs import FAITHFUL
from tests.unit.guest.running import ENVIRONMENT, LARGEST, run

from saggar.boundary import frames
from saggar.drivers.interpreter import OPTIONS, find

STDIN = b"one\ntwo\n"


def as_a_file(folder, code):
    """How an interpreter runs it from a file: what it printed, and its exit code."""
    (folder / "main.py").write_bytes(code.encode("utf-8", "surrogatepass"))
    done = subprocess.run(
        [find(None).executable, *OPTIONS, "main.py"],
        input=STDIN,
        capture_output=True,
        env=ENVIRONMENT,
        cwd=folder,
        check=False,
    )
    streams = [out.decode("utf-8", "surrogateescape") for out in (done.stdout, done.stderr)]
    return *streams, done.returncode


def left_behind(folder):
    """The files in a folder, which is empty afterwards."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "main.py"}
    for name in found:
        (folder / name).unlink()
    return found


def comparable(stdout, stderr, code):
    """Without addresses, of which no two processes have the same."""
    return stdout, re.sub(r"0x[0-9a-f]{6,}", "0x", stderr), code


@pytest.mark.parametrize("code", FAITHFUL.values(), ids=FAITHFUL)
def test_a_program_does_what_python_does_with_its_file(tmp_path, code):
    expected = comparable(*as_a_file(tmp_path, code)), left_behind(tmp_path)
    answer = run(tmp_path, code, stdin=STDIN)
    found = comparable(answer.stdout, answer.stderr, answer.exit), left_behind(tmp_path)

    assert expected == found


def test_not_even_a_daemon_keeps_what_it_has_written(tmp_path):
    """An interpreter that ends under a thread loses it."""
    code = """
import threading
def write():
    file = open("a.txt", "w")
    file.write("kept")
    ready.set()
    threading.Event().wait()
ready = threading.Event()
threading.Thread(target=write, daemon=True).start()
ready.wait()
"""
    answer = run(tmp_path, code)

    assert (0, "") == (answer.exit, answer.stderr)
    assert {"a.txt": b"kept"} == left_behind(tmp_path)


def test_what_children_and_c_write_comes_in_the_order_in_which_it_was_written(tmp_path):
    """An interpreter into a pipe holds its own lines back to the end."""
    code = """
import ctypes, os, subprocess
libc = ctypes.CDLL(None)
print("python")
subprocess.run(["echo", "child"])
libc.puts(b"c")
libc.fflush(None)
print("python again")
libc.puts(b"c, held back")
"""
    expected = ["python", "child", "c", "python again", "c, held back"]

    assert expected == run(tmp_path, code).stdout.splitlines()


def test_a_traceback_begins_with_the_programs_own_first_line(tmp_path):
    answer = run(tmp_path, "def f():\n    g()\n\nf()\n")

    assert answer.stderr == answer.error["traceback"]
    assert [f'  File "{tmp_path}/main.py", line {line}' for line in (4, 2)] == [
        line.partition(", in ")[0] for line in answer.stderr.splitlines() if "File" in line
    ]
    assert ("NameError", "name 'g' is not defined") == (
        answer.error["type"],
        answer.error["message"],
    )


def test_a_traceback_shows_lines_of_a_file_that_is_gone(tmp_path):
    answer = run(tmp_path, "import os\nos.remove(__file__)\nraise KeyError  # this line\n")

    assert "raise KeyError  # this line" in answer.stderr


def test_an_endless_recursion_is_an_error_with_a_short_traceback(tmp_path):
    answer = run(tmp_path, "def f():\n    return f()\nf()")

    assert (1, "RecursionError") == (answer.exit, answer.error["type"])
    assert "Previous line repeated 9" in answer.error["traceback"]
    assert len(answer.error["traceback"]) < 2000


def test_an_exception_that_cannot_be_printed_is_told_by_its_type(tmp_path):
    code = "class Shy(Exception):\n    def __str__(self):\n        raise KeyError('no')\nraise Shy"
    answer = run(tmp_path, code)

    assert ("Shy", "<unprintable: KeyError>") == (answer.error["type"], answer.error["message"])
    assert 1 == answer.exit


def test_a_message_without_an_end_is_cut(tmp_path):
    answer = run(tmp_path, "raise ValueError('x' * 1_000_000)")

    assert ["x" * 65536, 65536] == [answer.error["message"], len(answer.error["traceback"])]
    assert 1_000_000 < len(answer.stderr)


@pytest.mark.parametrize("spoiled", ["sys.stderr.close()", "sys.stderr = None", "os.close(2)"])
def test_an_error_is_told_although_nobody_prints_it(tmp_path, spoiled):
    answer = run(tmp_path, f"import os, sys\n{spoiled}\n1 / 0")

    assert (1, "ZeroDivisionError") == (answer.exit, answer.error["type"])


def test_a_hook_that_fails_does_not_hide_what_it_was_called_for(tmp_path):
    answer = run(tmp_path, "import sys\nsys.excepthook = lambda *_: {}['x']\n1 / 0")

    assert answer.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_an_interrupted_program_ends_as_a_shell_would_say_it(tmp_path):
    answer = run(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('on')")

    assert (130, "KeyboardInterrupt", "") == (answer.exit, answer.error["type"], answer.stdout)


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("import os; os._exit(7)", 7),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os; os.execvp('sh', ['sh', '-c', 'exit 5'])", 5),
    ],
)
def test_a_program_that_ends_past_us_says_nothing_and_its_end_says_it(tmp_path, code, ended):
    answer = run(tmp_path, code)

    assert (ended, []) == (answer.ended, answer.said)


@pytest.mark.parametrize(
    ("end", "status"), [("print(8)", 0), ("sys.exit(7)", 7), ("1 / 0", 1), ("display(1)", 0)]
)
@pytest.mark.parametrize(
    "closed", ["os.close(3)", "os.closerange(3, 99); kept = open('kept', 'w')"]
)
def test_a_program_that_closes_what_it_did_not_open_still_ends_as_it_should(
    tmp_path, end, status, closed
):
    """As daemons do. What it opens then gets our number, and none of our frames."""
    answer = run(tmp_path, f"import os, sys\n{closed}\n{end}")

    assert (status, []) == (answer.ended, answer.said)
    assert {b""} >= set(left_behind(tmp_path).values())


def test_there_is_nothing_of_ours_to_import_or_to_find(tmp_path):
    code = """
import builtins, sys
print(sorted(name for name in sys.modules if "saggar" in name))
print(sorted(name for name in globals() if not name.startswith("__")))
print([type(finder).__name__ for finder in sys.meta_path if isinstance(finder, type) is False])
try:
    import saggar
except ImportError as exc:
    print(exc)
"""
    expected = ["[]", "['builtins', 'sys']", "[]", "No module named 'saggar'"]

    assert expected == run(tmp_path, code).stdout.splitlines()


def test_what_site_would_add_is_there(tmp_path):
    answer = run(tmp_path, "print(exit, help)\nquit(3)")

    assert ("Use exit() or Ctrl-D (i.e. EOF) to exit", 3) == (
        answer.stdout.partition(" Type")[0],
        answer.exit,
    )


def test_a_layer_is_found_behind_the_library_and_the_work_folder_before_it(tmp_path):
    layer = tmp_path / "layer"
    layer.mkdir()
    for name in ("json", "mine", "theirs"):
        (layer / f"{name}.py").write_text("WHERE = 'layer'")
    (tmp_path / "mine.py").write_text("WHERE = 'work'")
    code = "import json, mine, theirs; print(mine.WHERE, theirs.WHERE, hasattr(json, 'WHERE'))"

    assert "work layer False\n" == run(tmp_path, code, site=(str(layer),)).stdout


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("6 * 7", 42),
        ("x = 6\nx * 7\n", 42),
        ("x = 6\nx", 6),
        ("x = 6", None),
        ("", None),
        ("# nothing", None),
        ("None", None),
        ("print('x')", None),
        ("'é\\ud800'", "é\ud800"),
        ("(1, [2.5, True], {'a': None})", [1, [2.5, True], {"a": None}]),
        ("{1: 2}", {"1": 2}),
        ("def f():\n    return 3\nf()", 3),
        ("for x in 1, 2:\n    x", None),
        ("x = [\n 1,\n]\n(x\n)", [1]),
    ],
)
def test_the_last_expression_is_the_value(tmp_path, code, value):
    assert value == run(tmp_path, code, want_value=True).value


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("{1}", "{1}"),
        ("b'x'", "b'x'"),
        ("float('nan')", "nan"),
        ("[1, float('inf')]", "[1, inf]"),
        ("x = []\nx.append(x)\nx", "[[...]]"),
        ("class A:\n    def __repr__(self):\n        return 'an A'\nA()", "an A"),
        ("set('x' * 100_000)\nrange(3)", "range(0, 3)"),
    ],
)
def test_a_value_that_json_cannot_say_comes_as_python_would_show_it(tmp_path, code, text):
    answer = run(tmp_path, code, want_value=True)

    assert ("text/plain", text) == (answer.all(frames.VALUE)[0][0]["media_type"], answer.value)


def test_a_value_that_is_too_large_is_an_error_that_says_so(tmp_path):
    answer = run(tmp_path, f"'x' * {LARGEST}", want_value=True)

    assert f"the value is {LARGEST + 2} bytes long, the limit is {LARGEST}" in answer.stderr
    assert ([], 1) == (answer.all(frames.VALUE), answer.exit)


def test_a_value_whose_repr_fails_is_an_error_of_its_own(tmp_path):
    code = "class A:\n    def __repr__(self):\n        return 1 / 0\nA()"

    assert "ZeroDivisionError" == run(tmp_path, code, want_value=True).error["type"]


def test_a_value_that_nests_without_end_does_not_hang(tmp_path):
    code = "x = []\nfor _ in range(100_000):\n    x = [x]\nx"
    answer = run(tmp_path, code, want_value=True)

    assert (1, "RecursionError") == (answer.exit, answer.error["type"])


def test_a_script_with_a_value_fails_like_any_other(tmp_path):
    answer = run(tmp_path, "x = 1\nx / 0", want_value=True)

    assert "line 2, in <module>\n    x / 0\n" in answer.stderr
    assert ([], 1) == (answer.all(frames.VALUE), answer.exit)


def test_code_that_does_not_parse_has_its_line_in_either_way(tmp_path):
    for want_value in (False, True):
        answer = run(tmp_path, "x = 1\nx = = 2", want_value=want_value)

        assert "line 2\n    x = = 2\n" in answer.stderr
        assert "SyntaxError" == answer.error["type"]


ENTRY = "def f(*given, times=2):\n    return [given, times]\n"


def test_an_entry_is_called_with_the_input(tmp_path):
    answer = run(tmp_path, ENTRY, entry="f", input=b'{"n": [1, null]}')

    assert [[{"n": [1, None]}], 2] == answer.value


def test_no_input_is_no_argument(tmp_path):
    assert [[], 2] == run(tmp_path, ENTRY, entry="f").value
    assert [[None], 2] == run(tmp_path, ENTRY, entry="f", input=b"null").value


def test_what_a_script_does_when_it_is_run_an_entry_does_not(tmp_path):
    code = "if __name__ == '__main__':\n    1 / 0\ndef f():\n    return __name__\n"

    assert "program" == run(tmp_path, code, entry="f").value


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x + 1",
        "class A:\n    def __await__(self):\n        return 8\n        yield\ndef f(x): return A()",
        "import asyncio\nclass F:\n    async def __call__(self, x):\n        return x + 1\nf = F()",
    ],
    ids=["a coroutine", "an awaitable", "an object"],
)
def test_an_entry_may_be_asynchronous(tmp_path, code):
    assert 8 == run(tmp_path, code, entry="f", input=b"7").value


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("def g(): pass", "NameError", "the program defines no function 'f'"),
        ("f = 3", "NameError", "the program defines no function 'f'"),
        ("def f(): pass", "TypeError", "f() takes 0 positional arguments but 1 was given"),
        ("def f(x): return {x}", "ValueError", "the answer has no JSON form: set"),
        (
            "def f(x): return [float('inf')]",
            "ValueError",
            "the answer has no JSON form: at /0: inf",
        ),
        ("def f(x): raise KeyError(x)", "KeyError", "1"),
        ("async def f(x): raise KeyError(x)", "KeyError", "1"),
        ("1 / 0\ndef f(x): pass", "ZeroDivisionError", "division by zero"),
    ],
)
def test_an_entry_that_cannot_answer_is_an_error(tmp_path, code, kind, message):
    answer = run(tmp_path, code, entry="f", input=b"1")

    assert (1, kind, []) == (answer.exit, answer.error["type"], answer.all(frames.VALUE))
    assert answer.error["message"].startswith(message)


def test_an_entry_that_exits_has_no_value(tmp_path):
    answer = run(tmp_path, "def f(): raise SystemExit(4)", entry="f")

    assert (4, []) == (answer.exit, answer.said[:-1])


def test_an_entrys_file_is_still_a_module_to_pickle_from(tmp_path):
    code = "import pickle\nclass A: pass\ndef f():\n    return pickle.loads(pickle.dumps(A)) is A"

    assert run(tmp_path, code, entry="f").value is True


def shown(answer):
    return [json.loads(blob) for _, blob in answer.all(frames.DISPLAY)]


def test_what_is_displayed_comes_in_all_its_forms(tmp_path):
    code = """
class Chart:
    def __repr__(self): return "a chart"
    def _repr_html_(self): return "<b>chart</b>"
    def _repr_png_(self): return b"\\x89PNG"
    def _repr_svg_(self): return None
    def _repr_json_(self): return {"a": 1}
display(Chart())
"""
    png = base64.b64encode(b"\x89PNG").decode()

    assert [
        {
            "text/plain": "a chart",
            "text/html": "<b>chart</b>",
            "image/png": png,
            "application/json": "{'a': 1}",
        }
    ] == shown(run(tmp_path, code))


def test_several_things_are_several_displays_in_order(tmp_path):
    code = "display(1, 'two')\ndisplay()\ndisplay({'text/plain': 'three', 'text/html': '3'})"

    assert [
        {"text/plain": "1"},
        {"text/plain": "'two'"},
        {"text/plain": "three", "text/html": "3"},
    ] == shown(run(tmp_path, code))


def test_a_class_is_not_asked_for_the_forms_of_its_objects(tmp_path):
    code = "class A:\n    def _repr_html_(self): return 'x'\ndisplay(A)"

    assert [{"text/plain"}] == [set(bundle) for bundle in shown(run(tmp_path, code))]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (f"display('x' * {LARGEST})", "ValueError"),
        ("display({'text/plain': {1}})", "TypeError"),
        ("class A:\n    def _repr_html_(self): return 1 / 0\ndisplay(A())", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_displayed_is_an_error_in_the_program(tmp_path, code, kind):
    answer = run(tmp_path, f"{code}")

    assert ([], kind) == (shown(answer), answer.error["type"])
    assert "survived\n" == run(tmp_path, f"{indented(code)}\nprint('survived')").stdout


def indented(code):
    lines = "\n".join(f"    {line}" for line in code.splitlines())
    return f"try:\n{lines}\nexcept Exception:\n    pass"


@pytest.mark.parametrize(
    ("number", "limit"),
    [(errno.ENOSPC, "disk"), (errno.EDQUOT, "disk"), (errno.EFBIG, "file_size")],
)
def test_the_limit_behind_an_error_is_named_at_the_end(tmp_path, number, limit):
    answer = run(tmp_path, f"raise OSError({number}, 'no')")

    assert {"exit": 1, "refused": limit} == answer.said[-1][1]


def test_no_other_error_names_a_limit(tmp_path):
    for code in ("raise OSError('no')", "raise OSError(2, 'no')", "raise ValueError(28)"):
        assert "" == run(tmp_path, code).said[-1][1]["refused"]


def test_ten_megabytes_of_code_run(tmp_path):
    code = "x = 0\n" + "# a comment that is long\n" * 400_000 + "x = 7\nprint(x)"

    assert "7\n" == run(tmp_path, code).stdout


def test_text_that_has_no_utf_8_form_in_code_is_an_error_in_the_program(tmp_path):
    answer = run(tmp_path, "x = '\udcff'")

    assert (1, "UnicodeEncodeError") == (answer.exit, answer.error["type"])
