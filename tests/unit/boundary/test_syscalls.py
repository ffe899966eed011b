import errno
import os
import platform
import re
import resource
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.child import in_child, with_own_mounts

from saggar.boundary import syscalls as sys_
from saggar.drivers.jail import syscall_table

ALLOW, ERRNO = 0x7FFF0000, 0x50000
BY_MACHINE = {"x86_64": sys_._X86_64, "aarch64": sys_._AARCH64}
PAGE = sys_.PAGE


def denying(name, error):
    """A filter of four instructions: this call ends with that error, all others pass."""
    number = sys_.NUMBERS[name]
    return b"".join(
        struct.pack("<HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number
            (0x15, 0, 1, number),
            (0x06, 0, 0, ERRNO | error),
            (0x06, 0, 0, ALLOW),
        )
    )


def status(field):
    """One line of what the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


@pytest.mark.parametrize("machine", BY_MACHINE)
def test_the_numbers_are_those_that_the_filter_knows(machine):
    known = syscall_table.NUMBERS[machine]
    ours = sys_._SAME | BY_MACHINE[machine]

    assert ours == {name: known[name] for name in ours}


def test_both_machines_have_a_number_for_the_same_calls():
    assert sys_._X86_64.keys() == sys_._AARCH64.keys()


def test_an_error_says_what_was_tried():
    with pytest.raises(OSError, match=r"^\[Errno 9\] openat2: Bad file descriptor$"):
        sys_.openat2(-1, b"name", os.O_RDONLY, 0)


def test_the_error_of_a_mount_says_where_and_what():
    with pytest.raises(OSError, match="mount tmpfs none on /nowhere/at all: ") as caught:
        in_child(lambda: sys_.mount("none", "/nowhere/at all", "tmpfs", 0))

    assert caught.value.errno in {errno.ENOENT, errno.EPERM}


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda: sys_.unmount("/nowhere"), "unmount /nowhere: "),
        (lambda: sys_.setns(-1, 0), "setns: "),
        (lambda: sys_.prctl(-1), "prctl -1: "),
        (lambda: sys_.pivot_root("/nowhere", "/nowhere"), "pivot_root: "),
        (lambda: sys_.mount_setattr("/nowhere", 1), "mount_setattr: "),
        (lambda: sys_.unshare(1), "unshare: "),
    ],
)
def test_every_error_is_an_oserror_with_a_number(attempt, said):
    with pytest.raises(OSError, match=said) as caught:
        in_child(attempt)

    assert caught.value.errno


def test_integers_are_passed_as_wide_as_a_register():
    """As an int of C the upper half would be whatever was there before."""
    read, write = os.pipe()
    moved = sys_.call("fcntl", read, 0, 200)
    for fd in (read, write, moved):
        os.close(fd)

    assert 200 <= moved


def test_a_path_below_a_folder_is_opened_and_a_way_out_is_not(tmp_path):
    (tmp_path / "file").write_text("here")
    (tmp_path / "link").symlink_to("/etc/passwd")
    folder = os.open(tmp_path, os.O_RDONLY)
    strict = sys_.RESOLVE_BENEATH | sys_.RESOLVE_NO_SYMLINKS
    try:
        with open(sys_.openat2(folder, b"file", os.O_RDONLY, strict)) as file:
            assert file.read() == "here"
            assert not os.get_inheritable(file.fileno())
        for way, error in ((b"../x", errno.EXDEV), (b"/etc", errno.EXDEV), (b"link", errno.ELOOP)):
            with pytest.raises(OSError, match="openat2") as caught:
                sys_.openat2(folder, way, os.O_RDONLY, strict)

            assert error == caught.value.errno
    finally:
        os.close(folder)


def test_the_size_of_a_mounted_folder_can_be_changed_later(tmp_path):
    def resized():
        sys_.mount("space", str(tmp_path), "tmpfs", 0, "size=1m,nr_inodes=50")
        folder = os.open(tmp_path, os.O_RDONLY)
        sys_.resize(sys_.pick_filesystem(folder), size=3 * PAGE, inodes=7)
        found = os.fstatvfs(folder)
        return found.f_blocks * found.f_bsize, found.f_files

    assert (3 * PAGE, 7) == with_own_mounts(resized)


def test_a_folder_becomes_read_only_with_all_below_it(tmp_path):
    def sealed():
        sys_.mount("outer", str(tmp_path), "tmpfs", 0)
        inner = tmp_path / "inner"
        inner.mkdir()
        sys_.mount("inner", str(inner), "tmpfs", 0)
        sys_.mount_setattr(str(tmp_path), sys_.MOUNT_ATTR_RDONLY)
        flags = [os.statvfs(path).f_flag for path in (tmp_path, inner)]
        sys_.unmount(str(inner))
        return [flag & os.ST_RDONLY for flag in flags], os.statvfs(inner).f_flag & os.ST_NOSUID

    assert ([os.ST_RDONLY] * 2, 0) == with_own_mounts(sealed)


def test_capabilities_are_dropped_and_do_not_come_back():
    def dropped():
        if os.geteuid() == 0:
            sys_.drop_bounding(keep=1 << sys_.CAP_CHOWN)
        sys_.set_capabilities(0)
        return [int(status(field), 16) for field in ("CapEff", "CapPrm", "CapInh", "CapBnd")]

    *held, bounding = in_child(dropped)

    assert [0, 0, 0] == held
    assert os.geteuid() or bounding in {0, 1 << sys_.CAP_CHOWN}


def test_a_capability_above_the_thirty_second_is_set_too():
    """The kernel takes two words of 32."""
    high = 1 << 38
    if not int(status("CapPrm"), 16) & high:
        pytest.skip("this user does not have it")

    def kept():
        sys_.set_capabilities(high)
        return int(status("CapEff"), 16)

    assert high == in_child(kept)


def test_a_filter_holds_for_the_process_that_took_it():
    def filtered():
        sys_.prctl(sys_.PR_SET_NO_NEW_PRIVS, 1)
        sys_.seccomp(denying("umask", errno.EDOM))
        try:
            sys_.call("umask", 0)
        except OSError as exc:
            return status("Seccomp"), exc.errno
        return "not filtered", 0

    assert ("2", errno.EDOM) == in_child(filtered)


def test_a_filter_that_is_none_is_refused():
    def broken():
        sys_.prctl(sys_.PR_SET_NO_NEW_PRIVS, 1)
        sys_.seccomp(bytes(8))

    with pytest.raises(OSError, match="seccomp: Invalid argument"):
        in_child(broken)


def test_landlock_lets_through_what_its_rules_name_and_passes_over_what_is_missing(tmp_path):
    for name in ("allowed", "refused"):
        (tmp_path / name).write_text(name)
    read_file = 1 << 2

    def confined():
        sys_.prctl(sys_.PR_SET_NO_NEW_PRIVS, 1)
        rules = [(str(tmp_path / name), read_file) for name in ("missing", "allowed")]
        sys_.landlock(read_file, 0, 0, rules, 8, 0)
        try:
            return (tmp_path / "allowed").read_text(), (tmp_path / "refused").read_text()
        except PermissionError as exc:
            return exc.filename

    try:
        assert str(tmp_path / "refused") == in_child(confined)
    except OSError as exc:
        if exc.errno not in {errno.ENOSYS, errno.EOPNOTSUPP}:
            raise
        pytest.skip(str(exc))


def test_a_ruleset_that_cannot_be_had_leaves_no_descriptor():
    def refused():
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=r"landlock|not (supported|implemented)"):
            sys_.landlock(4, 0, 0, [("/", 1 << 60)], 8, 0)
        return set(os.listdir("/proc/self/fd")) - before

    assert set() == in_child(refused)


def test_every_descriptor_from_one_number_on_is_closed():
    def closed():
        null = os.open("/dev/null", os.O_RDONLY)
        for number in (300, 301, 500):
            os.dup2(null, number)
        sys_.close_range(300, 301)
        sys_.close_range(502, 501)  # nothing at all, and no error
        return [os.path.exists(f"/proc/self/fd/{number}") for number in (300, 301, 500)]

    assert [False, False, True] == in_child(closed)


def test_a_blocked_signal_makes_its_descriptor_readable():
    def told():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        fd = sys_.signal_descriptor(signal.SIGCHLD)
        quiet = select.select([fd], [], [], 0)[0]
        os.kill(os.getpid(), signal.SIGCHLD)
        heard = select.select([fd], [], [], 0)[0]
        return quiet, heard == [fd], os.get_inheritable(fd), os.get_blocking(fd)

    assert ([], True, False, False) == in_child(told)


def test_code_in_memory_can_be_run_and_no_longer_written():
    address = sys_.executable_memory(b"\xc3", room=PAGE)
    maps = Path("/proc/self/maps").read_text()
    rights = dict(re.findall(r"^([0-9a-f]+)-[0-9a-f]+ (\S+)", maps, re.MULTILINE))

    assert "r-xp" == rights[f"{address:x}"]
    assert "rw-p" == rights[f"{address + PAGE:x}"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the code below is for x86-64")
def test_a_child_runs_machine_code_and_no_python():
    """exit(21): its memory is ours, its end is its own."""
    code = bytes.fromhex("b83c000000bf150000000f05")
    address = sys_.executable_memory(code, room=PAGE)
    pid = sys_.clone_into(address, address + 2 * PAGE, sys_.CLONE_VM | signal.SIGCHLD)

    assert 21 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_memory_that_cannot_be_had_is_an_error():
    def greedy():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        sys_.private_memory(1 << 40)

    with pytest.raises(OSError, match="mmap: Cannot allocate memory"):
        in_child(greedy)


def test_what_c_holds_back_is_written_on_demand(tmp_path):
    code = """
import ctypes, os
from saggar.boundary import syscalls
ctypes.CDLL(None).printf(b"held back")
before = os.fstat(1).st_size
syscalls.flush_stdio()
assert (0, 9) == (before, os.fstat(1).st_size)
"""
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-I", "-c", code], stdout=out, check=True)

    assert "held back" == (tmp_path / "out").read_text()
