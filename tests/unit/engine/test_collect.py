"""Collecting: what is found, and what an enemy's tree cannot make of it."""

import os
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saggar.engine.collect import MAX_SKIPPED, Collected, collect
from saggar.errors import InvalidTask, SaggarError

MEBIBYTE = 1 << 20


@pytest.fixture
def work(tmp_path):
    """The work folder of a finished run."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def collected(work: Path, *patterns: str, max_bytes: int = MEBIBYTE, **caps: int) -> Collected:
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return collect(fd, patterns, max_bytes=max_bytes, **caps)
    finally:
        os.close(fd)


def paths(result: Collected) -> list[str]:
    return [file.path for file in result.files]


def reasons(result: Collected) -> dict[str, str]:
    return {skipped.path: skipped.reason for skipped in result.skipped}


def write(work: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def deep_folders(top: Path, depth: int):
    """A chain of folders too deep for a path, removed again without recursion."""
    here = os.open(top, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", str(top / "d")], check=True)


def test_no_pattern_collects_nothing(work):
    write(work, "a")

    assert Collected((), ()) == collected(work)


def test_a_file_comes_with_its_content_and_its_permission_bits(work):
    write(work, "run.sh", content=b"echo")
    (work / "run.sh").chmod(0o4755)
    (file,) = collected(work, "run.sh").files

    assert ("run.sh", b"echo", 0o755) == (file.path, file.content, file.mode)


def test_files_are_sorted_by_path_and_taken_once(work):
    write(work, "b", "a/z", "a/y", "c")

    assert ["a/y", "a/z", "b", "c"] == paths(collected(work, "c", "**", "a/*", "*"))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["0.csv", ".hidden"]),
        ("*.csv", ["0.csv"]),
        ("out/*.csv", ["out/1.csv"]),
        ("*/*.csv", ["out/1.csv"]),
        ("**/*.csv", ["0.csv", "out/1.csv", "out/deep/2.csv"]),
        ("out/**", ["out/1.csv", "out/deep/2.csv", "out/deep/2.txt"]),
        ("out/**/2.*", ["out/deep/2.csv", "out/deep/2.txt"]),
        ("**/**/deep/**/**/2.csv", ["out/deep/2.csv"]),
        ("out/?.csv", ["out/1.csv"]),
        ("[!o]*.csv", ["0.csv"]),
        ("./out//1.csv", ["out/1.csv"]),
        ("**", ["0.csv", ".hidden", "out/1.csv", "out/deep/2.csv", "out/deep/2.txt"]),
    ],
)
def test_a_pattern_matches_whole_relative_paths(work, pattern, expected):
    write(work, "0.csv", ".hidden", "out/1.csv", "out/deep/2.csv", "out/deep/2.txt")

    assert sorted(expected) == paths(collected(work, pattern))


@pytest.mark.parametrize("pattern", ["none.txt", "no/where.txt", "*.txt", "file/below", "file/*"])
def test_a_pattern_that_matched_nothing_is_said(work, pattern):
    write(work, "file")
    result = collected(work, pattern)

    assert () == result.files
    assert {pattern: "matched nothing"} == reasons(result)


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../secret", "a/../../secret", "", "*/.."])
def test_a_pattern_that_leaves_the_folder_is_refused(work, pattern):
    with pytest.raises(InvalidTask):
        collected(work, pattern)


def test_more_wildcards_than_can_be_held_against_every_name_are_refused(work):
    with pytest.raises(InvalidTask):
        collected(work, "**/a/" * 200 + "b")


def test_a_folder_named_outright_says_how_to_ask_for_its_files(work):
    write(work, "out/a")

    assert {"out": "is a directory; /** behind it means the files in it"} == reasons(
        collected(work, "out")
    )


@pytest.mark.parametrize("pattern", ["leak", "*", "**"])
def test_a_link_out_of_the_folder_is_not_followed(work, pattern):
    (work.parent / "secret").write_text("secret")
    (work / "leak").symlink_to("../secret")
    result = collected(work, pattern)

    assert () == result.files
    assert {"leak": "is a symbolic link"} == reasons(result)


@pytest.mark.parametrize("target", ["/etc", ".", "inside", "/proc/self/cwd"])
def test_a_link_to_a_folder_is_not_a_way(work, target):
    write(work, "inside/passwd")
    (work / "way").symlink_to(target)

    assert {"way/passwd": "lies behind a symbolic link"} == reasons(collected(work, "way/passwd"))
    assert {"way/*": "matched nothing"} == reasons(collected(work, "way/*"))


def test_a_magic_link_is_not_followed(work):
    (work / "fd").symlink_to("/proc/self/fd/0")

    assert {"fd": "is a symbolic link"} == reasons(collected(work, "fd"))


@pytest.mark.parametrize("pattern", ["pipe", "*"])
def test_a_fifo_is_skipped_and_does_not_hang(work, pattern):
    os.mkfifo(work / "pipe")

    assert {"pipe": "is a fifo"} == reasons(collected(work, pattern))


def test_a_socket_is_skipped(work):
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{short}/door")

        assert {"door": "is a socket"} == reasons(collected(Path(short), "*"))


@pytest.mark.root
def test_a_device_is_skipped(work):
    os.mknod(work / "zero", 0o666 | 0o020000, os.makedev(1, 5))

    assert {"zero": "is a device"} == reasons(collected(work, "zero"))


@pytest.mark.root
def test_another_file_system_is_not_entered(work):
    write(work, "here")
    (work / "there").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(work / "there")], check=True)
    try:
        write(work, "there/file")
        result = collected(work, "**", "there/file")
    finally:
        subprocess.run(["umount", str(work / "there")], check=True)

    assert ["here"] == paths(result)
    assert "lies on another file system" == reasons(result)["there"]
    assert "lies on another file system" == reasons(result)["there/file"]


@pytest.mark.root
def test_a_mount_that_is_already_detached_is_still_read(work):
    """The work folder outlives the namespace it was mounted in."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(work)], check=True)
    write(work, "out/a")
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    subprocess.run(["umount", "-l", str(work)], check=True)
    result = collect(fd, ["**"], max_bytes=10)
    os.close(fd)

    assert ["out/a"] == paths(result)


