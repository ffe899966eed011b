import pytest

from saggar.drivers.docker.engine import SEEN
from saggar.drivers.docker.promises import facts, promises, without_gpu
from saggar.drivers.gpu import look
from saggar.errors import DriverUnavailable
from saggar.model.limits import LIMIT_NAMES
from saggar.model.policy import Policy, Rung

ABLE = {
    "MemoryLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "CgroupVersion": "2",
    "Version": "28.2.2",
    "KernelVersion": "6.1",
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
    "Runtimes": {"runc": {}, "runsc": {}},
    "Driver": "overlay2",
}


def test_every_limit_is_kept_by_something_where_the_engine_can_limit_all():
    found = promises(ABLE, "").limits

    assert set(LIMIT_NAMES) == found.keys()
    assert all(support.enforced and support.how for support in found.values())
    assert "cgroup, version 2" in found["memory"].how


def test_a_limit_that_the_engine_cannot_keep_is_refused_by_name():
    without = promises({**ABLE, "PidsLimit": False}, "")

    with pytest.raises(DriverUnavailable, match="cannot enforce processes here"):
        without.admit(Policy())
    without.admit(Policy(best_effort={"processes"}))


def test_a_container_is_no_user_space_kernel():
    promises(ABLE, "").admit(Policy(isolation="container"))
    with pytest.raises(DriverUnavailable, match="reaches 'container' at most, not 'gvisor'"):
        promises(ABLE, "").admit(Policy(isolation="gvisor"))


@pytest.mark.parametrize("runtime", ["runsc", "runsc-kvm"])
def test_gvisors_runtime_is_a_rung_of_its_own(runtime):
    assert Rung.GVISOR is promises(ABLE, runtime).rung


def test_an_engine_is_described_by_what_matters_for_its_walls():
    found = facts(ABLE)

    assert {
        "engine": "28.2.2",
        "rootless": "yes",
        "cgroups": "version 2",
        "runtimes": "runc, runsc",
        "storage": "overlay2",
    }.items() <= found.items()


def test_an_engine_that_says_nothing_of_itself_is_described_as_that():
    assert "?" == facts({})["engine"]


def test_where_its_processes_have_no_number_here_nobody_looks_at_their_processor_time():
    found = promises({**ABLE, SEEN: False}, "")

    assert not found.limits["cpu"].enforced
    with pytest.raises(DriverUnavailable, match=r"cannot enforce cpu here: .*pid namespace"):
        found.admit(Policy(isolation=Rung.CONTAINER))


@pytest.mark.parametrize(
    "about",
    [
        {"Runtimes": {"runc": {}, "nvidia": {"path": "nvidia-container-runtime"}}},
        {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]},
    ],
)
def test_an_engine_that_names_gpus_may_give_some(about):
    assert not without_gpu(about)


def test_an_engine_without_any_on_a_machine_without_any_is_asked_for_none():
    if look().nodes:
        pytest.skip("this machine has a GPU")

    assert "nvidia-container-toolkit" in without_gpu({"Runtimes": {"runc": {}}})
    assert facts({})["gpu"].startswith("none: there is no /dev/nvidiactl")
