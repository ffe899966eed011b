"""The documented uses of jobs, as files that run by themselves, and what they print."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from saggar.jobs import spare
from saggar.jobs.broker import Embedded

EXAMPLES = Path(__file__).parents[2] / "examples" / "jobs"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One broker and one worker for all of them: both live as long as somebody is there."""
    folder = tmp_path_factory.mktemp("jobs")
    broker = Embedded(folder).start()
    client = spare.client(folder)
    yield folder
    os.close(client)
    broker.close()


@pytest.fixture
def printed(state: Path):
    """`printed("batch")`: what that example prints."""

    def run(name: str) -> str:
        mine = {key: value for key, value in os.environ.items() if not key.startswith("CELERY_")}
        found = subprocess.run(
            [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"],
            env={**mine, "SAGGAR_STATE_DIR": str(state)},
            capture_output=True,
            text=True,
            timeout=55,
            check=False,
        )
        assert "" == found.stderr
        assert 0 == found.returncode
        return found.stdout

    return run


def numbers(pattern: str, text: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_sync_and_async_print_the_same(printed):
    text = printed("sync_and_async")

    assert 3 == text.count("success=True stdout=21081692.74615191")
    assert 1 == text.count("task_id=None")
    assert 3 == len(numbers(r"overhead=(\d+) ms", text))


def test_what_is_submitted_can_be_asked_for_later(printed):
    text = printed("fire_and_forget")

    assert "submitted: status=submitted" in text
    assert "at once: status=pending success=None" in text
    assert text.endswith("later: status=ok\nprocessing 0\nprocessing 1\nprocessing 2\n")
    # It returns while the code, which takes 900 ms, has not ended.
    assert numbers(r"after (\d+) ms", text)[0] < 900


def test_five_jobs_run_at_once_and_come_back_in_order(printed):
    text = printed("batch")

    assert ["0", "1", "4", "9", "16"] == re.findall(r"job \d: (\d+) on", text)
    assert "5 jobs: " in text


def test_errors_are_told_apart(printed):
    lines = dict(
        line.split(": success=", 1) for line in printed("errors_and_timeouts").splitlines()
    )

    assert "status=error returncode=1: ZeroDivisionError" in lines["an exception"]
    assert "SyntaxError" in lines["a mistake in the code"]
    assert "status=error returncode=3" in lines["its own exit code"]
    assert "status=timeout" in lines["an endless loop"]
    assert "status=memory" in lines["too much memory"]
    assert "OSError" in lines["the network"]
    assert {"False"} == {line.split()[0] for line in lines.values()}


def test_the_same_code_is_served_from_one_run(printed):
    text = printed("idempotency")

    assert "same code_hash: True" in text
    assert "same run: True" in text
    assert "cache=False runs again: True" in text
    assert numbers(r"speed-up: (\d+) x", text)[0] > 5
