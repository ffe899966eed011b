"""
The command line as a person or a script meets it: real processes, real walls.
"""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

SAGGAR = (sys.executable, "-m", "saggar")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, stdin=b"", **options):
    return subprocess.run(
        [*SAGGAR, "run", *words], input=stdin, capture_output=True, check=False, **options
    )


def python(code, *words, **options):
    return run("-c", code, *words, **options)


@contextmanager
def running(*words, **options):
    """A run that has said its first line, and is ended if the test did not."""
    argv = [*SAGGAR, "run", *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, **pipes | options) as process:
        try:
            yield process
        finally:
            process.kill()


def processes_with(mark):
    """Processes of this machine, inside sandboxes too, whose command line holds `mark`."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                found += [int(name)] if mark in file.read() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def gone(mark):
    """Whether they all end while we watch."""
    for pid in processes_with(mark):
        with suppress(ProcessLookupError), open(os.pidfd_open(pid), "rb") as process:
            select.select([process], [], [], 5)
    return not processes_with(mark)


def test_output_and_exit_code_are_the_programs_own():
    ended = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)", "-q")

    assert (7, b"out\n", b"err\n") == (ended.returncode, ended.stdout, ended.stderr)


def test_the_verdict_is_one_line_on_stderr():
    ended = python("print(1)")

    assert b"1\n" == ended.stdout
    assert ended.stderr.startswith(b"saggar: ok \xc2\xb7 ")
    assert 1 == ended.stderr.count(b"\n")
    assert b"peak" in ended.stderr


def test_output_is_passed_on_byte_for_byte():
    code = "import os; os.write(1, bytes(range(256)) * 999); os.write(2, b'\\xff\\0')"
    ended = python(code, "-q")

    assert (bytes(range(256)) * 999, b"\xff\0") == (ended.stdout, ended.stderr)


def test_output_comes_as_it_is_written():
    code = "print('now', flush=True); import time; time.sleep(60)"
    with running("-c", code, "--wall", "60s") as process:
        assert b"now\n" == process.stdout.readline()


# So slowly that whoever only looks now and then sees it, too: an ordinary user has no cgroup.
GROWING = "import time; x = []\nwhile True: x.append(b'x' * (1 << 20)); time.sleep(0.005)"


@pytest.mark.parametrize(
    ("code", "words", "exit_code", "verdict"),
    [
        ("while True: pass", ["--wall", "300ms"], 124, "timeout · limit wall (300 ms)"),
        (GROWING, ["--memory", "64MiB"], 137, "memory · limit memory (64 MiB)"),
        ("while True: print('x' * 99)", ["--output-limit", "9KiB"], 137, "output · limit output"),
        ("import os; os.kill(os.getpid(), 11)", [], 137, "killed · SIGSEGV"),
        ("raise ValueError('no')", [], 1, "error · exit code 1"),
    ],
)
def test_what_ended_it_is_told(code, words, exit_code, verdict):
    ended = python(code, *words)

    assert exit_code == ended.returncode
    assert verdict in ended.stderr.decode()


def test_a_traceback_shows_the_programs_own_lines(folder):
    (folder / "broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    ended = run("broken.py", "-q")

    assert b'broken.py", line 2, in f\n    return 1 / 0\n' in ended.stderr
    assert b"saggar" not in ended.stderr


def test_arguments_after_two_dashes_are_the_programs():
    ended = python("import sys; print(sys.argv[1:])", "-q", "--", "-q", "--json", "")

    assert b"['-q', '--json', '']\n" == ended.stdout


def test_code_is_read_from_stdin():
    assert b"3\n" == run("-", "-q", stdin=b"print(3)").stdout


def test_stdin_is_empty_unless_it_is_passed_on():
    code = "import sys; print(repr(sys.stdin.buffer.read()))"

    assert b"b''\n" == python(code, "-q", stdin=b"secret").stdout
    assert b"b'\\xff\\n'\n" == python(code, "-q", "--stdin", stdin=b"\xff\n").stdout


def test_only_the_variables_that_were_passed_are_seen():
    code = "import os; print(os.environ.get('A'), os.environ.get('SECRET'))"
    ended = python(code, "-q", "--env", "A=b=c", env=os.environ | {"SECRET": "s"})

    assert b"b=c None\n" == ended.stdout


def test_files_go_in_and_come_out(folder):
    (folder / "data").mkdir()
    (folder / "data" / "a.csv").write_text("1\n2\n")
    code = """
