"""Landlock: the masks of every version, and what a confined child meets."""

import os
import signal
import socket
import stat
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import missing
from tests.unit.drivers.jail.confined import behind

from saggar.boundary import syscalls
from saggar.drivers.jail import landlock
from saggar.drivers.jail.landlock import abi, ruleset

NEWEST = 10
VERSIONS = range(1, NEWEST + 1)
NETWORKS = ("none", "loopback", "host")


@pytest.fixture
def version():
    if not abi():
        missing("Landlock is off; it is a kernel option (CONFIG_SECURITY_LANDLOCK, lsm=)")
    return abi()


@pytest.fixture
def folders(tmp_path):
    """One to read, with a file and a program, one to write, and a secret beside them."""
    for name in ("read", "write", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    program = tmp_path / "read" / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


def confined(rules):
    return lambda: syscalls.landlock(
        rules.handled_fs,
        rules.handled_net,
        rules.scoped,
        list(rules.rules),
        rules.size,
        rules.flags,
    )


def over(folders, version, network="none"):
    """The child's walls: those folders, the system's programs, one device."""
    system = [path for path in ("/usr", "/bin", "/lib", "/lib64") if os.path.exists(path)]
    return confined(
        ruleset(
            version,
            read=[str(folders / "read"), *system],
            write=[str(folders / "write")],
            devices=["/dev/null"],
            network=network,
        )
    )


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (1, (0x1FFF, 0, 0, (), 8, 0)),
        (2, (0x3FFF, 0, 0, (), 8, 0)),
        (3, (0x7FFF, 0, 0, (), 8, 0)),
        (4, (0x7FFF, 3, 0, (), 16, 0)),
        (5, (0xFFFF, 3, 0, (), 16, 0)),
        (6, (0xFFFF, 3, 3, (), 24, 0)),
        (7, (0xFFFF, 3, 3, (), 24, 5)),
        (8, (0xFFFF, 3, 3, (), 24, 5)),
        (9, (0x1FFFF, 3, 3, (), 24, 5)),
        (10, (0x1FFFF, 15, 3, (), 24, 5)),
        (99, (0x1FFFF, 15, 3, (), 24, 5)),
    ],
)
def test_each_version_is_asked_for_all_that_it_has(version, expected):
    """Rights to files, rights to ports, scopes, no rule; the size of their description, flags."""
    assert expected == ruleset(version, network="none")


@pytest.mark.parametrize(
    ("version", "read", "write", "device"),
    [(1, 0xD, 0x17BF, 0x6), (3, 0xD, 0x77BF, 0x6), (10, 0xD, 0x77BF, 0x6)],
)
def test_each_kind_of_path_gets_its_rights(version, read, write, device):
    found = ruleset(version, read=["/r"], write=["/w"], devices=["/d"], network="host")

    assert (("/r", read), ("/w", write), ("/d", device)) == found.rules


@pytest.mark.parametrize("network", ["loopback", "host"])
def test_ports_are_left_alone_where_there_is_a_network(network):
    assert 0 == ruleset(NEWEST, network=network).handled_net


@given(st.integers(1, 20), st.sampled_from(NETWORKS))
def test_no_rule_grants_what_is_not_handled(version, network):
    """The kernel refuses such a rule, and with it the whole wall."""
    found = ruleset(version, read=["/"], write=["/w"], devices=["/d"], network=network)

    assert all(rights and not rights & ~found.handled_fs for _, rights in found.rules)


@given(st.integers(1, 20))
def test_nobody_may_make_a_device_or_reach_a_socket_of_others(version):
    found = ruleset(version, read=["/"], write=["/"], devices=["/"], network="none")
    withheld = landlock.MAKE_CHAR | landlock.MAKE_BLOCK | landlock.RESOLVE_UNIX | landlock.IOCTL_DEV

    assert all(not rights & withheld for _, rights in found.rules)


def test_a_newer_version_never_takes_less_away():
    found = [ruleset(version, network="none") for version in VERSIONS]

    for older, newer in pairwise(found):
        assert 0 == older.handled_fs & ~newer.handled_fs
        assert 0 == older.handled_net & ~newer.handled_net
        assert 0 == older.scoped & ~newer.scoped


def test_the_kernel_takes_the_rules_of_every_version_up_to_its_own(version, folders):
    for older in range(1, version + 1):
        assert "ok" == behind(over(folders, older), (folders / "read" / "file").read_text)


