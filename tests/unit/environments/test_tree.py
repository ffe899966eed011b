"""Trees of packages, which strangers made."""

import stat
from pathlib import Path

import pytest

from saggar.environments import tree


@pytest.fixture
def deep(tmp_path):
    """A tree deeper than Python's stack, but not deeper than a path can say."""
    top = tmp_path / "top"
    path = top
    for _ in range(1200):
        path.mkdir()
        path /= "d"
    path.write_text("leaf")
    yield top
    tree.delete(top)


def test_a_deep_tree_is_sealed_and_deleted(deep):
    tree.seal(deep)
    tree.delete(deep)

    assert not deep.exists()


def test_sealing_does_not_follow_a_link_out(tmp_path):
    outside = tmp_path / "secret"
    outside.write_text("secret")
    outside.chmod(0o600)
    site = tmp_path / "site"
    site.mkdir()
    (site / "link").symlink_to(outside)
    tree.seal(site)

    assert 0o600 == stat.S_IMODE(outside.stat().st_mode)


def test_deleting_does_not_follow_a_link_out(tmp_path):
    outside = tmp_path / "folder"
    outside.mkdir()
    (outside / "file").write_text("kept")
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "link").symlink_to(outside)
    tree.delete(doomed)

    assert "kept" == (outside / "file").read_text()
    assert not doomed.exists()


def test_programs_stay_executable(tmp_path):
    for name, mode in (("program", 0o755), ("text", 0o664)):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    tree.seal(tmp_path)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("program", "text")]
    tmp_path.chmod(0o755)

    assert [0o555, 0o444] == modes


def test_deleting_what_is_gone_is_fine(tmp_path):
    tree.delete(tmp_path / "nothing")


def test_what_a_sandbox_cannot_read_is_listed_with_its_folder(tmp_path):
    for name in ("a/b", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "a" / "b").chmod(0o200)

    assert (str(Path("a") / "b"),) == tree.unreadable(str(tmp_path))
