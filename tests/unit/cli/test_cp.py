import io
import os
import tarfile

import pytest

from saggar.cli.cp import described, main, odd, pieces, remote, unpacked, written
from saggar.errors import InvalidTask, NotFound, SandboxBroken, UsageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def archive(*members):
    """A tar as an enemy writes it: (name, content), or (name, kind, target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, *rest in members:
            info = tarfile.TarInfo(name)
            match rest:
                case [bytes(content)]:
                    info.size, info.mode = len(content), 0o6777
                    tar.addfile(info, io.BytesIO(content))
                case [kind, target]:
                    info.type, info.linkname = kind, target
                    tar.addfile(info)
    return io.BytesIO(buffer.getvalue())


def unpack(content, target="out", most=100, *, hidden=False):
    return unpacked(content, "d", target, most, hidden=hidden)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("4f3a:data/x", ("4f3a", "data/x")),
        ("4f3a:/tmp", ("4f3a", "/tmp")),
        ("4f3a:", ("4f3a", ".")),
        ("4f3a:a:b", ("4f3a", "a:b")),
        ("./4f3a:x", None),
        ("data.csv", None),
        ("-", None),
        ("HOST:x", None),
    ],
)
def test_a_word_with_an_id_before_its_colon_is_in_a_sandbox(word, found):
    assert found == remote(word)


@pytest.mark.parametrize("words", [("a", "b"), ("4f:a", "4f:b")])
def test_one_side_is_here_and_the_other_one_there(words):
    with pytest.raises(UsageError, match="saggar cp ID:PATH LOCAL"):
        main(list(words))


def test_nothing_is_written_outside_the_folder(here):
    enemy = archive(
        ("../up", b"1"),
        ("a/../../up", b"1"),
        (f"{here.parent}/up", b"1"),
        ("link", tarfile.SYMTYPE, str(here.parent)),
        ("link/up", b"2"),
        ("hard", tarfile.LNKTYPE, "/etc/passwd"),
        ("device", tarfile.CHRTYPE, ""),
        ("fine", b"3"),
    )
    unpack(enemy)
    outside = {path.name for path in here.parent.iterdir()}

    assert {"here"} == outside
    assert not any(path.is_symlink() for path in here.rglob("*"))
    assert b"3" == (here / "out" / "fine").read_bytes()
    assert b"2" == (here / "out" / "link" / "up").read_bytes()


def test_a_file_gets_no_power_of_its_own(here):
    unpack(archive(("tool", b"#!/bin/sh")))

    assert 0o755 & ~os.umask(os.umask(0o022)) == (here / "out" / "tool").stat().st_mode & 0o7777


def test_a_link_of_ours_in_the_place_of_a_file_is_replaced_and_not_followed(here):
    (here / "out").mkdir()
    (here / "out" / "d").mkdir()
    (here / "secret").write_text("mine")
    (here / "out" / "d" / "f").symlink_to(here / "secret")
    unpack(archive(("f", b"theirs")))

    assert "mine" == (here / "secret").read_text()
    assert b"theirs" == (here / "out" / "d" / "f").read_bytes()


def test_a_link_in_the_place_of_the_folder_is_refused(here):
    (here / "out").mkdir()
    (here / "out" / "d").symlink_to(here)

    with pytest.raises(UsageError, match="is a link"):
        unpack(archive(("f", b"theirs")))


def test_hidden_names_are_left_out_and_said_once(here):
    enemy = archive((".git/config", b"1"), (".git/hooks/x", b"2"), ("a/.env", b"3"), ("b", b"4"))
    report = unpack(enemy)

    assert ["out/b"] == report.copied
    assert [".git", "a/.env"] == [line.partition(":")[0] for line in report.skipped]
    assert not (here / "out" / ".git").exists()


def test_hidden_names_come_when_they_are_wanted(here):
    report = unpack(archive((".env", b"3")), hidden=True)

    assert (["out/.env"], []) == (report.copied, report.skipped)


def test_too_many_entries_are_too_many(here):
    with pytest.raises(InvalidTask, match="more than 3 entries"):
        unpack(archive(*((f"f{n}", b"") for n in range(9))), most=3)


def test_what_is_no_archive_is_the_sandboxes_fault(here):
    with pytest.raises(SandboxBroken):
        unpack(io.BytesIO(b"not a tar at all" * 999))


def test_a_folder_in_the_place_of_a_file_is_said(here):
    (here / "out" / "d" / "f").mkdir(parents=True)

    with pytest.raises(UsageError, match="f"):
        unpack(archive(("f", b"theirs")))


def test_a_file_goes_where_it_was_said(here):
    (here / "there").mkdir()
    written(io.BytesIO(b"1"), "/work/a", "there", 0o6755)
    written(io.BytesIO(b"2"), "/work/a", "b", 0o644)

    assert (b"1", b"2") == ((here / "there" / "a").read_bytes(), (here / "b").read_bytes())
    assert 0 == (here / "there" / "a").stat().st_mode & 0o7022


def test_the_name_of_a_file_is_the_guests_and_leads_through_no_link(here):
    (here / "there").mkdir()
    (here / "secret").write_text("mine")
    (here / "there" / "a").symlink_to(here / "secret")

    with pytest.raises(UsageError, match="cannot write"):
        written(io.BytesIO(b"theirs"), "a", "there", 0o644)
    assert "mine" == (here / "secret").read_text()


def test_what_goes_in_is_described(here):
    (here / "folder").mkdir()
    (here / "file").touch(0o640)

    assert {"name": "folder"} == described("folder")
    assert {"name": ""} == described("folder/.")
    assert {"name": ""} == described(".")
    assert {"name": "file", "mode": 0o640} == described("./file")
    with pytest.raises(NotFound, match="cannot read 'none'"):
        described("none")
    with pytest.raises(UsageError, match="neither"):
        described("/dev/null")


def test_a_folder_goes_in_without_its_links(here):
    (here / "folder" / "sub").mkdir(parents=True)
    (here / "folder" / "sub" / "file").write_text("1")
    (here / "folder" / "link").symlink_to("/etc/passwd")
    content = io.BytesIO(b"".join(pieces("folder", folder=True)))
    with tarfile.open(fileobj=content) as tar:
        names = tar.getnames()

    assert ["sub", "sub/file"] == names
    assert ["folder/link: it is no regular file"] == odd("folder")


def test_a_file_that_cannot_be_read_is_said(here):
    with pytest.raises(UsageError, match="cannot read 'none'"):
        list(pieces("none", folder=False))
