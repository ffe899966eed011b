import os
import stat
import subprocess
import sys
import tempfile

import pytest

from saggar.drivers.process.folders import make_child_folder, own_folder, remove, sweep_folders

LEFT = """
import sys
from saggar.drivers.process.folders import own_folder
with own_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    tempfile.tempdir = None


@pytest.fixture
def holder():
    """Another process that has a folder, until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEFT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make_deep(folder, levels):
    """One folder in the other, further down than any path can name."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_only_its_owner_can_enter_and_it_is_gone_afterwards(temporary):
    with own_folder() as folder:
        modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (folder,)]

        assert modes == [0o700]
    assert names(temporary) == []


def test_what_was_left_in_it_goes_as_well(temporary):
    with own_folder() as folder:
        make_child_folder(f"{folder}/1")

    assert names(temporary) == []


def test_a_child_finds_two_places_of_its_own(temporary):
    work, passing = make_child_folder(str(temporary / "1"))

    assert ["tmp", "work"] == names(temporary / "1")
    assert {0o700} == {stat.S_IMODE(os.stat(path).st_mode) for path in (work, passing)}


def test_a_tree_of_three_thousand_levels_is_removed(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    make_deep(folder, 3000)
    remove(str(folder))

    assert not folder.exists()


def test_folders_that_cannot_be_entered_are_removed(tmp_path):
    folder = tmp_path / "closed"
    (folder / "in" / "side").mkdir(parents=True)
    (folder / "in").chmod(0)
    remove(str(folder))

    assert not folder.exists()


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o500)
    folder = tmp_path / "folder"
    (folder / "locked").mkdir(parents=True)
    (folder / "link").symlink_to(kept)
    (folder / "locked").chmod(0)
    remove(str(folder))

    assert names(tmp_path) == ["kept"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o500


def test_a_sweep_leaves_the_folder_of_a_living_process(holder):
    folder = holder.stdout.readline().strip()

    assert 0 == sweep_folders()
    assert os.path.isdir(folder)


def test_a_sweep_removes_the_folder_of_a_dead_process(holder, temporary):
    holder.stdout.readline()
    holder.kill()
    holder.wait()

    assert 1 == sweep_folders()
    assert names(temporary) == []


def test_a_sweep_follows_no_link(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "saggar-process-link").symlink_to(tmp_path / "kept")

    assert 0 == sweep_folders()
    assert "kept" in names(tmp_path)
