import contextlib
import os
import signal

import pytest
from tests.unit.child import in_child

from saggar.boundary import syscalls as sys_
from saggar.guest import survivors

UNUSED = 0x5A000000
"""Far above every id that somebody has; each test has some of its own."""


def waiting(before=bool):
    """A child that only waits, after `before`."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        before()
        os.write(told, b"r")
        while True:
            signal.pause()
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return pid


def alive(pid):
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    return False


def ended(pid):
    return -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def orphan():
    """A grandchild whose parent is dead, so that it is ours: deaf, in a session of its own."""
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()

        def deafen():
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)

        os.write(write, b"%d" % waiting(deafen))
        os._exit(0)
    os.waitpid(middle, 0)
    return int(os.read(read, 32))


@pytest.mark.root
def test_everything_of_one_user_id_is_killed_and_nothing_of_its_neighbour():
    one, other = UNUSED + os.getpid(), UNUSED + os.getpid() + (1 << 22)

    def killed():
        mine = [waiting(lambda: os.setresuid(one, one, one)) for _ in range(3)]
        theirs = waiting(lambda: os.setresuid(other, other, other))
        survivors.kill(one, spared=set())
        ends = [ended(pid) for pid in mine]
        spared = alive(theirs)
        os.kill(theirs, signal.SIGKILL)
        return ends, spared

    assert ([signal.SIGKILL] * 3, True) == in_child(killed)


@pytest.mark.root
def test_a_user_id_that_has_nothing_left_is_no_error():
    assert in_child(lambda: survivors.kill(UNUSED - 1, spared=set())) is None


def test_without_an_id_those_who_were_handed_to_us_are_killed_and_nobody_else():
    def killed():
        sys_.prctl(sys_.PR_SET_CHILD_SUBREAPER, 1)
        own = waiting()
        orphans = [orphan() for _ in range(2)]
        survivors.kill(0, spared={own})
        spared = alive(own)
        os.kill(own, signal.SIGKILL)
        return [os.path.exists(f"/proc/{pid}") for pid in orphans], spared

    assert ([False, False], True) == in_child(killed)


def test_nobody_left_is_nobody_to_kill():
    assert in_child(lambda: survivors.adopted(set())) is False


def test_a_folder_is_removed_whatever_a_guest_made_of_it(tmp_path):
    """Deeper than a path may be long, and with folders that even their owner cannot list."""
    folder = tmp_path / "of a guest"
    folder.mkdir()
    (folder / "-rf").write_text("")
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "kept").write_text("")
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("deeper", 0o700, dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (folder / "closed").mkdir()
    (folder / "closed" / "file").write_text("")
    (folder / "closed").chmod(0)

    def removed():
        survivors.remove(str(folder))
        (remover,) = survivors.removers
        return os.waitstatus_to_exitcode(os.waitpid(remover, 0)[1])

    assert 0 == in_child(removed)
    assert ["kept"] == [path.name for path in tmp_path.iterdir()]


def test_no_folder_is_nothing_to_remove():
    def removed():
        survivors.remove("")
        return survivors.removers

    assert set() == in_child(removed)
