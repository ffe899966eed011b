"""Interpreters by version: those of this machine, wherever they are kept."""

import os
import stat
import sys

import pytest

from saggar.environments import interpreters
from saggar.errors import NotFound

REAL = os.path.realpath(sys.executable)
OURS = ".".join(map(str, sys.version_info[:3]))


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(interpreters, "_found", {})


def other_version() -> str:
    """A version that uv finds here and that is not ours; skips where there is none."""
    import asyncio

    known = asyncio.run(interpreters.versions())
    others = [one for one in known if one != OURS]
    if not others:
        pytest.skip("there is one Python on this machine")
    return others[-1]


@pytest.mark.parametrize("parts", [1, 2, 3])
async def test_our_own_version_is_our_own_interpreter(parts):
    found = await interpreters.of_version(".".join(OURS.split(".")[:parts]))

    assert REAL == found


async def test_the_versions_of_this_machine_have_ours_among_them():
    assert OURS in await interpreters.versions()


def test_another_version_is_found_by_its_number():
    import asyncio
    import subprocess

    version = other_version()
    path = asyncio.run(interpreters.of_version(version))
    ask = [path, "-I", "-c", "import sys; print('.'.join(map(str, sys.version_info[:3])))"]

    assert version == subprocess.check_output(ask, text=True).strip()


async def test_one_that_is_missing_names_the_ways_out():
    with pytest.raises(NotFound) as missing:
        await interpreters.of_version("3.99")

    assert str(missing.value).startswith("no Python 3.99 on this machine; there are: ")
    assert OURS in str(missing.value)
    assert "uv python install 3.99, or apt install python3.99" in str(missing.value)


def test_a_version_manager_is_looked_into_behind_its_shims(tmp_path):
    (tmp_path / "shims").mkdir()
    for version in ("3.12.1", "3.13.0"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
    folders = list(interpreters._folders({"PATH": f"/bin:{tmp_path}/shims:/usr/bin"}))

    assert [
        "/bin",
        f"{tmp_path}/versions/3.13.0/bin",
        f"{tmp_path}/versions/3.12.1/bin",
        "/usr/bin",
    ] == folders


async def test_without_uv_there_is_still_path(tmp_path, monkeypatch):
    python = tmp_path / "python3.98"
    python.write_text("#!/bin/sh\n")
    python.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)

    assert str(python) == await interpreters.of_version("3.98")


async def test_one_that_is_too_old_is_not_looked_for():
    with pytest.raises(NotFound, match=r"3\.11 is the oldest that will do, and 2\.7 was named"):
        await interpreters.of_version("2.7")
