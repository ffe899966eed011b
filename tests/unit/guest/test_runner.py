"""The runner around a program: what it arranges first, what it becomes, and how it answers."""

import json
import os
import resource
import signal
import socket
import stat

import pytest
from tests.unit.child import in_child
from tests.unit.guest.running import Runner, run

from saggar.boundary import frames
from saggar.guest.runner import Ends


def test_files_are_there_before_the_program_with_their_content_and_mode(tmp_path):
    files = (
        ("data.bin", bytes(range(256)), 0o644),
        ("a/deep/folder/run.sh", b"#!/bin/sh\nexit 3\n", 0o750),
        ("a/secret", b"", 0o400),
    )
    answer = run(tmp_path, "import os; print(os.system('a/deep/folder/run.sh') >> 8)", files=files)

    assert "3\n" == answer.stdout
    for path, content, mode in files:
        assert content == (tmp_path / path).read_bytes()
        assert mode == stat.S_IMODE((tmp_path / path).stat().st_mode)
    assert 0o755 == stat.S_IMODE((tmp_path / "a/deep").stat().st_mode)


def test_the_program_is_a_file_too(tmp_path):
    code = "print(open(__file__).read())  # é"
    answer = run(tmp_path, code, filename="odd name.py")

    assert f"{code}\n" == answer.stdout
    assert 0o644 == stat.S_IMODE((tmp_path / "odd name.py").stat().st_mode)


def test_a_file_that_cannot_be_placed_ends_the_run_before_it_begins(tmp_path):
    (tmp_path / "taken").write_text("")
    answer = run(tmp_path, "print('ran')", files=(("taken/file", b"", 0o644),))

    assert ("", 1) == (answer.stdout, answer.exit)
    assert answer.error["message"].startswith("cannot place taken/file: [Errno 17]")


def test_a_folder_to_work_in_that_is_not_there_is_named():
    answer = run("/no/such/folder", "print('ran')")

    assert ("", 1) == (answer.stdout, answer.exit)
    assert answer.error["message"].startswith("cannot work in /no/such/folder: [Errno 2]")


def test_a_file_that_does_not_fit_names_the_limit(tmp_path):
    size = ((resource.RLIMIT_FSIZE, 1000, 1000),)
    answer = run(
        tmp_path,
        "open('x', 'wb', 0).write(bytes(2000)); open('x', 'ab', 0).write(b'x')",
        rlimits=size,
    )

    assert {"exit": 1, "refused": "file_size"} == answer.said[-1][1]


def test_limits_hold_for_the_program_and_its_children(tmp_path):
    code = """
import resource, subprocess
print(resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
subprocess.run("ulimit -n; ulimit -c", shell=True)
"""
    limits = ((resource.RLIMIT_NOFILE, 50, 60), (resource.RLIMIT_CORE, 0, 0))

    assert "(50, 60)\n50\n0\n" == run(tmp_path, code, rlimits=limits).stdout


