"""A container on paper: what is asked of the engine for a policy."""

from typing import Any

from saggar.drivers.docker.engine import LABEL, Image
from saggar.drivers.docker.interior import Interior
from saggar.drivers.docker.spec import DOOR, Blueprint, writable
from saggar.model.limits import Limits
from saggar.model.plan import Layer, WarmKey
from saggar.model.policy import Network

IMAGE = Image(
    "some/image", "sha256:1", {"PATH": "/opt/bin", "LANG": "de"}, ("node", "x.js"), "/app"
)


def blueprint(**changes):
    values: dict[str, Any] = {
        "image": IMAGE,
        "interior": Interior(("/usr/bin/python3.13",), (3, 13)),
        "key": WarmKey("", ""),
        "limits": Limits(),
        "layers": (),
        "owner": "1.2.3.4",
        "runtime": "",
        "cores": 2,
    }
    return Blueprint(**(values | changes))


def host(**changes):
    return blueprint(**changes).container("/run/x")["HostConfig"]


def sources(**changes):
    return {mount["Target"]: mount for mount in host(**changes)["Mounts"]}


def test_it_is_closed_where_nothing_was_said():
    found = blueprint().container("/run/x")

    assert "1000:1000" == found["User"]
    assert {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "private",
    }.items() <= found["HostConfig"].items()


def test_nothing_that_can_be_used_up_is_without_a_number():
    limits = Limits(memory="100MiB", processes=7, cpu_share=0.5)

    assert {
        "Memory": 100 << 20,
        "MemorySwap": 100 << 20,
        "PidsLimit": 8,
        "NanoCpus": 500_000_000,
    }.items() <= host(limits=limits).items()


def test_more_cores_than_the_engine_has_are_all_of_them():
    assert 2e9 == host(limits=Limits(cpu_share=64))["NanoCpus"]


def test_all_that_can_be_written_is_one_disk_limit_together():
    places = writable(Limits(disk="64MiB", inodes=1000))
    options = [
        dict(part.partition("=")[::2] for part in text.split(",")) for text in places.values()
    ]

    assert {"/tmp", "/dev/shm"} == places.keys()
    assert 64 << 20 == sum(int(one["size"]) for one in options)
    assert 1000 == sum(int(one["nr_inodes"]) for one in options)


def test_its_output_never_passes_through_the_engine_and_it_is_removed_when_it_is_dead():
    assert {"LogConfig": {"Type": "none"}, "AutoRemove": True}.items() <= host().items()


def test_its_owner_is_on_its_label():
    assert {LABEL: "1.2.3.4"} == blueprint().container("/run/x")["Labels"]


def test_the_hosts_network_is_there_only_where_the_policy_grants_it():
    assert "none" == host(key=WarmKey("", "", network=Network.LOOPBACK))["NetworkMode"]
    assert "host" == host(key=WarmKey("", "", network=Network.HOST))["NetworkMode"]


def test_the_engines_own_runtime_is_left_to_it():
    assert "Runtime" not in host()
    assert "runsc" == host(runtime="runsc")["Runtime"]


def test_an_images_variables_stay_but_not_those_that_name_the_user():
    variables = blueprint(
        image=Image("i", "sha256:1", {"HOME": "/root", "LANG": "de", "A": "b"}, (), "/")
    ).environment()

    assert ("/tmp/work", "de", "b") == (variables["HOME"], variables["LANG"], variables["A"])


def test_the_door_the_interpreter_and_layers_are_mounted_read_only(tmp_path):
    layer = Layer(path=str(tmp_path), target="/opt/layer")
    found = sources(
        layers=(layer,), interior=Interior(("/x",), (3, 11), (("/usr", "/opt/saggar/python"),))
    )

    assert {DOOR, "/opt/layer", "/opt/saggar/python"} == found.keys()
    assert all(mount["ReadOnly"] for mount in found.values())


def test_a_mount_is_writable_only_where_it_was_asked_to_be(tmp_path):
    mounts = ((str(tmp_path), "/a", True), (str(tmp_path), "/b", False))
    found = sources(key=WarmKey("", "", mounts=mounts))

    assert (True, False) == (found["/a"]["ReadOnly"], found["/b"]["ReadOnly"])


def test_nothing_below_a_read_only_mount_is_mounted_along():
    found = sources(key=WarmKey("", "", mounts=(("/usr", "/a", True),)))

    assert found["/a"]["BindOptions"]["NonRecursive"]


def test_what_steers_an_interpreter_is_not_for_pid_1_but_for_the_program():
    said = {"LD_PRELOAD": "/x.so", "PYTHONHOME": "/x", "GLIBC_TUNABLES": "y", "A": "b"}
    found = blueprint(image=Image("i", "sha256:1", said, (), "/"))

    assert {"LD_PRELOAD=", "PYTHONHOME=", "GLIBC_TUNABLES=", "A=b"} <= {
        *found.container("/run/x")["Env"]
    }
    assert said.items() <= found.environment().items()


def test_gpus_are_asked_of_the_engine_to_compute_and_only_where_the_policy_has_some():
    assert [
        {"Driver": "nvidia", "Count": 2, "Capabilities": [["gpu", "compute", "utility"]]}
    ] == host(key=WarmKey("", "", gpu=2))["DeviceRequests"]
    assert "DeviceRequests" not in host()
