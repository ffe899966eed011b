import os
import resource
import subprocess
import sys

import pytest

from saggar.drivers.process.child import environment_variables, only_child, rlimits
from saggar.model.limits import Limits

MIB = 1 << 20


def test_the_environment_is_the_same_whatever_the_hosts_is(monkeypatch):
    monkeypatch.setenv("SECRET", "of the host")
    found = environment_variables("/opt/py/bin/python3", "/w/work", "/w/tmp")

    assert found == {
        "HOME": "/w/work",
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "PATH": "/opt/py/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TMPDIR": "/w/tmp",
    }


def test_a_folder_is_not_on_path_twice():
    path = environment_variables("/usr/bin/python3", "/w", "/t")["PATH"]

    assert path == "/usr/bin:/usr/local/bin:/bin"


def test_limits_become_those_of_each_process():
    limits = Limits(cpu=1.5, file_size="2MiB", open_files=32, memory="64MiB")
    found = {number: pair for number, *pair in rlimits(limits)}

    assert found[resource.RLIMIT_CPU] == [2, 3]
    assert found[resource.RLIMIT_FSIZE] == [2 * MIB, 2 * MIB]
    assert found[resource.RLIMIT_NOFILE] == [32, 32]
    assert found[resource.RLIMIT_CORE] == [0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux only")
def test_one_process_may_have_twice_the_memory_so_that_the_look_at_the_tree_comes_first():
    found = {number: pair for number, *pair in rlimits(Limits(memory="64MiB"))}

    assert found[resource.RLIMIT_DATA] == [128 * MIB, 128 * MIB]


def test_the_only_child_of_a_process_is_the_kernels_word():
    shell = subprocess.Popen(
        ["sh", "-c", "exec 3<&0; cat <&3 & echo $!; wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with shell:
        assert shell.stdout
        cat = int(shell.stdout.readline())
        found = only_child(shell.pid)
        os.kill(cat, 9)

    assert cat == found


def test_a_process_that_is_gone_has_no_child():
    ended = subprocess.Popen(["true"])
    ended.wait()

    assert only_child(ended.pid) is None
