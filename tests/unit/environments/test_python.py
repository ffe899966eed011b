"""Interpreters as packages are made for them, and the packages that are there already."""

import os
import sys

import pytest

from saggar.environments.python import identify, site_packages
from saggar.errors import PrepareFailed

REAL = os.path.realpath(sys.executable)


async def test_the_running_interpreter_is_known_without_asking_it():
    version = ".".join(map(str, sys.version_info[:3]))

    assert version == (await identify(sys.executable)).split()[0]


async def test_an_interpreter_asked_says_the_same_as_one_that_runs(tmp_path):
    other = tmp_path / "python"
    other.symlink_to(REAL)

    assert await identify(sys.executable) == await identify(str(other))


@pytest.mark.parametrize("path", ["/nowhere/python", "/bin/false", "/etc/passwd"])
async def test_what_is_no_interpreter_is_refused(path):
    with pytest.raises(PrepareFailed, match=path):
        await identify(path)


def test_site_packages_are_folders_python_looks_into():
    found = site_packages()

    assert any(os.path.isdir(os.path.join(folder, "pytest")) for folder in found)
    assert set(found) <= {os.path.realpath(entry) for entry in sys.path}
