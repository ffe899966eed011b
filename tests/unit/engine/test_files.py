"""Trees that an enemy packed: what is written, and that nothing is written anywhere else."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saggar.engine.files import _entry, packed, unpack
from saggar.errors import InvalidTask, SaggarError, SandboxBroken

MANY = 1000
PARTS = st.sampled_from(["a", "b", "..", ".", "", "link", "out", "a" * 300, "\udc80", "c\n"])
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.AREGTYPE,
        tarfile.LNKTYPE,
        tarfile.SYMTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        tarfile.GNUTYPE_SPARSE,
    ]
)


def archive(*members: dict[str, Any], form: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    """A tar whose members are as they are said to be."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=form, errors="surrogateescape") as tar:
        for said in members:
            data = said.get("data", b"")
            info = tarfile.TarInfo(said["name"])
            for name, value in said.items():
                if name not in {"name", "data"}:
                    setattr(info, name, value)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    content.seek(0)
    return content


def tree(folder: Path) -> dict[str, str]:
    """All there is below a folder, by kind; nothing is followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        found[str(path.relative_to(folder))] = kind if path.is_dir() or path.is_file() else "other"
    return found


def test_files_and_folders_arrive(tmp_path: Path):
    content = archive(
        {"name": ".", "type": tarfile.DIRTYPE},
        {"name": "./a/b.txt", "data": b"said", "mode": 0o755},
        {"name": "c", "type": tarfile.DIRTYPE},
    )

    assert ("a/b.txt",) == unpack(content, tmp_path / "new", MANY)
    assert {"a": "folder", "a/b.txt": "file", "c": "folder"} == tree(tmp_path / "new")
    assert b"said" == (tmp_path / "new/a/b.txt").read_bytes()
    assert (tmp_path / "new/a/b.txt").stat().st_mode & 0o111


def test_what_is_packed_here_is_unpacked_there(tmp_path: Path):
    (tmp_path / "from/deep").mkdir(parents=True)
    (tmp_path / "from/deep/file").write_bytes(b"x" * 100_000)
    (tmp_path / "from/link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "from/fifo")
    content = io.BytesIO(b"".join(packed(tmp_path / "from")))

    assert ("deep/file",) == unpack(content, tmp_path / "to", MANY)
    assert {"deep": "folder", "deep/file": "file"} == tree(tmp_path / "to")


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/../out", "./../out", "a/../b"])
def test_no_way_leads_upwards(tmp_path: Path, name: str):
    target = tmp_path / "in"

    assert () == unpack(archive({"name": name, "data": b"x"}), target, MANY)
    assert {"in": "folder"} == tree(tmp_path)


def test_an_absolute_path_starts_in_the_folder(tmp_path: Path):
    name = str(tmp_path / "out")
    unpack(archive({"name": name, "data": b"x"}), tmp_path / "in", MANY)

    assert not (tmp_path / "out").exists()
    assert (tmp_path / "in" / name.lstrip("/")).exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_of_the_archive_is_not_made_and_not_followed(tmp_path: Path, kind: bytes):
    (tmp_path / "out").mkdir()
    content = archive(
        {"name": "link", "type": kind, "linkname": str(tmp_path / "out")},
        {"name": "link/file", "data": b"x"},
    )
    unpack(content, tmp_path / "in", MANY)

    assert {} == tree(tmp_path / "out")
    assert {"link": "folder", "link/file": "file"} == tree(tmp_path / "in")


def test_a_link_that_is_there_already_is_not_followed(tmp_path: Path):
    """Whoever planted it was in the folder before: a run that shares it, say."""
    (tmp_path / "out").mkdir()
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/folder").symlink_to(tmp_path / "out")
    (tmp_path / "in/file").symlink_to(tmp_path / "kept")

    assert ("file",) == unpack(archive({"name": "file", "data": b"new"}), tmp_path / "in", MANY)
    assert "kept" == (tmp_path / "kept").read_text()
    assert b"new" == (tmp_path / "in/file").read_bytes()
    with pytest.raises(InvalidTask, match="folder"):
        unpack(archive({"name": "folder/file", "data": b"new"}), tmp_path / "in", MANY)
    assert {} == tree(tmp_path / "out")


@pytest.mark.parametrize(
    "members",
    [
        [{"name": "x", "type": tarfile.DIRTYPE}, {"name": "x", "data": b"1"}],
        [{"name": "x", "data": b"1"}, {"name": "x/y", "data": b"2"}],
        [{"name": "x", "data": b"1"}, {"name": "x", "type": tarfile.DIRTYPE}],
        [{"name": "n" * 300, "data": b"1"}],
        [{"name": "n" * 300 + "/x", "data": b"1"}],
    ],
)
def test_what_cannot_be_made_is_said(tmp_path: Path, members: list[dict[str, Any]]):
    with pytest.raises(InvalidTask, match="cannot be made"):
        unpack(archive(*members), tmp_path, MANY)


def test_the_last_of_two_with_one_name_counts(tmp_path: Path):
    content = archive({"name": "x", "data": b"1"}, {"name": "x", "data": b"2"})

    assert ("x",) == unpack(content, tmp_path, MANY)
    assert b"2" == (tmp_path / "x").read_bytes()


def test_devices_and_pipes_are_left_out(tmp_path: Path):
    kinds = [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    content = archive(*[{"name": f"x{kind!r}", "type": kind} for kind in kinds])

    assert () == unpack(content, tmp_path, MANY)
    assert {} == tree(tmp_path)


def test_more_entries_than_may_be_are_refused(tmp_path: Path):
    content = archive(*[{"name": f"x{n}", "data": b""} for n in range(12)])

    with pytest.raises(InvalidTask, match="more than 10 entries"):
        unpack(content, tmp_path, 10)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_archive_is_none(tmp_path: Path, pack: Any):
    """A few bytes could become any number of them."""
    content = io.BytesIO(pack(archive({"name": "x", "data": b"0" * 1000}).getvalue()))

    with pytest.raises(SandboxBroken, match="no archive"):
        unpack(content, tmp_path, MANY)
    assert {} == tree(tmp_path)


@pytest.mark.parametrize(
    "headers",
    [
        {"size": str(1 << 60)},
        {"size": "-1"},
        {"size": "x"},
        {"GNU.sparse.map": "x,y"},
        {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9" * 20},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 20},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "../out"},
        {"path": "../out"},
        {"path": "nul\0nul"},
        {"mtime": "inf"},
        {"hdrcharset": "BINARY", "path": "\udcff"},
    ],
    ids=str,
)
def test_headers_that_lie_make_nothing_outside(tmp_path: Path, headers: dict[str, str]):
    content = archive({"name": "x", "data": b"0" * 1024, "pax_headers": headers})
    with contextlib.suppress(SaggarError):
        unpack(content, tmp_path / "in", MANY)

    assert {"in"} == {name.partition("/")[0] for name in tree(tmp_path)}
    assert 2048 > sum(p.stat().st_size for p in (tmp_path / "in").rglob("*") if p.is_file())


@given(st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_raise_what_is_not_ours(tmp_path: Path, content: bytes):
    with contextlib.suppress(SaggarError):
        unpack(io.BytesIO(content), tmp_path / "in", MANY)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "name": st.lists(PARTS, min_size=1, max_size=4).map("/".join),
                "type": KINDS,
                "linkname": st.sampled_from(["..", "/", "../out", "a"]),
                "data": st.binary(max_size=20),
                "mode": st.integers(0, 0o7777),
            }
        ),
        max_size=8,
    ),
    st.integers(0, 5000),
    st.integers(0, 255),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_archive_writes_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[dict[str, Any]], place: int, byte: int
):
    """Whatever is in it, and whichever byte of it was bent."""
    folder = tmp_path_factory.mktemp("bent")
    (folder / "out").mkdir()
    data = bytearray(archive(*members, form=tarfile.GNU_FORMAT).getvalue())
    data[place % len(data)] = byte
    with contextlib.suppress(SaggarError):
        unpack(io.BytesIO(bytes(data)), folder / "in", MANY)

    assert {} == tree(folder / "out")
    assert {"in", "out"} >= {path.name for path in folder.iterdir()}
    assert "link" not in tree(folder / "in").values()


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        ["x"],
        ["x", "file", 1, 1, 10**400],
        ["x", "file", 1, 1, float("nan")],
        ["x", "file", -1, 1, 0],
        ["x", "file", 10**400, 1, 0],
        [1, "file", 1, 1, 0],
        {"path": "x"},
    ],
    ids=lambda said: str(said)[:40],
)
def test_what_is_no_entry_is_refused(said: object):
    with pytest.raises(SandboxBroken, match="no entry"):
        _entry(said)
