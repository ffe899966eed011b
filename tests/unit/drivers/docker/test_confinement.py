"""What a container's child takes from itself: here, on a child of the one who tests."""

import platform

import pytest
from tests.unit.drivers.jail.confined import judge

from saggar.boundary.wallplan import Landlock
from saggar.drivers.docker.confinement import DEVICES, NONE, Landlocked, confinement
from saggar.drivers.jail import landlock, seccomp
from saggar.model.plan import WarmKey
from saggar.model.policy import Network

WRITE_FILE = 1 << 1
UNIX, INTERNET, STREAM, DATAGRAM = 1, 2, 1, 2


def allowed(call, network, family, kind):
    decision = seccomp.inner_policy(network, "container")[call]
    return seccomp.ALLOW == judge(decision, {16: family, 24: kind, 32: 0})


@pytest.mark.parametrize("network", ["none", "loopback"])
def test_sockets_with_names_are_the_containers_own(network):
    assert allowed("socket", network, UNIX, STREAM)


def test_with_the_hosts_network_there_are_no_sockets_with_names():
    assert allowed("socket", "host", INTERNET, STREAM)
    assert not allowed("socket", "host", UNIX, STREAM)
    assert allowed("socketpair", "host", UNIX, STREAM)
    assert not allowed("socketpair", "host", UNIX, DATAGRAM)


def test_a_filter_is_there_for_every_network():
    filters = {confinement(WarmKey("", "", network=one))["filter"] for one in Network}

    assert len(Network) == len(filters)
    assert seccomp.inner_filter(platform.machine(), "none", "container") in filters


@pytest.mark.skipif(not landlock.abi(), reason="no Landlock in this kernel")
def test_files_are_written_to_where_something_is_to_be_written_and_nowhere_else():
    mounts = (("/a", "/fixed", True), ("/b", "/shared", False))
    taken = Landlock(*confinement(WarmKey("", "", mounts=mounts))["landlock"])
    writable = {path for path, rights in taken.rules if rights & WRITE_FILE}

    assert {"/tmp", "/dev/shm", "/shared"} == writable - {f"/dev/{name}" for name in DEVICES}


ENGINE = {"ID": "AAAA", "Version": "20.10.24", "KernelVersion": "6.1", "Name": "here"}


@pytest.fixture
def landlock_here(monkeypatch):
    monkeypatch.setattr(landlock, "abi", lambda: 7)


@pytest.mark.usefixtures("landlock_here")
def test_what_a_trial_found_is_known_to_whoever_comes_next(tmp_path):
    first = Landlocked(tmp_path, ENGINE, "")

    assert first.refusal is None
    first.learn("")
    again = Landlocked(tmp_path, {**ENGINE, "Name": "there"}, "")
    assert not again.refusal
    assert again.refusal is not None
    assert "version 7, in every container" == again.fact()


@pytest.mark.usefixtures("landlock_here")
@pytest.mark.parametrize("change", [{"Version": "28.2"}, {"KernelVersion": "6.12"}, {"ID": "B"}])
def test_another_engine_is_tried_again(tmp_path, change):
    Landlocked(tmp_path, ENGINE, "").learn("refused")

    assert "refused" == Landlocked(tmp_path, ENGINE, "").fact()
    assert Landlocked(tmp_path, {**ENGINE, **change}, "").refusal is None
    assert Landlocked(tmp_path, ENGINE, "runsc").refusal is None


def test_where_the_kernel_has_none_nothing_is_tried(monkeypatch, tmp_path):
    monkeypatch.setattr(landlock, "abi", lambda: 0)

    assert NONE == Landlocked(tmp_path, ENGINE, "").refusal
    assert confinement(WarmKey("", ""))["landlock"] is None


@pytest.mark.usefixtures("landlock_here")
def test_only_with_gpus_their_devices_take_orders_and_threads_can_be_named():
    def rules(**said):
        return dict(Landlock(*confinement(WarmKey("", "", **said))["landlock"]).rules)

    with_one, without = rules(gpu=1), rules()

    assert with_one["/dev/nvidia0"] & landlock.IOCTL_DEV
    assert not with_one["/dev/null"] & landlock.IOCTL_DEV
    assert with_one["/proc"] & WRITE_FILE
    assert not {"/proc", "/dev/nvidia0", "/dev/nvidiactl"} & without.keys()