def test_where_less_was_given_than_a_limit_asks_for_less_it_is(tmp_path):
    """As for root in a container, who may not raise what somebody lowered before him."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    over = ((resource.RLIMIT_NOFILE, most + 1, most + 1),)
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    found = [int(word) for word in run(tmp_path, code, rlimits=over).stdout.split()]

    assert set(found) <= {most, most + 1}


def test_the_environment_is_exactly_the_orders(tmp_path):
    code = "import json, os; print(json.dumps(dict(os.environ)))\nos.system('echo $A$HOME')"
    answer = run(tmp_path, code, env={"A": "b=c d", "LANG": "C", "E": ""})
    line, by_shell = answer.stdout.splitlines()

    assert {"A": "b=c d", "LANG": "C", "E": ""} == json.loads(line)
    assert by_shell == "b=c d"


def test_arguments_arrive_as_they_are(tmp_path):
    args = ("", " a  b ", "--help", "a\nb", "é\udcff")
    answer = run(tmp_path, "import sys; print(ascii(sys.argv[1:]))", args=args)

    assert f"{list(args)!a}\n" == answer.stdout


def test_the_input_is_read_to_its_end(tmp_path):
    code = "import sys; print(len(sys.stdin.buffer.read()))"

    assert "300000\n" == run(tmp_path, code, stdin=bytes(300_000)).stdout


def test_no_descriptor_but_the_three_streams_reaches_a_program_it_starts(tmp_path):
    test = "for n in 0 1 2 3 5 6 7 8; do [ -e /proc/$$/fd/$n ] && echo $n; done"  # 4: the bundle

    assert "0\n1\n2\n" == run(tmp_path, f"import os; os.system({test!r})").stdout


def test_a_program_that_executes_another_leaves_it_no_channel(tmp_path):
    code = "import os; os.execvp('sh', ['sh', '-c', '[ -e /proc/$$/fd/3 ] || echo closed'])"
    answer = run(tmp_path, code)

    assert ("closed\n", 0, []) == (answer.stdout, answer.ended, answer.said)


def test_a_command_is_becoming_it(tmp_path):
    answer = run(tmp_path, "", argv=("sh", "-c", "echo $0 $$; exit 7", "name"))

    assert (7, []) == (answer.ended, answer.said)
    assert answer.stdout.startswith("name ")


def test_a_command_can_be_interrupted_and_its_pipes_can_break(tmp_path):
    """An interpreter ignores what these say; who inherits that is surprised."""
    code = "grep -E 'SigIgn|SigBlk' /proc/self/status"
    lines = run(tmp_path, "", argv=("sh", "-c", code)).stdout.splitlines()
    blocked, ignored = (int(line.split()[1], 16) for line in lines)

    assert 0 == blocked
    assert not ignored & (1 << signal.SIGINT - 1 | 1 << signal.SIGPIPE - 1)


def test_a_command_finds_its_files_and_no_code(tmp_path):
    answer = run(tmp_path, "ignored", argv=("ls",), files=(("data", b"", 0o644),))

    assert "data\n" == answer.stdout


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("no-such-program", 127, "FileNotFoundError"),
        ("./data", 126, "PermissionError"),
        ("./folder/data", 126, "NotADirectoryError"),
    ],
)
def test_a_command_that_cannot_be_executed_ends_as_a_shell_would_say_it(
    tmp_path, name, status, kind
):
    files = (("data", b"", 0o644), ("folder", b"", 0o644))
    answer = run(tmp_path, "", argv=(name,), files=files)

    assert (status, kind) == (answer.exit, answer.error["type"])
    assert answer.error["message"].startswith(f"{name}: ")


def test_without_an_order_there_is_nothing_to_answer(tmp_path):
    """Discarded: the host closed the channel, or is gone."""
    with Runner(tmp_path) as runner:
        runner.channel.shutdown(socket.SHUT_WR)

        assert frames.pack(frames.STANDING, b"{}") == runner.channel.recv(100)
        assert b"" == runner.channel.recv(1)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(runner.pid, 0)[1])
        runner.pid = 0


def test_an_order_that_comes_in_crumbs_is_followed(tmp_path):
    with Runner(tmp_path) as runner:
        runner.send("print('whole')", sendall=crumbs(runner.channel))

        assert "whole\n" == runner.answer().stdout


def crumbs(channel):
    """A way to send one byte at a time."""

    def sendall(data):
        for byte in data:
            channel.send(bytes([byte]))

    return sendall


def test_after_its_answer_a_runner_waits_to_be_killed(tmp_path):
    """So that what it used can still be read from outside."""
    with Runner(tmp_path) as runner:
        runner.send("pass")
        answer = runner.answer()
        runner.channel.setblocking(False)

        assert (0, None) == (answer.exit, answer.ended)
        with pytest.raises(BlockingIOError):
            runner.channel.recv(1)
        assert (0, 0) == os.waitpid(runner.pid, os.WNOHANG)


def test_ready_comes_before_anything_of_the_order_is_done(tmp_path):
    """Until then the host may give the order to somebody else."""
    answer = run(tmp_path, "pass", files=((".", b"", 0o644),))  # READY first: `run` sees to it

    assert [frames.ERROR, frames.DONE] == [kind for kind, _, _ in answer.said]
    assert "IsADirectoryError" == answer.error["type"]


def test_ends_keep_zero_to_three_and_nothing_else(tmp_path):
    def keep():
        for _ in range(20):
            os.open("/dev/null", os.O_RDONLY)
        ends = Ends()
        hosts = [os.readlink(f"/proc/self/fd/{fd}") for fd in ends.for_host()]
        ends.keep_only_own()
        own = {number: os.readlink(f"/proc/self/fd/{number}") for number in range(4)}
        inherited = [os.get_inheritable(number) for number in range(4)]
        number = os.open(tmp_path / "seen", os.O_CREAT | os.O_WRONLY)
        os.write(number, json.dumps([hosts, own, inherited, number]).encode())

    with pytest.raises(ChildProcessError):  # it closes what it would report through
        in_child(keep)
    hosts, own, inherited, next_number = json.loads((tmp_path / "seen").read_text())

    assert hosts[1:] == [own["0"], own["1"], own["2"]]
    assert own["3"].startswith("socket:")
    assert [True, True, True, False] == inherited
    assert 4 == next_number


def test_a_frame_larger_than_the_sockets_buffer_arrives_whole(tmp_path):
    with Runner(tmp_path) as runner:
        runner.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        runner.send("'x' * 900_000", want_value=True, largest=1 << 20)
        answer = runner.answer()

    assert 900_000 == len(answer.value)
    assert frames.DONE == answer.said[-1][0]
