import os
import pty
import subprocess
import sys

from saggar.cli.progress import progress

PROGRAM = """
from saggar.cli.progress import progress
with progress(quiet=False) as tell:
    tell("resolving"), tell("installing " + "x" * 500)
"""


def test_in_a_log_each_step_stays(capsys):
    with progress(quiet=False) as tell:
        tell("resolving")
        tell("installing")

    assert "saggar: resolving\nsaggar: installing\n" == capsys.readouterr().err


def test_whoever_wants_quiet_gets_it(capsys):
    with progress(quiet=True) as tell:
        tell("resolving")

    assert "" == capsys.readouterr().err


def test_on_a_terminal_one_line_is_written_over_and_leaves_nothing():
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=theirs, check=True)
    shown = os.read(ours, 10_000)
    os.close(ours)
    os.close(theirs)

    assert b"saggar: resolving\r" in shown
    assert b"\n" not in shown
    assert shown.endswith(b"\r\x1b[K")
