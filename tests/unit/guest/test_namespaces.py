import contextlib
import fcntl
import os
import socket
import struct

import pytest
from tests.unit.child import in_child, with_own_mounts

from saggar.boundary import syscalls as sys_
from saggar.guest.namespaces import IFF_UP, INNER, SIOCGIFFLAGS, Home, Networks

NAMES = sorted((INNER.keys() | {"net", "cgroup"}) - {"pid"})


def standing():
    """Which namespaces we are in; that of pids our children would be born in has no name yet."""
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMES}


def pid_of_a_child():
    """The number that a child has where it is born."""
    child = os.fork()
    if child == 0:
        os._exit(min(os.getpid(), 2))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def where_a_server_stands(work):
    """
    What `work` returns where every namespace belongs to whoever is there, as a fork server's do.

    An ordinary user would not get back into one of the machine's.
    """

    def moved():
        sys_.unshare(sum(INNER.values()) | sys_.CLONE_NEWNET)
        return in_child(work)  # born in the new namespace of pids

    return with_own_mounts(moved)


def test_home_is_left_for_namespaces_that_are_all_new_and_found_again():
    def there_and_back():
        home, before = Home("none"), standing()
        home.leave()
        away, first = standing(), pid_of_a_child()
        home.come_back()
        return before, away, first, standing(), pid_of_a_child()

    before, away, first, after, second = where_a_server_stands(there_and_back)

    assert (1, 2) == (first, second)
    assert before == after
    assert set(INNER) - {"pid"} == {name for name in NAMES if before[name] != away[name]}


def test_home_can_be_left_again_and_again():
    def often():
        home, before = Home("none"), standing()
        for _ in range(5):
            home.leave()
            assert before != standing()
            assert 1 == pid_of_a_child()
            home.come_back()
            assert before == standing()

    where_a_server_stands(often)


def test_home_brings_back_from_a_network_too():
    def joined():
        home, before = Home("none"), standing()
        networks = Networks("none")
        fd = networks.take()
        assert fd is not None
        sys_.setns(fd, sys_.CLONE_NEWNET)
        away = standing()["net"]
        home.come_back()
        return before["net"], away, standing()["net"]

    before, away, after = where_a_server_stands(joined)

    assert before == after != away


def network_of(fd):
    return os.fstat(fd).st_ino


def test_a_network_is_lent_to_one_at_a_time_and_lent_again():
    def lent():
        networks = Networks("none")
        one, other = networks.take(), networks.take()
        apart = network_of(one) != network_of(other)
        networks.give_back(one)
        again = networks.take()
        return apart, again == one

    assert (True, True) == with_own_mounts(lent)


def test_a_network_with_a_loopback_is_not_lent_twice():
    """It remembers the connections of whoever had it."""

    def lent():
        networks = Networks("loopback")
        one = networks.take()
        assert one is not None
        networks.give_back(one)
        with contextlib.suppress(OSError):
            os.fstat(one)
            return "still open"
        return "closed"

    assert "closed" == with_own_mounts(lent)


def test_the_hosts_network_is_nothing_to_join():
    networks = Networks("host")
    networks.give_back(networks.take())

    assert networks.take() is None


@pytest.mark.parametrize(("kind", "up"), [("none", False), ("loopback", True)])
def test_the_loopback_is_up_only_where_one_was_asked_for(kind, up):
    def looked():
        Networks(kind).take()  # which leaves us inside
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            answer = fcntl.ioctl(probe, SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
            return struct.unpack("16sH22x", answer)[1] & IFF_UP, "met"
        return struct.unpack("16sH22x", answer)[1] & IFF_UP, "refused"

    assert (int(up), "met" if up else "refused") == with_own_mounts(looked)


@pytest.mark.parametrize(("kind", "door"), [("host", set()), ("none", {"net"})])
def test_home_has_a_door_to_its_network_unless_that_is_the_hosts(kind, door):
    def doors():
        Home(kind)
        links = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                links.add(os.readlink(f"/proc/self/fd/{name}").partition(":[")[0])
        return links & {*INNER, "net"}

    assert set(INNER) | door == in_child(doors)
