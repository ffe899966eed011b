import json

import pytest

from saggar.cli.bench.row import Row
from saggar.cli.bench.table import as_json, as_text, milliseconds

ROWS = [
    Row(title="fast", command="run it", n=3, median=0.00085, p95=0.002, target="1 ms", met=True),
    Row(title="slow", command="x" * 200, n=3, rate=1234.5, target="9/s", met=False, note="why"),
]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0.85 ms", 0.00085), ("12.3 ms", 0.0123), ("220 ms", 0.22), ("", None)],
)
def test_times_have_one_unit(text, seconds):
    assert text == milliseconds(seconds)


def test_the_table_says_what_was_met_and_what_was_run():
    text = as_text(ROWS, 0.5)

    assert "0.85 ms  2.00 ms" in text
    assert "1 ms    met" in text
    assert "9/s     MISSED  why" in text
    assert "fast: run it" in text
    assert "1,234" in text


def test_the_machine_is_named():
    assert "load 0.50" in as_text(ROWS, 0.5).splitlines()[0]
    assert "cores" in as_text(ROWS, 0.5).splitlines()[0]
    assert json.loads(as_json(ROWS, 0.5))["machine"]["kernel"]


def test_the_document_has_plain_numbers():
    assert 0.00085 == json.loads(as_json(ROWS, 0.5))["rows"][0]["median"]
