"""What comes in, with real processes and real files, and none of it from a container."""

import os
import socket
import subprocess

import pytest

from saggar.boundary import control as ctl
from saggar.drivers.docker.arrival import DESCRIPTORS, check, compare, hear, held, number_of, vouch
from saggar.errors import InvalidTask, SandboxBroken


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def me():
    fd = os.pidfd_open(os.getpid())
    yield fd
    os.close(fd)


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_a_source_that_leads_through_a_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/etc")

    with pytest.raises(InvalidTask, match="leads through a link"):
        check([(str(tmp_path / "link"), "/a", True)])


def test_a_source_that_becomes_a_link_after_the_look_at_it_is_not_opened(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("/etc")
    monkeypatch.setattr(os.path, "realpath", str)

    with pytest.raises(InvalidTask, match="cannot be opened"):
        check([(str(tmp_path / "link"), "/a", True)])


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidTask, match=r"cannot be opened: .*No such file"):
        check([(str(tmp_path / "none"), "/a", True)])


def test_something_else_than_what_was_opened_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    mounts = [(str(tmp_path / "a"), "/m", True)]
    other = [(str(tmp_path / "b"), "/m", True)]
    with held(mounts) as meant, held(mounts) as same, held(other) as different:
        compare(mounts, meant, same)
        with pytest.raises(SandboxBroken, match=r"at '/m' the engine mounted something else"):
            compare(mounts, meant, different)


def test_we_are_never_taken_for_the_containers_process(pair, me):
    with pytest.raises(SandboxBroken, match="somebody else's process"):
        vouch(pair[0], me, me)


def test_another_process_of_this_machine_is_not_taken_either(pair, me):
    with subprocess.Popen(["sleep", "60"]) as process:
        other = os.pidfd_open(process.pid)
        try:
            with pytest.raises(SandboxBroken, match="somebody else's process"):
                vouch(pair[0], me, other)
            with pytest.raises(SandboxBroken, match="somebody else's process"):
                vouch(pair[0], other, other)
        finally:
            os.close(other)
            process.kill()


def test_what_is_no_process_is_refused(pair):
    with open("/dev/null", "rb") as file:
        assert number_of(file.fileno()) is None
        with pytest.raises(SandboxBroken, match="no process"):
            vouch(pair[0], file.fileno(), file.fileno())


def test_what_was_sent_by_a_liar_is_closed(pair, me):
    ours, theirs = pair
    before = open_descriptors()
    socket.send_fds(theirs, [ctl.pack(ctl.PARKED, 0)], [me] * DESCRIPTORS)

    with pytest.raises(SandboxBroken, match="somebody else's process"):
        hear(ours)

    assert before == open_descriptors()


def test_who_sends_too_much_is_refused_and_nothing_stays_open(pair, me):
    ours, theirs = pair
    before = open_descriptors()
    socket.send_fds(theirs, [ctl.pack(ctl.PARKED, 0)], [me] * 60)

    with pytest.raises(SandboxBroken, match="no descriptors left"):
        hear(ours)

    assert before == open_descriptors()
