import subprocess
import sys

import pytest

from saggar.cli.bench import attempt, chosen, measurements
from saggar.cli.bench.row import SMOKE
from saggar.errors import DriverUnavailable, NotFound


def test_without_a_choice_everything_is_measured():
    assert list(measurements()) == [name for name, _ in chosen(None)]


def test_a_choice_keeps_the_order_of_the_table():
    assert ["run", "peers"] == [name for name, _ in chosen(["peers", "run"])]


def test_a_measurement_that_is_not_there_is_refused():
    with pytest.raises(NotFound, match="did you mean 'numpy'"):
        list(chosen(["numpi"]))


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_table_that_cannot_be_written_is_one_line(words):
    argv = [sys.executable, "-m", "saggar", "bench", "--smoke", "--only", "cold", *words]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False, text=True)

    said = "saggar: the answer cannot be written to stdout: no space left on device"
    assert (70, ["measuring: cold", said]) == (ended.returncode, ended.stderr.splitlines())


def test_a_measurement_that_fails_is_a_row_that_says_why():
    def measure(effort):
        raise DriverUnavailable("no walls here")

    (row,) = attempt("run", measure, SMOKE)

    assert row.failed
    assert "failed: no walls here" == row.note
