"""The row of another language: measured where it is installed, and named where it is not."""

import shutil

import anyio
import pytest
from tests.conftest import missing

from saggar.cli.bench import golang
from saggar.environments import python, runtimes
from saggar.errors import DriverUnavailable


@pytest.fixture
def installed():
    try:
        anyio.run(runtimes.find, golang.GO)
    except DriverUnavailable as exc:
        missing(str(exc))


@pytest.mark.usefixtures("installed")
def test_a_call_is_timed_bare_with_a_deadline_and_with_checks():
    """The first time its library is compiled, which takes longer than a test may."""
    found = {row.title: row.amount or 0 for row in golang.rows(seconds=0.01)}

    assert list(golang.TITLES.values()) == list(found)
    bare, deadline, checked = found.values()
    assert 0 < bare < deadline < checked


def test_without_a_go_the_row_says_what_brings_one(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(python, "site_packages", list)
    (row,) = golang.rows(seconds=0.01)

    assert (None, False) == (row.amount, row.failed)
    assert "pip install 'saggar[go]'" in row.note
