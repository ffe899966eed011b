import pytest

from saggar.cli.kill import main
from saggar.errors import NotFound, PlatformError, UsageError
from saggar.sessions.table import Row, Table


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGGAR_RUNTIME_DIR", str(tmp_path))
    return Table(tmp_path)


def test_an_id_that_nobody_has(table):
    with pytest.raises(NotFound, match="'ab'"):
        main(["ab"])


def test_an_id_that_several_begin_with(table):
    for name in ("ab1", "ab2"):
        table.add(Row(name, "sandbox", "jail", "", 1.0))

    with pytest.raises(UsageError, match="'ab' begins 2 ids"):
        main(["ab"])


def test_a_process_that_has_no_door(table, monkeypatch):
    """This one: it has a row in the table, and nothing that answers."""
    monkeypatch.setattr("saggar.sessions.reach.PATIENCE", 0.1)
    table.add(Row("ab1", "sandbox", "jail", "", 1.0))

    with pytest.raises(PlatformError, match="does not answer"):
        main(["ab1"])


def test_without_an_id_it_says_what_is_missing(table):
    with pytest.raises(UsageError, match="ID"):
        main([])
