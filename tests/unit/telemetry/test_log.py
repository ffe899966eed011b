import json
import logging
import sys

import pytest

from saggar.telemetry import log


@pytest.fixture
def logger():
    found = logging.getLogger("saggar.of-this-test")
    yield found
    for handler in list(found.handlers):
        found.removeHandler(handler)
        handler.close()
    found.setLevel(logging.NOTSET)


def test_an_event_is_one_line_with_its_keys(logger, tmp_path):
    path = tmp_path / "logs" / "app.log"
    log.to_file(logger, path)

    log.say(logger, "job.submitted", task_id="one", retry_count=0)
    (line,) = path.read_text().splitlines()
    found = json.loads(line)

    assert ("job.submitted", "one", 0) == (found["event"], found["task_id"], found["retry_count"])
    assert ("info", "saggar.of-this-test") == (found["level"], found["logger"])


def test_what_others_log_is_a_line_as_well(logger, tmp_path):
    path = tmp_path / "app.log"
    log.to_file(logger, path)

    logger.warning("the queue %s\nis away", "x")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("it failed")
    found = [json.loads(line) for line in path.read_text().splitlines()]

    assert ["the queue x\nis away", "it failed"] == [each["message"] for each in found]
    assert "ValueError: two\nlines" in found[1]["exception"]


def test_whoever_prints_logs_his_own_way_finds_the_keys_in_the_text(logger, caplog):
    with caplog.at_level(logging.INFO, logger.name):
        log.say(logger, "job.attempted", status="ok")

    assert 'job.attempted {"status": "ok"}' == caplog.messages[0]


def test_a_process_of_ours_tells_stderr_what_matters_and_a_file_everything(tmp_path):
    import subprocess

    path = tmp_path / "app.log"
    code = """
import logging, sys
from pathlib import Path
from saggar.telemetry import log
log.configure("warning", Path(sys.argv[1]))
log.say(logging.getLogger("saggar.server"), "job.submitted", task_id="one")
logging.getLogger("saggar.server").warning("careful")
"""
    run = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )

    assert ["careful"] == [json.loads(line)["message"] for line in run.stderr.splitlines()]
    assert 2 == len(path.read_text().splitlines())
