import os

import pytest

from saggar.cli.outputs import hidden, write
from saggar.model.task import File


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def reasons(here, *paths):
    files = [File(path=path, content=b"new") for path in paths]
    return [skipped.reason for skipped in write(files, str(here))]


def test_a_file_is_written_below_the_folder(here):
    assert [] == reasons(here, "a/b/c.txt")
    assert b"new" == (here / "a" / "b" / "c.txt").read_bytes()


def test_a_file_of_the_same_name_is_replaced(here):
    (here / "x").write_bytes(b"something longer")

    assert [] == reasons(here, "x")
    assert b"new" == (here / "x").read_bytes()


def test_permissions_of_a_new_file_are_its_own_within_the_umask(here):
    write([File(path="x", content=b"", mode=0o777)], str(here))
    umask = os.umask(0)
    os.umask(umask)

    assert 0o777 & ~umask == (here / "x").stat().st_mode & 0o7777


def test_a_link_in_the_place_of_the_file_is_not_followed(here, tmp_path):
    (tmp_path / "secret").write_bytes(b"mine")
    (here / "x").symlink_to(tmp_path / "secret")

    assert ["a link is in the way"] == reasons(here, "x")
    assert b"mine" == (tmp_path / "secret").read_bytes()


def test_a_link_to_nothing_makes_no_file_elsewhere(here, tmp_path):
    (here / "x").symlink_to(tmp_path / "new")

    assert ["a link is in the way"] == reasons(here, "x")
    assert not (tmp_path / "new").exists()


def test_a_link_among_the_folders_is_not_followed(here, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (here / "d").symlink_to(tmp_path / "elsewhere")

    assert ["a file or a link is in the way"] == reasons(here, "d/x")
    assert [] == list((tmp_path / "elsewhere").iterdir())


def test_a_fifo_in_the_way_does_not_hold_us_up(here):
    os.mkfifo(here / "x")

    assert ["a fifo or a device is in the way"] == reasons(here, "x")


def test_a_fifo_with_a_reader_gets_nothing(here):
    os.mkfifo(here / "x")
    reader = os.open(here / "x", os.O_RDONLY | os.O_NONBLOCK)
    found = reasons(here, "x")
    got = os.read(reader, 10)
    os.close(reader)

    assert ["a fifo or a device is in the way"] == found
    assert b"" == got


def test_a_folder_in_the_way_is_left_alone(here):
    (here / "x").mkdir()

    assert ["a folder is in the way"] == reasons(here, "x")


def test_one_that_cannot_be_written_does_not_keep_the_others(here):
    (here / "x").mkdir()

    assert ["a folder is in the way"] == reasons(here, "x", "y")
    assert (here / "y").exists()


def test_the_current_folder_may_be_reached_through_a_link(here, tmp_path):
    (tmp_path / "link").symlink_to(here)

    assert [] == reasons(tmp_path / "link", "x")
    assert (here / "x").exists()


def test_no_descriptor_is_left_open(here):
    before = len(os.listdir("/proc/self/fd"))
    (here / "f").touch()
    reasons(here, "a/b/c", "f/x", "a/b")

    assert before == len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("path", [".bashrc", ".git/hooks/pre-commit", "a/.b/c"])
def test_a_hidden_name_is_kept_back_unless_it_was_asked_for(path):
    files = [File(path=path, content=b""), File(path="plain", content=b"")]

    assert [path] == [skipped.path for skipped in hidden(files, ["**", "*"])]
    assert [] == hidden(files, ["**", ".*"])
