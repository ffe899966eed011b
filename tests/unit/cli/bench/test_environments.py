"""The rows about environments, with a small package in the place of a large one."""

import pytest
from tests.unit.environments.conftest import Shelf

from saggar.cli.bench import environments
from saggar.cli.bench.row import SMOKE
from saggar.model.environment import Environment


@pytest.fixture(autouse=True)
def clay(tmp_path, monkeypatch):
    shelf = Shelf(tmp_path / "shelf")
    shelf.add("clay")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UV_FIND_LINKS", str(shelf.folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    for name in ("NUMPY", "SMALL"):
        monkeypatch.setattr(environments, name, Environment(packages=("clay",)))
    return tmp_path


def test_building_one_is_measured_and_leaves_nothing(clay):
    (row,) = environments.built(SMOKE)

    assert ("3 s", 3) == (row.target, row.n)
    assert row.median is not None
    assert not list(clay.glob("saggar-bench-*"))


def test_what_one_adds_to_a_call_stands_beside_a_call_without(clay):
    bare, inside = environments.called(SMOKE)

    assert "" == bare.target
    assert "none + 1 ms" == inside.target
    assert inside.note.endswith(" us")


def test_where_there_is_no_index_the_row_says_so(clay, monkeypatch):
    monkeypatch.setattr(environments, "NUMPY", Environment(packages=("kiln",)))
    (row,) = environments.built(SMOKE)

    assert row.note.startswith("does not work here: ")
    assert row.met is None
