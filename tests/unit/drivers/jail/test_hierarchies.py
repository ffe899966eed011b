import os

import pytest

from saggar.drivers.jail import hierarchies
from saggar.drivers.jail.hierarchies import CONTROLLERS, LEAF, Finding, Place, find, locate, refusal

SEPARATE = """\
30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
31 24 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 24 0:29 / / rw - ext4 /dev/vda rw
"""
UNIFIED = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def finding(found, name):
    assert isinstance(found[name], Finding)
    return found[name]


def test_each_version_1_hierarchy_has_its_own_group():
    found = locate("4:memory:/a/b\n1:cpu:/\n0::/c\n", SEPARATE)

    assert Place("/sys/fs/cgroup/memory/a/b", 1) == found["memory"]
    assert Place("/sys/fs/cgroup/cpu", 1) == found["cpu"]
    assert Place("/sys/fs/cgroup/unified/c", 2) == found[""]


def test_controllers_mounted_together_share_a_group():
    mounts = "30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    found = locate("3:cpu,cpuacct:/user.slice\n", mounts)

    assert Place("/sys/fs/cgroup/cpu,cpuacct/user.slice", 1) == found["cpu"] == found["cpuacct"]


def test_a_container_that_sees_its_own_group_as_the_mount_works_in_it():
    mounts = "30 24 0:26 /docker/0a1b /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    found = locate("4:memory:/docker/0a1b\n3:cpu:/docker/0a1bc\n", mounts)

    assert Place("/sys/fs/cgroup/memory", 1) == found["memory"]


@pytest.mark.parametrize(
    ("path", "root"), [("/docker/0a1bc", "/docker/0a1b"), ("/../sibling", "/"), ("/", "/../..")]
)
def test_a_group_outside_what_is_mounted_is_not_guessed(path, root):
    found = locate(f"0::{path}\n", UNIFIED.replace(" / /sys", f" {root} /sys"))

    assert "outside what is mounted" in finding(found, "").why_not
    assert "docker" in finding(found, "").recipes


def test_a_mount_point_may_hold_spaces():
    found = locate("0::/a\n", UNIFIED.replace("/sys/fs/cgroup", r"/mnt/a\040b"))

    assert Place("/mnt/a b/a", 2) == found[""]


def test_a_later_mount_covers_an_earlier_one():
    found = locate("0::/\n", UNIFIED + UNIFIED.replace("/sys/fs/cgroup", "/mnt/other"))

    assert Place("/mnt/other", 2) == found[""]


def test_a_hierarchy_that_is_not_mounted_is_said_to_be():
    found = locate("8:pids:/\n", "")

    assert "no cgroup file system is mounted for pids" == finding(found, "pids").why_not


def test_no_control_groups_at_all_is_a_finding_with_a_way_out(tmp_path):
    found = find(proc=tmp_path)

    assert set(CONTROLLERS) == set(found)
    assert all("no control groups" in finding(found, name).why_not for name in found)
    assert all(("boot",) == finding(found, name).recipes for name in found)


@pytest.fixture
def delegated(tmp_path):
    """A folder that looks like a version 2 group; the kernel's own part is in test_cgroups."""
    folder = tmp_path / "run-1.scope"
    folder.mkdir()
    (folder / "cgroup.controllers").write_text("cpu io memory pids\n")
    for name in ("cgroup.subtree_control", "cgroup.procs", "cgroup.type"):
        (folder / name).touch()
    return folder


@pytest.fixture
def proc(tmp_path, delegated):
    """A /proc/self of somebody in that group."""
    (tmp_path / "cgroup").write_text(f"0::/{delegated.name}\n")
    (tmp_path / "mountinfo").write_text(UNIFIED.replace("/sys/fs/cgroup", str(tmp_path)))
    return tmp_path


def test_a_delegated_group_hands_every_controller_down(delegated):
    found = find(delegated)

    assert {name: Place(str(delegated), 2) for name in CONTROLLERS} == found
    assert (delegated / "cgroup.subtree_control").read_text().startswith("+")


def test_whoever_stepped_aside_before_finds_the_group_above(delegated):
    leaf = delegated / LEAF
    leaf.mkdir()

    assert Place(str(delegated), 2) == find(leaf)["memory"]


def test_a_controller_that_is_not_handed_down_is_missing_alone(delegated):
    (delegated / "cgroup.controllers").write_text("memory pids\n")
    found = find(delegated)

    assert "the cpu controller is not handed down" in finding(found, "cpu").why_not
    assert Place(str(delegated), 2) == found["pids"] == found["cpuacct"]


def test_where_nobody_manages_groups_ours_is_ours(proc, delegated, monkeypatch):
    monkeypatch.setattr(hierarchies, "_SYSTEMD", str(proc / "absent"))

    assert Place(str(delegated), 2) == find(proc=proc)["memory"]


def test_systemd_is_not_fought_over_a_group_it_did_not_delegate(proc, delegated, monkeypatch):
    monkeypatch.setattr(hierarchies, "_SYSTEMD", str(proc))
    found = find(proc=proc)

    assert "belongs to systemd, which did not delegate it" in finding(found, "memory").why_not
    assert ("systemd",) == finding(found, "memory").recipes
    assert not (delegated / "cgroup.subtree_control").read_text()


def test_a_group_systemd_marked_as_delegated_is_ours(proc, delegated, monkeypatch):
    monkeypatch.setattr(hierarchies, "_SYSTEMD", str(proc))
    try:
        os.setxattr(delegated, "user.delegate", b"1")
    except OSError:
        pytest.skip("the folder for temporary files has no extended attributes")

    assert Place(str(delegated), 2) == find(proc=proc)["memory"]


def test_a_group_of_somebody_else_names_the_way_to_one_of_our_own():
    theirs = refusal(PermissionError(13, "no"), Place("/sys/fs/cgroup/x", 2))

    assert "/sys/fs/cgroup/x is not ours to write" == theirs.why_not
    assert ("systemd",) == theirs.recipes


def test_version_1_is_for_root():
    theirs = refusal(PermissionError(13, "no"), Place("/sys/fs/cgroup/pids", 1))

    assert ("root", "boot") == theirs.recipes


def test_a_read_only_mount_names_the_container_recipes():
    unwritable = refusal(OSError(30, "no"), Place("/sys/fs/cgroup", 2))

    assert "/sys/fs/cgroup is mounted read-only" == unwritable.why_not
    assert ("docker", "kubernetes") == unwritable.recipes