def test_a_hard_link_is_a_file_like_any_other(work):
    write(work, "a")
    os.link(work / "a", work / "b")

    assert ["a", "b"] == paths(collected(work, "*"))


@contextmanager
def ordinary():
    """Root reads everything: give that up for a while."""
    mine = os.geteuid()
    os.seteuid(mine or 65534)
    try:
        yield
    finally:
        os.seteuid(mine)


@pytest.mark.parametrize(
    ("pattern", "shut"), [("file", "file"), ("*", "file"), ("in/a", "in"), ("in/*", "in")]
)
def test_what_cannot_be_read_is_skipped(work, pattern, shut):
    write(work, "file", "in/a")
    (work / shut).chmod(0)
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    with ordinary():
        result = collect(fd, [pattern], max_bytes=10)
    os.close(fd)
    (work / shut).chmod(0o755)

    assert () == result.files
    assert "cannot be read: permission denied" in reasons(result).values()


def test_a_name_that_is_not_utf8_is_skipped_and_shown_escaped(work):
    (work / os.fsdecode(b"bad\xff")).write_text("x")
    write(work, "good ✓")
    result = collected(work, "*")

    assert ["good ✓"] == paths(result)
    assert {"'bad\\udcff'": "its name is not UTF-8"} == reasons(result)


def test_a_name_full_of_terminal_codes_is_shown_escaped(work):
    (work / "\x1b[2J\n").symlink_to("/")

    assert {"'\\x1b[2J\\n'": "is a symbolic link"} == reasons(collected(work, "*"))


