"""The script that starts workers: in the background, found again, ended; never without a broker."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "start_workers.sh"


@pytest.fixture
def script(tmp_path):
    """`script("prod")`: what the script answers, with folders of its own."""
    folders = {"SAGGAR_STATE_DIR": "state", "RUN_DIR": "run", "LOG_DIR": "logs"}
    mine = {key: value for key, value in os.environ.items() if not key.startswith("CELERY_")}

    def run(*words, **variables):
        return subprocess.run(
            [SCRIPT, *words],
            env={
                **mine,
                **{name: str(tmp_path / folder) for name, folder in folders.items()},
                "PYTHON": sys.executable,
                "PYTHONWARNINGS": "ignore",
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=55,
            check=False,
        )

    yield run
    run("stop")


@pytest.mark.timeout(120)
def test_workers_are_started_in_the_background_found_again_and_ended(script, tmp_path):
    started = script("prod")
    again = script("prod")
    found = script("status")
    status = found.stdout
    names = ("standard", "heavy")
    pids = {name: int((tmp_path / "run" / f"{name}.pid").read_text()) for name in names}
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids.values()]
    ended = script("stop")

    assert 0 == started.returncode, started.stderr
    assert "--autoscale=8,2" in commands[0]
    assert "--autoscale=4,1" in commands[1]
    assert "--queue=code_execution\0" in commands[0]
    assert "--queue=code_execution_heavy" in commands[1]
    assert {f"{name}: pid {pid}" for name, pid in pids.items()} == set(status.splitlines())
    assert 0 == found.returncode
    assert 2 == again.stderr.count("runs already")
    assert 0 == ended.returncode, ended.stderr
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    assert (tmp_path / "logs" / "standard.log").stat().st_size > 0


@pytest.mark.parametrize("what", ["dev", "prod", "monitor"])
def test_nothing_is_started_without_a_broker_and_its_password_is_not_shown(script, tmp_path, what):
    found = script(what, CELERY_BROKER_URL="redis://:secret@127.0.0.1:1/0")

    assert 69 == found.returncode
    assert re.search(r"redis://:\*\*\*@127\.0\.0\.1:1/0 does not answer", found.stderr)
    assert "secret" not in found.stderr
    assert not (tmp_path / "run").exists()


def test_a_pid_file_that_is_of_somebody_else_is_not_believed(script, tmp_path):
    """Numbers are used again: this one is ours, who are no worker, and must survive."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "standard.pid").write_text(str(os.getpid()))
    ended = script("stop")
    status = script("status")

    assert 0 == ended.returncode
    assert "standard: does not run" in status.stdout
    assert 3 == status.returncode


def test_what_it_does_not_know_it_says(script):
    found = script("production")

    assert 2 == found.returncode
    assert "wanted dev, prod, monitor, status or stop" in found.stderr
