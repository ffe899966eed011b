"""What `import saggar` offers, and what it costs."""

import json
import subprocess
import sys

import pytest
from tests.conftest import missing

import saggar

LATE = ("anyio", "asyncio", "pydantic", "pydantic_core", "saggar.model", "saggar.platform")
"""Modules that take milliseconds, and that nobody needs who only imports."""


def in_fresh_process(code):
    """What some code, run by an interpreter that has imported nothing yet, says of itself."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import json, sys\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert "" == ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def loaded():
    """The modules that are there after the import, and those after a name was used."""
    return in_fresh_process("""
import saggar
before = [*sys.modules]
listed = dir(saggar)
saggar.Overloaded
print(json.dumps([before, [*sys.modules], listed]))
""")


def test_the_names_are_sorted_and_few_and_none_is_there_twice():
    assert sorted(set(saggar.__all__)) == saggar.__all__
    assert 40 >= len(saggar.__all__)  # some thirty, and the doors of sessions, jobs and functions


@pytest.mark.parametrize("name", saggar.__all__)
def test_every_name_leads_somewhere(name):
    found = getattr(saggar, name)

    assert name == found.__name__
    assert found.__doc__
    assert found is getattr(saggar, name)


@pytest.mark.parametrize("name", saggar._DOCUMENTED)
def test_a_name_from_a_document_leads_somewhere_too(name):
    assert name == getattr(saggar, name).__name__
    assert name not in saggar.__all__


def test_what_leads_somewhere_is_a_name():
    assert sorted(saggar._HOMES) == saggar.__all__


def test_all_names_are_there_with_a_star():
    found: dict[str, object] = {}
    exec("from saggar import *", found)

    assert set(saggar.__all__) <= found.keys()


def test_the_import_brings_nothing_that_takes_time(loaded):
    before, _, _ = loaded

    assert "saggar" in before
    assert [] == [name for name in before if name.startswith(LATE)]


def test_an_error_can_be_named_without_the_rest(loaded):
    _, after, _ = loaded

    assert "saggar.errors" in after
    assert [] == [name for name in after if name.startswith(LATE)]


def test_what_there_is_is_listed_before_it_is_loaded(loaded):
    _, _, listed = loaded

    assert sorted([*saggar.__all__, "__version__"]) == sorted(listed)


def test_an_unknown_name_is_told_as_of_any_module():
    with pytest.raises(AttributeError, match="module 'saggar' has no attribute 'rum'"):
        _ = saggar.rum
    with pytest.raises(ImportError, match="rum"):
        from saggar import rum  # noqa: F401 - it is not there


def test_the_version_is_the_one_that_was_installed():
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("saggar")
    except PackageNotFoundError:
        missing("saggar is not installed, only on the path")

    assert installed == saggar.__version__