def test_a_file_of_a_terabyte_is_not_read(work):
    with (work / "sparse").open("wb") as file:
        try:
            file.truncate(1 << 40)
        except OSError:
            pytest.skip("this file system has no sparse files of a terabyte")

    assert {"sparse": "is too large: 1 TiB, room for 1 MiB"} == reasons(collected(work, "*"))


def test_the_cap_on_bytes_holds_while_reading_too():
    """A file of /proc says it is empty, and is not."""
    fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    result = collect(fd, ["maps"], max_bytes=100)
    os.close(fd)

    assert () == result.files
    assert {"maps": "is too large: 101 B, room for 100 B"} == reasons(result)


def test_the_cap_on_bytes_counts_all_files_and_smaller_ones_still_fit(work):
    write(work, "a", content=b"x" * 60)
    write(work, "b", content=b"x" * 60)
    write(work, "c", content=b"x" * 40)
    result = collected(work, "*", max_bytes=100)

    assert ["a", "c"] == paths(result)
    assert {"b": "is too large: 60 B, room for 40 B"} == reasons(result)


def test_of_five_thousand_files_the_first_thousand_come(work):
    write(work, *(f"{number:04}" for number in range(5000)))
    result = collected(work, "*", "later/*")

    assert [f"{number:04}" for number in range(1000)] == paths(result)
    assert {
        ".": "stopped after 1000 files",
        "later/*": "matched nothing before that",
    } == reasons(result)


def test_a_folder_with_too_many_names_stops_the_collection(work):
    write(work, *(f"{number:04}" for number in range(60)))
    write(work, "in/a/folder")
    result = collected(work, "*.none", "in/a/folder", max_names=50)

    assert ["in/a/folder"] == paths(result)
    assert {
        ".": "stopped: too many names to look at",
        "*.none": "matched nothing before that",
    } == reasons(result)


def test_a_folder_with_exactly_as_many_names_as_allowed_is_collected(work):
    write(work, "a", "b", "c")

    assert ["a", "b", "c"] == paths(collected(work, "*", max_names=3))


def test_links_without_end_do_not_become_reasons_without_end(work):
    for number in range(MAX_SKIPPED + 7):
        (work / f"{number:03}").symlink_to("/")
    result = collected(work, "*", "none")

    assert MAX_SKIPPED + 2 == len(result.skipped)
    assert "7 more were skipped" == reasons(result)["."]
    assert "matched nothing" == reasons(result)["none"]


def test_a_tree_a_thousand_folders_deep_is_walked_to_the_cap(work):
    write(work, "file")
    with deep_folders(work, 1000) as bottom:
        os.close(os.open("treasure", os.O_CREAT | os.O_WRONLY, dir_fd=bottom))
        result = collected(work, "**")

    assert ["file"] == paths(result)
    assert {"/".join(["d"] * 32): "lies deeper than 32 levels"} == reasons(result)


def test_depth_is_counted_the_same_with_and_without_wildcards(work):
    write(work, "1/2/3", "1/2/3b/4")

    assert ["1/2/3"] == paths(collected(work, "**", max_depth=3))
    assert ["1/2/3"] == paths(collected(work, "1/2/3", "1/2/3b/4", max_depth=3))


def test_names_too_long_for_a_path_are_skipped(work):
    """Each name is legal, their path is not: 20 folders of 250 bytes."""
    here = os.open(work, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=here)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    result = collected(work, "**")
    subprocess.run(["rm", "-rf", str(work)], check=True)

    assert "has too long a path" in reasons(result).values()


NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=6)
PATTERNS = st.text(st.sampled_from("ab*?[]!./\n"), max_size=12)


@given(st.lists(NAMES, max_size=4), st.lists(PATTERNS, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_names_and_patterns_give_files_or_reasons(names, patterns):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), *(name for name in names if name not in {".", ".."}))
        try:
            result = collected(Path(folder), *patterns)
        except SaggarError:
            return

    assert paths(result) == sorted(set(paths(result)))
    assert all(skipped.path.isprintable() for skipped in result.skipped)
