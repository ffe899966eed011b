"""`saggar open`, `ps`, `exec`, `cp`, `kill` and `shell` as a person or a script meets them."""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from tests.integration.terminal import SAGGAR, terminal

PIPES: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
HOLDING = """
import sys, saggar
from saggar import platform
from saggar.config import load
platform.Platform.__init__.__defaults__ = (load(),)
with saggar.open_session("python") as session:
    session.run("x = 1")
    print(session.id, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where we stand, with a table that no other test has rows in."""
    monkeypatch.setenv("SAGGAR_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("SAGGAR_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def run(*words, stdin=b"", **options):
    argv = [*SAGGAR, *map(str, words)]
    return subprocess.run(
        argv, input=stdin, capture_output=True, check=False, timeout=50, **options
    )


def popen(argv) -> Any:
    return subprocess.Popen(argv, **PIPES)


@contextmanager
def started(argv):
    """A process that has said a line, and is ended if the test did not."""
    with popen(argv) as process:
        try:
            assert select.select([process.stdout], [], [], 40)[0]
            said = process.stdout.readline().decode()
            assert said, process.stderr.read()
            yield process, said.strip()
        finally:
            process.kill()


def opened(*words):
    """`saggar open`, and the id that it says."""
    return started([*SAGGAR, "open", *words])


@pytest.fixture
def sandbox(folder):
    with opened() as (_, name):
        yield name


def listed():
    return json.loads(run("ps", "--json").stdout)


def test_what_is_open_is_listed_with_what_it_uses(sandbox):
    (found,) = listed()["live"]
    table = run("ps").stdout.decode().splitlines()

    assert (sandbox, "sandbox", "jail") == (found["id"], found["kind"], found["driver"])
    assert found["memory"] > 0
    assert found["processes"] >= 1
    assert table[0].startswith("ID ")
    assert table[1].startswith(f"{sandbox[:12]}  sandbox  open")


def test_a_session_of_another_process_is_listed_as_one(folder):
    with started([sys.executable, "-c", HOLDING]) as (process, name):
        (found,) = listed()["live"]
        table = run("ps").stdout.decode()

    assert (name, "session", "python", "shell") == tuple(
        found[key] for key in ("id", "kind", "language", "engine")
    )
    assert (1, False, process.pid) == (
        found["execution_count"],
        found["busy"],
        found["pid"],
    )
    assert "session python shell  idle" in table


def test_a_watch_looks_again(sandbox):
    with started([*SAGGAR, "ps", "--watch", "0.1s", "--json"]) as (process, first):
        second = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        code = process.wait(10)

    assert [sandbox] * 2 == [json.loads(line)["live"][0]["id"] for line in (first, second)]
    assert 130 == code


def test_a_program_has_our_streams_and_its_exit_code_is_ours(sandbox):
    ended = run("exec", sandbox[:6], "--", "sh", "-c", "cat; echo err >&2; exit 5", stdin=b"in\n")

    assert (5, b"in\n", b"err\n") == (ended.returncode, ended.stdout, ended.stderr)


def test_what_it_does_stays(sandbox):
    run("exec", sandbox, "--", "sh", "-c", "echo kept > file")
    ended = run("exec", sandbox, "--env", "A=b", "--cwd", "/tmp", "--", "sh", "-c", "pwd; echo $A")

    assert b"kept\n" == run("exec", sandbox, "--", "cat", "file").stdout
    assert b"/tmp\nb\n" == ended.stdout


def test_megabytes_go_through_both_ways(sandbox):
    content = os.urandom(5_000_000)

    assert content == run("exec", sandbox, "--", "cat", stdin=content).stdout


def test_input_that_nobody_reads_is_no_failure(sandbox):
    ended = run("exec", sandbox, "--", "true", stdin=b"x" * 5_000_000)

    assert (0, b"") == (ended.returncode, ended.stderr)


def test_a_program_that_a_signal_ends(sandbox):
    ended = run("exec", sandbox, "--", "sh", "-c", "kill -SEGV $$")

    assert 128 + signal.SIGSEGV == ended.returncode


def test_our_signals_are_passed_on(sandbox):
    script = "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    with started([*SAGGAR, "exec", sandbox, "--", "sh", "-c", script]) as (process, said):
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)

    assert ("ready", b"told\n", 9) == (said, out, process.returncode)


