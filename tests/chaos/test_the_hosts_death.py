"""Nothing outlives the host process, however and whenever that dies."""

import glob
import os
import select
import signal
import subprocess
import sys

import pytest
from tests.chaos.family import Family
from tests.chaos.hosts import HOSTS, hear, host

STEPS = pytest.mark.parametrize("step", HOSTS)


@STEPS
def test_nothing_outlives_a_host_that_is_killed(family: Family, account, step: str):
    with host(account, HOSTS[step]) as process:
        said = hear(process)
        process.kill()
        process.wait()

        assert said.split(b"\n")[0].startswith((step.encode(), b"running"))
        assert [] == family.left()


@pytest.mark.parametrize("after", [0, 5, 10, 20, 30, 40, 60, 90])
def test_nothing_outlives_a_host_that_is_killed_while_it_starts(
    family: Family, account, after: int
):
    """Some moment between the first process of ours and the first answer."""
    with host(account, HOSTS["opening"]) as process:
        hear(process)
        select.select([], [], [], after / 1000)
        process.kill()
        process.wait()

        assert [] == family.left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGABRT])
@pytest.mark.parametrize("step", ["parked", "running"])
def test_nothing_outlives_a_host_that_is_asked_to_end(
    family: Family, account, step: str, number: signal.Signals
):
    with host(account, HOSTS[step]) as process:
        hear(process)
        process.send_signal(number)

        assert process.wait(10) != 0
        assert [] == family.left()


def test_an_interrupted_call_raises_and_ends_its_run(family: Family, account):
    """Ctrl-C in a program that waits for a run."""
    code = f"""
said = "returned"
try:
    threading.Timer(0.5, os.kill, (os.getpid(), 2)).start()
    saggar.run({"import time; time.sleep(60)"!r}, limits={{"wall": 60}})
except KeyboardInterrupt:
    said = "interrupted"
say(said)
say(saggar.run("print('well')").stdout)
"""
    with host(account, code) as process:
        assert b"interrupted\n" == hear(process)
        assert b"well\n\n" == hear(process)
        assert 0 == process.wait(10)
        assert [] == family.left()


def test_a_host_that_ends_by_itself_ends_everything(family: Family, account):
    with host(account, "print(saggar.run('print(1)').stdout)") as process:
        assert 0 == process.wait(20)
        assert [] == family.left()


def test_a_host_whose_forked_sibling_lives_on_ends_everything_else(family: Family, account):
    """The sibling holds copies of every descriptor the host had: no end of file will tell."""
    code = """
saggar.run("pass")
if os.fork() == 0:
    say(str(os.getpid()))
    threading.Event().wait(30)
    os._exit(0)
threading.Event().wait(30)
"""
    with host(account, code) as process:
        sibling = int(hear(process))
        process.kill()
        process.wait()
        left = family.left()

        assert [sibling] == family.new(), left
        os.kill(sibling, signal.SIGKILL)
        assert [] == family.left()


@pytest.mark.root
def test_what_a_killed_host_leaves_in_the_kernel_is_swept_up():
    """Processes end by themselves; control groups wait for the next `saggar gc`."""
    with host((sys.executable, {}), HOSTS["parked"]) as process:
        hear(process)
        process.kill()
        process.wait()
    subprocess.run([sys.executable, "-m", "saggar", "gc"], check=True, capture_output=True)

    assert [] == glob.glob(f"/sys/fs/cgroup/**/saggar-{process.pid}-*", recursive=True)
