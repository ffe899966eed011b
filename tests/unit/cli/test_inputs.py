import os

import pytest

from saggar.cli import inputs
from saggar.errors import UsageError


def names(*words):
    return [file.path for file in inputs.gather(words)]


def test_a_file_goes_in_under_its_own_name(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"1,2\n")
    (file,) = inputs.gather([str(tmp_path / "a.csv")])

    assert ("a.csv", b"1,2\n") == (file.path, file.content)


def test_a_file_can_be_given_another_name(tmp_path):
    (tmp_path / "a.csv").touch()

    assert ["in/data.csv"] == names(f"{tmp_path}/a.csv=in/data.csv")


def test_an_equals_sign_in_a_name_that_exists_is_part_of_it(tmp_path):
    (tmp_path / "a=b").touch()

    assert ["a=b"] == names(f"{tmp_path}/a=b")


def test_a_folder_goes_in_with_everything_below_it(tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "z").touch()
    (tmp_path / "d" / "e" / "y").touch()
    (tmp_path / "d" / ".hidden").touch()

    assert ["d/.hidden", "d/z", "d/e/y"] == names(f"{tmp_path}/d/")


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "x").touch()
    monkeypatch.chdir(tmp_path)

    assert [f"{tmp_path.name}/x"] == names(".")


def test_links_in_a_folder_are_not_followed(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    (folder / "file").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to("/etc")
    os.mkfifo(folder / "fifo")
    (folder / "real").touch()

    assert ["d/real"] == names(str(folder))


def test_a_link_that_is_named_is_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    (file,) = inputs.gather([str(tmp_path / "link")])

    assert ("link", b"x") == (file.path, file.content)


def test_permissions_come_along_and_the_owner_can_always_read(tmp_path):
    (tmp_path / "x").touch(0o755)
    (tmp_path / "y").touch()
    (tmp_path / "y").chmod(0o4011)
    (x,) = inputs.gather([str(tmp_path / "x")])

    assert 0o755 == x.mode
    assert 0o411 == inputs.mode(str(tmp_path / "y"))


def test_all_files_together_have_a_cap(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "LARGEST_TASK", 5)
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"456")

    with pytest.raises(UsageError, match="b' does not fit: code and files may weigh 5 B together"):
        names(str(tmp_path / "a"), str(tmp_path / "b"))


def test_the_number_of_files_has_a_cap(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_FILES", 2)
    for name in "abc":
        (tmp_path / name).touch()

    with pytest.raises(UsageError, match="more than 2 files"):
        names(str(tmp_path))


def test_a_file_without_end_is_not_read_to_it():
    with pytest.raises(UsageError, match="'/dev/zero' does not fit"):
        names("/dev/zero")


def test_what_has_no_name_is_refused():
    with pytest.raises(UsageError, match="'/' has no name of its own; say which: /=NAME"):
        names("/")


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("data.csv=", "'data.csv' has no name of its own; say which: data.csv=NAME"),
        ("=x", "--input: wanted PATH or PATH=NAME, found '=x'"),
        ("", "--input: wanted PATH or PATH=NAME, found ''"),
    ],
)
def test_half_an_input_is_told_what_is_missing(word, complaint):
    with pytest.raises(UsageError, match=complaint):
        inputs.gather([word])