def test_a_program_ends_with_its_caller(sandbox):
    argv = [*SAGGAR, "exec", sandbox, "--", "sh", "-c", "echo; exec sleep 77"]
    with started(argv) as (process, _):
        process.kill()
    looking = "while grep -qs 77 /proc/[0-9]*/cmdline; do sleep 0.05; done"
    ended = run("exec", sandbox, "--", "sh", "-c", looking.replace("77", "7''7"))

    assert 0 == ended.returncode


def test_a_program_on_a_terminal_has_one(sandbox):
    with terminal("exec", sandbox, "--", "sh", rows=31, columns=77) as screen:
        screen.type("test -t 0 -a -t 1 && echo termi''nal; stty size\n")
        screen.until("terminal")
        screen.until("31 77")
        screen.resize(40, 120)
        screen.type("while [ \"$(stty size)\" != '40 120' ]; do :; done; echo grown''up\n")
        screen.until("grownup")
        screen.type("echo slee''ping; sleep 60\n")
        screen.until("sleeping")
        screen.type("\x03")
        screen.until("$ ")
        screen.type("echo inter''rupted $?\n")
        screen.until("interrupted 130")
        screen.type("exit 3\n")

        assert 3 == screen.end()


def test_both_forms_are_said_where_one_is_mistaken_for_the_other(sandbox, folder):
    (folder / "stats.py").write_text("def f(v): return v")
    wrong = [
        run("exec", sandbox[:6], "ls"),
        run("exec", "stats.py", "--", "ls"),
        run("exec", "nobody", "--", "ls"),
        run("exec", sandbox[:6], "--"),
    ]
    right = run("exec", "stats.py", "--entry", "f", stdin=b"7")

    for ended in wrong:
        assert 2 == ended.returncode
        assert b"saggar exec FILE --entry NAME" in ended.stderr
        assert b"saggar exec ID -- PROGRAM" in ended.stderr
    assert b"7\n" == right.stdout


def test_a_file_named_like_an_id_is_still_a_file(sandbox, folder):
    name = sandbox[:4]
    (folder / name).write_text("def f(v): return v")

    assert b"7\n" == run("exec", name, "--entry", "f", stdin=b"7").stdout
    assert b"on\n" == run("exec", name, "--", "echo", "on").stdout


def test_it_is_killed_from_another_process(folder):
    with ExitStack() as stack:
        process, name = stack.enter_context(opened())
        argv = [*SAGGAR, "exec", name, "--", "sh", "-c", "echo; sleep 60"]
        inside, _ = stack.enter_context(started(argv))
        ended = run("kill", name[:5], "--json")
        codes = process.wait(20), inside.wait(20)

    assert {"killed": [name]} == json.loads(ended.stdout)
    assert 137 == codes[0]
    assert codes[1] in {70, 137}
    assert [] == listed()["live"]


def test_nothing_is_killed_where_one_of_the_ids_is_unknown(sandbox):
    ended = run("kill", sandbox, "nobody")

    assert 2 == ended.returncode
    assert b"'nobody'" in ended.stderr
    assert [sandbox] == [row["id"] for row in listed()["live"]]


def test_its_time_to_live_ends_it(folder):
    with opened("--ttl", "300ms") as (process, _):
        assert 0 == process.wait(20)


def test_ctrl_c_ends_it(folder):
    with opened("--json") as (process, said):
        process.send_signal(signal.SIGINT)

        assert 130 == process.wait(20)
        assert "jail" == json.loads(said)["isolation"]
    assert [] == listed()["live"]


def test_what_was_lost_is_said_once_when_its_process_was_killed(folder):
    with opened() as (process, name):
        process.kill()
        process.wait(20)
    first, second = run("ps"), run("ps")

    assert 1 == len(first.stdout.splitlines())
    assert f"lost with a process that was killed: sandbox {name[:12]}" in first.stderr.decode()
    assert b"" == second.stderr
    assert [] == list((folder.parent / "run" / "live").iterdir())


def test_garbage_is_told_of_as_well(folder):
    with opened() as (process, _):
        process.kill()
        process.wait(20)

    assert b"lost sandboxes: 1 removed" in run("gc").stdout