import os
os.mkdir("out")
open("out/t", "w").write(str(sum(map(int, open("data/a.csv")))))
"""
    ended = python(code, "--input", "data", "--output", "out/*")

    assert 0 == ended.returncode
    assert "3" == (folder / "out" / "t").read_text()
    assert b"wrote out/t" in ended.stderr


def test_a_collected_file_never_leaves_the_folder(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (folder / "d").symlink_to(outside)
    ended = python("import os; os.mkdir('d'); open('d/x', 'w')", "--output", "d/x")

    assert 70 == ended.returncode
    assert b"not collected: d/x: a file or a link is in the way" in ended.stderr
    assert [] == list(outside.iterdir())


def test_links_that_the_program_made_are_not_collected(folder):
    ended = python("import os; os.symlink('/etc/passwd', 'x')", "--output", "x")

    assert b"not collected: x: is a symbolic link" in ended.stderr
    assert not (folder / "x").exists()


def test_a_hidden_file_is_not_brought_along(folder):
    ended = python("open('.profile', 'w'); open('y', 'w')", "--output", "*")

    assert 0 == ended.returncode
    assert ["y"] == os.listdir(folder)


def test_a_value_follows_the_output_as_json():
    assert b'1\n{"a": [42]}\n' == python("print(1)\n{'a': [6 * 7]}", "--value", "-q").stdout


def test_an_entry_is_called_with_its_input():
    code = "def double(x): return x * 2"
    ended = python(code, "--entry", "double", "--entry-input", '"ab"', "-q")

    assert b'"abab"\n' == ended.stdout


def test_json_is_one_document_and_nothing_else():
    code = "print('ä'); open('f', 'wb').write(b'\\xff'); 6 * 7"
    ended = python(code, "--json", "--value", "--output", "f")
    result = json.loads(ended.stdout)

    assert ("ok", 42, "ä\n") == (result["status"], result["value"], result["stdout"])
    assert ["f"] == [file["path"] for file in result["files"]]
    assert not os.path.exists("f")


def test_json_tells_of_a_failure_as_of_a_success():
    ended = python("1 / 0", "--json", "-q")

    assert 1 == ended.returncode
    assert "ZeroDivisionError" == json.loads(ended.stdout)["error"]["type"]


@pytest.mark.parametrize(
    ("words", "exit_code", "complaint"),
    [
        (["-c", "1", "--driver", "jial"], 2, "no driver named 'jial'"),
        (["-c", "1", "--language", "pyton"], 2, "no language named 'pyton'"),
        (["-c", "1", "--network", "hots"], 2, "--network: must be"),
        (["-c", "1", "--wal", "1s"], 2, "did you mean --wall?"),
        (["nothing.py"], 2, "cannot read 'nothing.py'"),
        ([], 2, "no program"),
        (["-c", "1", "--isolation", "gvisor"], 70, "gvisor"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(words, exit_code, complaint):
    ended = run(*words)

    assert exit_code == ended.returncode
    assert complaint in ended.stderr.decode()
    assert 1 == ended.stderr.count(b"\n")


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_run_and_kills_its_tree(number, exit_code):
    mark = f"mark-{os.getpid()}-{number}"
    code = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", {mark!r}])
print("up", flush=True)
time.sleep(60)
"""
    with running("-c", code, "--wall", "60s") as process:
        process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=10)

    assert exit_code == process.returncode
    assert b"saggar: cancelled\n" == said
    assert gone(mark.encode())


def test_a_run_dies_with_us():
    mark = f"mark-{os.getpid()}-kill"
    code = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", {mark!r}])
print("up", flush=True)
time.sleep(60)
"""
    with running("-c", code, "--wall", "60s") as process:
        process.stdout.readline()
        process.kill()

    assert gone(mark.encode())


def test_a_reader_that_leaves_ends_the_run_quietly():
    with running("-c", "while True: print('x' * 99)", "--output-limit", "1GiB") as process:
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        said = process.stderr.read()
        code = process.wait(timeout=10)

    assert (141, b"") == (code, said)


def test_a_reader_that_stalls_does_not_stop_the_deadline():
    code = "while True: print('x' * 99)"
    with running("-c", code, "--output-limit", "1GiB", "--wall", "500ms") as process:
        process.stdout.readline()
        # The stall itself: what comes afterwards was written before the deadline or not at all.
        select.select([process.stderr], [], [], 1.5)
        rest = len(process.stdout.read())
        process.wait(timeout=10)

    assert 124 == process.returncode
    # What waited in pipes and buffers, and not what it would have written in another second.
    assert rest < 32 << 20


def test_a_full_disk_under_our_stdout_is_our_failure():
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*SAGGAR, "run", "-c", "print(1)"], stdout=full, stderr=subprocess.PIPE, check=False
        )

    assert 70 == ended.returncode
    assert b"cannot be passed on: no space left on device" in ended.stderr


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_standard_stream_that_is_closed_takes_nothing_else_in(closed):
    words = f"exec {closed}>&-; exec {sys.executable} -m saggar run -q -c 'print(1)'"
    ended = subprocess.run(["sh", "-c", words], capture_output=True, check=False)

    assert 0 == ended.returncode
    assert (b"" if closed == 1 else b"1\n") == ended.stdout
    assert b"" == ended.stderr


def test_doctor_names_every_driver_and_limit():
    ended = subprocess.run([*SAGGAR, "doctor", "--json"], capture_output=True, check=False)
    found = json.loads(ended.stdout)

    assert ended.returncode == (0 if found["closed_policy_runs"] else 70)
    assert {"jail", "process"} <= set(found["drivers"])
    assert "wall" in found["drivers"]["jail"]["limits"]


def test_gc_says_what_it_removed():
    ended = subprocess.run([*SAGGAR, "gc", "--json"], capture_output=True, check=False)

    assert 0 == ended.returncode
    assert "layers" in json.loads(ended.stdout)


def test_bench_measures_and_names_the_machine():
    words = ("bench", "--smoke", "--only", "output", "--json")
    ended = subprocess.run([*SAGGAR, *words], capture_output=True, check=False)
    document = json.loads(ended.stdout)

    assert 0 == ended.returncode
    assert document["machine"]["cpu"]
    assert 0 < document["rows"][0]["amount"]


def test_somebody_without_privileges_gets_the_same(ordinary_user):
    code = "import os; print(os.listdir('/proc/self/fd') and 6 * 7)"
    ended = ordinary_user.run(ordinary_user.python, "-m", "saggar", "run", "-c", code)

    assert "42\n" == ended.stdout
    assert 0 == ended.returncode
    assert "saggar: ok" in ended.stderr
