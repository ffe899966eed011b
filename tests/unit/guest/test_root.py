import os
import stat

import pytest
from tests.unit.child import with_own_mounts

from saggar.boundary import syscalls as sys_
from saggar.boundary.wallplan import Entry, WallPlan
from saggar.guest import root


@pytest.fixture
def staging(tmp_path):
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


@pytest.fixture
def source(tmp_path):
    """A tree of the host's, with a folder in it that should not be seen."""
    folder = tmp_path / "source"
    (folder / "hidden").mkdir(parents=True)
    (folder / "hidden" / "file").write_text("secret")
    (folder / "file").write_text("content")
    return folder


def plan_of(staging, *entries):
    """A plan of which nothing else is asked."""
    nothing = dict.fromkeys(WallPlan.__annotations__)
    return WallPlan(**nothing | {"staging": str(staging), "entries": entries})


def assembled(staging, entries, look):
    """What `look` finds in a root put together over `staging`."""
    plan = plan_of(staging, *entries)

    def inside():
        root.assemble(plan)
        return look()

    return with_own_mounts(inside)


def test_every_kind_of_entry_stands_where_it_belongs(staging, source):
    entries = [
        Entry("bind", "/deep/in/bound", str(source)),
        Entry("bind", "/one", str(source / "file")),
        Entry("hide", "/deep/in/bound/hidden"),
        Entry("hide", "/never/was"),
        Entry("link", "/bin", "deep/in"),
        Entry("file", "/etc/name", "saggar é\n"),
        Entry("device", "/dev/null", "/dev/null"),
    ]

    def look():
        return {
            "bound": sorted(os.listdir(staging / "deep/in/bound")),
            "hidden": os.listdir(staging / "deep/in/bound/hidden"),
            "one": (staging / "one").read_text(),
            "link": os.readlink(staging / "bin"),
            "file": (staging / "etc/name").read_text(),
            "never": (staging / "never").exists(),
            "device": stat.S_ISCHR(os.stat(staging / "dev/null").st_mode),
            "written": os.write(os.open(staging / "dev/null", os.O_WRONLY), b"x"),
        }

    assert {
        "bound": ["file", "hidden"],
        "hidden": [],
        "one": "content",
        "link": "deep/in",
        "file": "saggar é\n",
        "never": False,
        "device": True,
        "written": 1,
    } == assembled(staging, entries, look)


def test_nothing_of_it_is_seen_on_the_host(staging, source):
    assembled(staging, [Entry("bind", "/bound", str(source))], bool)

    assert [] == list(staging.iterdir())


def test_what_is_mounted_on_and_the_links_to_the_streams_are_always_there(staging):
    def look():
        points = [os.path.isdir(staging / point) for point in root.POINTS]
        return all(points), {name: os.readlink(staging / name) for name in root.LINKS}

    assert (True, root.LINKS) == assembled(staging, [], look)


@pytest.mark.parametrize(
    ("kind", "writable", "flags"),
    [
        ("bind", False, os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV),
        ("share", True, os.ST_NOSUID | os.ST_NODEV),
    ],
)
def test_a_bind_is_read_only_and_a_share_is_not_and_neither_has_power(
    staging, source, kind, writable, flags
):
    def look():
        found = os.statvfs(staging / "at").f_flag
        return os.access(staging / "at/file", os.W_OK), found & (
            os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV
        )

    assert (writable, flags) == assembled(staging, [Entry(kind, "/at", str(source))], look)


def test_what_is_mounted_below_a_bind_comes_along_and_is_read_only_too(staging, source):
    plan = plan_of(staging, Entry("bind", "/at", str(source)))

    def inside():
        sys_.mount("below", str(source / "hidden"), "tmpfs", 0)
        (source / "hidden" / "below").write_text("")
        root.assemble(plan)
        found = os.statvfs(staging / "at/hidden").f_flag
        return os.listdir(staging / "at/hidden"), bool(found & os.ST_RDONLY)

    assert (["below"], True) == with_own_mounts(inside)


def test_a_source_that_became_a_link_is_refused(staging, source, tmp_path):
    """It was none when the plan was made; whoever can write beside it was quick."""
    (tmp_path / "link").symlink_to(source)

    with pytest.raises(OSError, match="openat2: Too many levels of symbolic links"):
        assembled(staging, [Entry("bind", "/at", str(tmp_path / "link"))], bool)


def test_a_source_that_is_gone_is_an_error(staging, tmp_path):
    with pytest.raises(FileNotFoundError):
        assembled(staging, [Entry("bind", "/at", str(tmp_path / "gone"))], bool)


def test_the_tree_has_a_size_of_its_own(staging):
    def look():
        found = os.statvfs(staging)
        return found.f_blocks * found.f_frsize, found.f_files

    assert (4 << 20, 4096) == assembled(staging, [], look)


def test_what_the_staging_folder_hides_can_be_shown_all_the_same(staging):
    (staging / "below").mkdir()
    (staging / "below" / "file").write_text("content")
    entries = [Entry("bind", "/seen/below", str(staging / "below"))]

    def look():
        return [os.listdir(staging / "seen/below"), (staging / "below").exists()]

    assert [["file"], False] == assembled(staging, entries, look)