def test_a_process_that_is_stopped_does_not_stop_us(sandbox):
    pid = listed()["live"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        table = run("ps").stdout.decode()
    finally:
        os.kill(pid, signal.SIGCONT)

    assert "sandbox  silent" in table


def tree(folder):
    """Every file below it, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_tree_goes_in_and_comes_out(sandbox, folder):
    source = folder / "src"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "large").write_bytes(os.urandom(3_000_000))
    (source / "tool").write_text("#!/bin/sh\necho ran\n")
    (source / "tool").chmod(0o755)
    (source / "empty").mkdir()
    (source / "link").symlink_to("/etc/passwd")
    into = run("cp", source, f"{sandbox[:8]}:.")
    ran = run("exec", sandbox, "--", "src/tool")
    out = run("cp", f"{sandbox[:8]}:src", folder / "back")

    assert (0, 0, b"ran\n") == (into.returncode, out.returncode, ran.stdout)
    assert b"src/link: it is no regular file" in into.stderr
    expected = tree(source)
    del expected["link"]
    assert expected == tree(folder / "back")
    assert (folder / "back" / "empty").is_dir()


def test_a_folder_that_is_there_gets_it_under_its_name(sandbox, folder):
    (folder / "file").write_text("1")
    (folder / "there").mkdir()
    run("exec", sandbox, "--", "mkdir", "d")
    run("cp", "file", f"{sandbox}:d")
    run("cp", f"{sandbox}:d", "there")
    run("cp", f"{sandbox}:d/file", "there")
    run("cp", f"{sandbox}:d/.", "flat")

    assert {"d/file": b"1", "file": b"1"} == tree(folder / "there")
    assert {"file": b"1"} == tree(folder / "flat")


def test_a_file_goes_through_pipes(sandbox):
    into = run("cp", "-", f"{sandbox}:f", stdin=b"\0bytes")
    out = run("cp", f"{sandbox}:f", "-")

    assert (0, b"\0bytes") == (into.returncode, out.stdout)


def test_links_that_a_guest_planted_lead_nowhere(sandbox, folder):
    """Neither those in his tree, nor one that the tree of before has in the place of a folder."""
    secret = folder / "secret"
    secret.mkdir()
    script = (
        "mkdir -p d/sub; echo x > d/sub/file; echo y > d/plain;"
        f"ln -s /etc/passwd d/passwd; ln -s / d/root; ln -s {secret} d/out; mkfifo d/fifo"
    )
    run("exec", sandbox, "--", "sh", "-c", script)
    first = run("cp", f"{sandbox}:d", "got")
    found = tree(folder / "got")
    (folder / "got" / "plain").unlink()
    (folder / "got" / "plain").symlink_to(secret / "plain")
    again = run("cp", f"{sandbox}:d/.", "got")
    (folder / "got" / "sub" / "file").unlink()
    (folder / "got" / "sub").rmdir()
    (folder / "got" / "sub").symlink_to(secret)
    refused = run("cp", f"{sandbox}:d/.", "got")

    assert {"sub/file": b"x\n", "plain": b"y\n"} == found
    assert (0, 0, 2) == (first.returncode, again.returncode, refused.returncode)
    assert b"'sub'" in refused.stderr
    assert [] == list(secret.iterdir())
    assert not (folder / "got" / "plain").is_symlink()


def test_links_inside_lead_no_further_than_the_walls(sandbox, folder):
    (folder / "mine").write_text("mine")
    run("exec", sandbox, "--", "ln", "-s", str(folder), "out")
    into = run("cp", "mine", f"{sandbox}:out/stolen")
    out = run("cp", f"{sandbox}:out/mine", "copy")

    assert (2, 2) == (into.returncode, out.returncode)
    assert ["mine"] == sorted(path.name for path in folder.iterdir())


def test_hidden_names_come_only_when_they_are_asked_for(sandbox, folder):
    script = "mkdir -p d/.git/hooks; echo x > d/.git/hooks/post-checkout; echo y > d/seen"
    run("exec", sandbox, "--", "sh", "-c", script)
    plain = run("cp", f"{sandbox}:d", "plain")
    run("cp", "--hidden", f"{sandbox}:d", "all")

    assert {"seen": b"y\n"} == tree(folder / "plain")
    assert (
        b"saggar: not copied: .git: its name is hidden; --hidden brings it, too\n" == plain.stderr
    )
    assert {"seen", ".git/hooks/post-checkout"} == tree(folder / "all").keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a", "b"), b"one of the two is ID:PATH"),
        (("{0}:a", "{0}:b"), b"one of the two is ID:PATH"),
        (("no-such-file", "{0}:"), b"cannot read 'no-such-file': no such file"),
        (("{0}:no-such-file", "x"), b"'no-such-file'"),
        (("abcdef0123:x", "x"), b"no live sandbox or session has an id"),
        (("/dev/null", "{0}:"), b"neither a file nor a folder"),
        (("{0}:/etc/hostname", "no/such/folder"), b"cannot write 'no/such/folder'"),
    ],
)
def test_what_cannot_be_copied_is_said(sandbox, words, said):
    run("exec", sandbox, "--", "sh", "-c", "echo > f")
    ended = run("cp", *(word.format(sandbox).replace("/etc/hostname", "f") for word in words))

    assert 2 == ended.returncode
    assert said in ended.stderr


def test_cells_on_stdin_run_in_order(folder):
    script = b"x = 5\nprint('x is', x)\n# %% the second\nx * 2\n"
    ended = run("shell", stdin=script)

    assert (0, b"x is 5\n10\n", b"") == (ended.returncode, ended.stdout, ended.stderr)


def test_the_first_cell_that_fails_ends_the_script(folder):
    ended = run("shell", stdin=b"1 / 0\n# %%\nprint('never')")

    assert (1, b"") == (ended.returncode, ended.stdout)
    assert b"\nZeroDivisionError: division by zero\n" in ended.stderr
    assert b"\x1b" not in ended.stderr


def test_a_cell_that_takes_too_long_says_which_option_that_is(folder):
    ended = run("shell", "--wall", "300ms", stdin=b"while True: pass")

    assert 124 == ended.returncode
    assert b"timeout: its limit of wall is 300 ms (--wall)" in ended.stderr


def test_an_interpreter_that_is_lost_is_said_to_be(folder):
    ended = run("shell", stdin=b"import os; os._exit(3)")

    assert 3 == ended.returncode
    assert b"session reset: the interpreter ended itself with exit code 3" in ended.stderr


def test_results_as_json_are_a_line_each(folder):
    ended = run("shell", "--json", stdin=b"print(1)\n# %%\n6 * 7")
    first, second = map(json.loads, ended.stdout.splitlines())

    assert ("1\n", 42, 2) == (first["stdout"], second["value"], second["execution_count"])


def test_images_are_files_whose_paths_are_said(folder):
    drawing = (
        "class Dot:\n"
        "    def _repr_png_(self):\n"
        "        import base64\n"
        "        return base64.b64decode('iVBORw0KGgo=')\n"
        "Dot()"
    )
    ended = run("shell", "--images", "pictures", stdin=drawing.encode())

    assert b"pictures/1.png\n" == ended.stdout
    assert b"\x89PNG\r\n\x1a\n" == (folder / "pictures" / "1.png").read_bytes()


def test_preloaded_files_and_inputs_are_there(folder):
    (folder / "code").mkdir()
    (folder / "code" / "mine.py").write_text("def double(n): return 2 * n")
    (folder / "data.txt").write_text("21")
    script = b"double(int(open('data.txt').read()))"
    ended = run("shell", "--preload", "code", "--input", "data.txt", stdin=script)

    assert b"42\n" == ended.stdout


def test_ctrl_c_ends_a_script(folder):
    with popen([*SAGGAR, "shell"]) as process:
        process.stdin.write(b"print('on', flush=True)\nimport time; time.sleep(60)")
        process.stdin.close()
        process.stdin = None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)

        assert 130 == process.wait(20)


def test_a_dialogue(folder):
    with terminal("shell") as screen:
        screen.until("In [1]:")
        screen.type("6 * 7\r")
        screen.until("Out[1]: 42")
        screen.until("In [2]:")
        screen.type("def f(x):\r")
        screen.until("...:")
        screen.type("return x + 1\r\r")
        screen.until("In [3]:")
        screen.type("f(1)\r")
        screen.until("Out[3]: 2")
        screen.until("In [4]:")
        screen.type("impo\t")
        screen.until("rt")
        screen.type(" time; print(time.__name__ * 2)\r")
        screen.until("timetime")
        screen.until("In [5]:")
        screen.type("print('now', flush=True); time.sleep(60)\r")
        screen.until("now\n")
        screen.type("\x03")
        screen.until("KeyboardInterrupt")
        screen.until("In [6]:")
        screen.type("f?\r")
        screen.until("Signature: f(x)")
        screen.until("In [7]:")
        screen.type("1 / 0\r")
        screen.until("ZeroDivisionError: division by zero")
        screen.until("In [8]:")
        screen.type("import os; os._exit(1)\r")
        screen.until("session reset")
        screen.until("In [9]:")
        screen.type("\x04")

        assert 0 == screen.end()
        assert b"\x1b[31mZeroDivisionError" in screen.raw
    assert "6 * 7" in (folder.parent / "state" / "shell_history").read_text()


STUBBORN = """\
import time, itertools
for n in itertools.count():
    try:
        print("deaf", n, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def test_the_third_ctrl_c_ends_an_interpreter_that_does_not_listen(folder):
    (folder / "stubborn.py").write_text(STUBBORN)
    with terminal("shell", "--input", "stubborn.py") as screen:
        screen.until("In [1]:")
        screen.type("x = 1\r")
        screen.until("In [2]:")
        screen.type("%run stubborn.py\r")
        for said in ("deaf 0", "deaf 1", "deaf 2"):
            screen.until(said)
            screen.type("\x03")
        screen.until("session reset")
        screen.until("In [3]:")
        screen.type("'x' in globals()\r")
        screen.until("Out[3]: False")
        screen.type("exit\r")

        assert 0 == screen.end()
    assert "once more ends its interpreter" in screen.text


def test_a_dialogue_is_seen_and_ended_from_elsewhere(folder):
    with terminal("shell") as screen:
        screen.until("In [1]:")
        (found,) = listed()["live"]
        screen.type("print('now', flush=True); import time; time.sleep(60)\r")
        screen.until("now\n")
        state = listed()["live"][0]["busy"]
        run("kill", found["id"])
        screen.until("the session was ended from elsewhere")

        assert 137 == screen.end()
    assert ("session", "python", True) == (found["kind"], found["language"], state)


def test_a_dialogue_can_draw_where_the_terminal_can(folder):
    drawing = "from IPython.display import Image; Image(b'\\x89PNG\\r\\n\\x1a\\n', format='png')\r"
    with terminal("shell", env={"TERM_PROGRAM": "iTerm.app"}) as screen:
        screen.until("In [1]:")
        screen.type(drawing)
        screen.until("1.png")
        screen.type("exit\r")

        assert 0 == screen.end()
        assert b"\x1b]1337;File=inline=1;size=8:iVBORw0KGgo=\x07" in screen.raw


def test_json_is_for_cells_and_not_for_a_dialogue(folder):
    with terminal("shell", "--json") as screen:
        screen.until("--json is for cells on stdin")

        assert 2 == screen.end()


@pytest.mark.parametrize("network", ["none", "host"])
def test_nobody_inside_finds_the_way_out(folder, network):
    """The socket is no place that the walls show, with the host's network neither."""
    with opened("--network", network) as (_, name):
        run("exec", name, "--", "true")
        (door,) = (folder.parent / "run" / "live").glob("*/control")
        seen = run("exec", name, "--", "ls", str(door))

    assert 2 == seen.returncode
    assert b"No such file" in seen.stderr


@pytest.mark.parametrize("command", ["shell", "open", "ps", "kill", "cp", "exec"])
def test_each_command_teaches_with_examples(command):
    ended = run(command, "--help")

    assert 0 == ended.returncode
    assert f"usage: saggar {command}".encode() in ended.stdout
    assert b"examples:" in ended.stdout
    assert b"xit code" in ended.stdout


HOLDING_WITHOUT_POWER = """
import subprocess, sys, saggar
from saggar.model.limits import LIMIT_NAMES
policy = saggar.Policy(isolation="process", network="host", best_effort=LIMIT_NAMES)
with saggar.open_sandbox(driver="process", policy=policy) as sandbox:
    words = [sys.executable, "-m", "saggar"]
    print(subprocess.check_output([*words, "ps", "--json"], text=True))
    print(subprocess.check_output([*words, "exec", sandbox.id[:6], "--", "echo", "on"], text=True))
    subprocess.check_call([*words, "kill", sandbox.id[:6]])
    print(sandbox.alive)
"""


def test_somebody_without_privileges_has_his_own(ordinary_user):
    ended = ordinary_user.run(ordinary_user.python, "-c", HOLDING_WITHOUT_POWER)

    assert 0 == ended.returncode, ended.stderr
    assert 1 == len(json.loads(ended.stdout.splitlines()[0])["live"])
    assert "on\n" in ended.stdout
    assert ended.stdout.endswith("False\n")
