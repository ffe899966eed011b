import json

import pytest

from saggar.cli.ps import cells, document, lines, main, parser, span, state
from saggar.errors import UsageError
from saggar.sessions.table import Row

SESSION = {
    "id": "0123456789abcdef",
    "kind": "session",
    "language": "python",
    "engine": "shell",
    "driver": "jail",
    "owner": "",
    "created": 100.0,
    "used": 190.0,
    "busy": False,
    "execution_count": 3,
    "memory": 6 << 20,
    "cpu": 1.234,
    "processes": 2,
    "paused": False,
    "pid": 7,
}
SANDBOX = {"id": "ab", "kind": "sandbox", "driver": "jail", "owner": "", "created": 1.0, "pid": 7}


def test_a_session_is_a_line():
    expected = (
        "0123456789ab", "session python shell", "idle", "1m", "10s ago", "3", "6 MiB", "1.23s",
        "2", "jail", "7",
    )  # fmt: skip

    assert expected == cells(SESSION, 200.0)


def test_what_is_not_known_is_a_dash():
    assert ("-", "-", "-", "-", "-") == cells(SANDBOX, 200.0)[4:9]


def test_an_owner_cannot_move_the_cursor():
    assert "jail (a?[2J)" == cells({**SESSION, "owner": "a\x1b[2J"}, 200.0)[9]


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (SESSION, "idle"),
        ({**SESSION, "busy": True}, "busy"),
        ({**SESSION, "busy": True, "paused": True}, "paused"),
        (SANDBOX, "open"),
        ({**SANDBOX, "silent": True}, "silent"),
    ],
)
def test_the_state_is_a_word(row, word):
    assert word == state(row)


def test_spans_are_about_right():
    found = [span(seconds) for seconds in (-1, 0.4, 59, 60, 7199, 7200, 86400 * 3)]

    assert ["0s", "0s", "59s", "1m", "1h", "2h", "3d"] == found


def test_columns_are_as_wide_as_they_must_be():
    assert ["A    B", "xxx  y"] == list(lines(("A", "B"), ("xxx", "y")))


def test_programs_get_everything():
    lost = Row("x", "session", "jail", "", 1.0, "python", "shell")
    found = json.loads(document([SESSION], [lost]))

    assert SESSION == found["live"][0]
    assert ("x", "python") == (found["lost"][0]["id"], found["lost"][0]["language"])


@pytest.mark.parametrize("said", ["soon", "0s", "2d"])
def test_a_watch_has_a_pause_that_can_be_kept(said):
    with pytest.raises(UsageError, match="--watch"):
        main(["--watch", said])


def test_a_watch_without_a_time_looks_each_second():
    assert "1s" == parser().read(["--watch"]).watch


def test_where_nothing_lives_there_is_a_title(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAGGAR_RUNTIME_DIR", str(tmp_path))

    assert 0 == main([])
    assert 1 == len(capsys.readouterr().out.splitlines())