def test_what_may_be_read_may_be_read_listed_and_executed(version, folders):
    def attempt():
        (folders / "read" / "file").read_text()
        os.listdir(folders / "read")
        os.execv(folders / "read" / "program", ["program"])

    assert "ok" == behind(over(folders, version), attempt)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda path: (path / "read" / "file").write_text("changed"),
        lambda path: (path / "read" / "new").touch(),
        lambda path: (path / "read" / "file").unlink(),
        lambda path: (path / "other" / "file").read_text(),
        lambda path: os.listdir(path / "other"),
        lambda path: os.listdir(path / "/"),
        lambda path: (path / "/proc/self/environ").read_bytes(),
        lambda path: os.link(path / "other" / "file", path / "write" / "link"),
        lambda path: os.mknod(path / "write" / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        lambda path: (path / "/dev/zero").open("rb"),
    ],
)
def test_everything_else_is_refused(version, folders, attempt):
    ended = behind(over(folders, version), lambda: attempt(folders))

    # EXDEV: a link that would take a file to where it may be more. EPERM: no root, no devices.
    assert ended in {"EACCES", "EXDEV", "EPERM"}
    assert "read" == (folders / "read" / "file").read_text()


def test_a_writable_folder_is_really_one(version, folders):
    """Every kind of thing but a device, moved, linked, cut off and removed again."""

    def attempt():
        home = folders / "write"
        (home / "file").write_text("longer than it was")
        os.truncate(home / "file", 1)
        (home / "below").mkdir()
        os.symlink("file", home / "symlink")
        os.mkfifo(home / "fifo")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.fspath(home / "socket"))
        if version >= 2:
            os.rename(home / "file", home / "below" / "file")
            os.link(home / "below" / "file", home / "link")
        for name in ("symlink", "fifo", "socket"):
            (home / name).unlink()

    assert "ok" == behind(over(folders, version), attempt)


def test_a_device_is_read_and_written_and_takes_no_ioctl(version, folders):
    def use():
        fd = os.open("/dev/null", os.O_RDWR)
        os.write(fd, b"gone")
        assert not os.read(fd, 1)
        assert not os.isatty(fd)

    assert "ok" == behind(over(folders, version), use)


def test_pipes_behind_the_standard_names_open_again(version, folders):
    """What `/dev/stdout` comes down to."""
    read_end, write_end = os.pipe()

    def attempt():
        os.write(os.open(f"/proc/self/fd/{write_end}", os.O_WRONLY), b"x")

    proc = ruleset(version, read=["/proc"], network="none")
    ended = behind(confined(proc), attempt)
    os.close(write_end)

    assert ("ok", b"x") == (ended, os.read(read_end, 2))
    os.close(read_end)


@pytest.mark.parametrize(("network", "expected"), [("none", "EACCES"), ("loopback", "ok")])
def test_a_port_is_bound_only_where_there_is_a_network(version, folders, network, expected):
    if version < 4:
        pytest.skip("Landlock knows ports from version 4 on")

    def attempt():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
            server.bind(("127.0.0.1", 0))

    assert expected == behind(over(folders, version, network), attempt)


def test_nobody_outside_is_signalled(version, folders):
    if version < 6:
        pytest.skip("Landlock knows scopes from version 6 on")

    def attempt():
        child = os.fork()
        if child == 0:
            signal.pause()
        os.kill(child, signal.SIGKILL)
        assert child == os.waitpid(child, 0)[0]
        os.kill(os.getppid(), 0)

    assert "EPERM" == behind(over(folders, version), attempt)


def test_abstract_sockets_of_others_are_out_of_reach_and_own_ones_are_not(version, folders):
    if version < 6:
        pytest.skip("Landlock knows scopes from version 6 on")
    name = f"\0saggar-test-{os.getpid()}"

    def attempt():
        with socket.socket(socket.AF_UNIX) as own, socket.socket(socket.AF_UNIX) as client:
            own.bind(name + "-own")
            own.listen()
            client.connect(name + "-own")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()

        assert "EPERM" == behind(over(folders, version), attempt)


def test_a_rule_may_name_a_file(version, folders):
    path = str(folders / "other" / "file")
    rules = ruleset(version, read=[path], network="none")

    assert "ok" == behind(confined(rules), lambda: os.close(os.open(path, os.O_RDONLY)))
