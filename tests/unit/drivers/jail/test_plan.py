"""From a policy to a mount table, on this host's own files."""

import os
import platform
from pathlib import Path

import pytest
from tests.unit.child import in_child

from saggar.boundary import syscalls as sys_
from saggar.boundary.wallplan import INNER_UID, Entry, WallPlan
from saggar.drivers.gpu import Passage
from saggar.drivers.interpreter import Interpreter, find
from saggar.drivers.jail import landlock, seccomp
from saggar.drivers.jail.plan import (
    CHILD_MOUNTS,
    DEVICES,
    ETC,
    RELOCATED,
    Ground,
    Ids,
    compile_plan,
    entries,
    environment_variables,
    executable_inside,
    may_mount,
    prefix_inside,
)
from saggar.errors import InvalidTask
from saggar.model.limits import Limits
from saggar.model.plan import Layer, WarmKey
from saggar.model.policy import Network, Rung

IDS = Ids(100_000, 200_000, 1024)


def python(prefix, *site, version=(3, 12, 1)):
    return Interpreter(f"{prefix}/bin/python3.12", prefix, version, site)


USR = python("/usr", "/usr/lib/python3/dist-packages")
HOME = python("/home/me/py", "/home/me/py/lib/python3.12/site-packages")


def key(**options):
    return WarmKey(interpreter="", environment="", **options)


def table(interpreter=USR, layers=(), **options):
    """Target to entry, of a plan's root."""
    return {entry.target: entry for entry in entries(key(**options), layers, interpreter)}


def compiled(interpreter=USR, layers=(), rung="jail", limits=None, **options) -> WallPlan:
    ground = Ground(rung, "/sys", IDS, memory_enforced=True, entrances=3)
    return compile_plan(key(**options), limits or Limits(), layers, interpreter, ground)


def sources(found, kind):
    return {target: entry.source for target, entry in found.items() if entry.kind == kind}


def test_the_hosts_usr_and_what_stands_beside_it_is_the_root():
    found = table()

    assert Entry("bind", "/usr", "/usr") == found["/usr"]
    for name in ("bin", "lib"):
        if os.path.islink(f"/{name}"):
            assert Entry("link", f"/{name}", f"usr/{name}") == found[f"/{name}"]
        else:
            assert Entry("bind", f"/{name}", f"/{name}") == found[f"/{name}"]


def test_an_interpreter_in_usr_needs_nothing_of_its_own():
    binds = sources(table(USR), "bind")

    assert {"/usr"} == {target for target in binds if target.startswith("/usr")}
    assert ("/usr", "/usr/bin/python3.12") == (prefix_inside(USR), executable_inside(USR))


def test_an_interpreter_in_a_home_brings_its_prefix_and_nothing_else_of_the_home():
    binds = sources(table(HOME), "bind")

    assert {"/home/me/py": "/home/me/py"} == {
        target: source for target, source in binds.items() if target.startswith("/home")
    }
    assert "/home/me/py/bin/python3.12" == executable_inside(HOME)


@pytest.mark.parametrize("place", CHILD_MOUNTS)
def test_an_interpreter_where_a_child_mounts_something_is_shown_elsewhere(place):
    hidden = python(f"{place}/py", f"{place}/py/lib/python3.12/site-packages")
    found = table(hidden)

    assert Entry("bind", RELOCATED, f"{place}/py") == found[RELOCATED]
    assert f"{RELOCATED}/bin/python3.12" == executable_inside(hidden)
    assert "hide" == found[f"{RELOCATED}/lib/python3.12/site-packages"].kind
    assert not any(target.startswith(f"{place}/py") for target in found)


def test_a_name_that_only_begins_like_one_of_these_places_stays_where_it_is():
    assert "/tmpfiles/py" == prefix_inside(python("/tmpfiles/py"))


def test_a_prefix_that_is_a_link_is_bound_by_its_real_name(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    linked = python(str(tmp_path / "link"))

    assert str(tmp_path / "real") in sources(table(linked), "bind").values()


def test_packages_of_other_people_are_hidden_wherever_they_come_along():
    hidden = {target for target, entry in table(HOME).items() if entry.kind == "hide"}

    assert {
        "/home/me/py/lib/python3.12/site-packages",
        "/usr/lib/python3/dist-packages",
        "/usr/local/lib/python3.12/dist-packages",
        "/usr/local/lib/python3.12/site-packages",
    } == hidden


def test_hiding_comes_after_what_brought_it_along_and_layers_after_that():
    layer = Layer(path="/", target="/opt/layer", python_path=True)
    order = [entry.target for entry in entries(key(), [layer], HOME)]

    assert order.index("/usr") < order.index("/usr/lib/python3/dist-packages")
    assert (
        order.index("/home/me/py")
        < order.index("/home/me/py/lib/python3.12/site-packages")
        < order.index("/opt/layer")
    )


def test_a_layer_is_bound_where_it_should_appear_and_found_by_python_if_it_says_so(tmp_path):
    layers = [
        Layer(path=str(tmp_path), target="/layers/a", python_path=True),
        Layer(path="/usr/share", target="/layers/b"),
    ]
    plan = compiled(layers=layers)

    assert {Entry("bind", "/layers/a", str(tmp_path)), Entry("bind", "/layers/b", "/usr/share")} < {
        *plan.entries
    }
    assert ("/layers/a",) == plan.site


def test_without_namespaces_a_layer_is_found_where_it_is_on_the_host(tmp_path):
    layers = [Layer(path=str(tmp_path), target="/layers/a", python_path=True)]

    assert (str(tmp_path),) == compiled(layers=layers, rung="landlock").site


def test_what_was_unpacked_for_this_system_lies_over_it(tmp_path):
    for name in ("usr/bin", "etc/pipe", "etc/alternatives", "etc/passwd"):
        (tmp_path / name).mkdir(parents=True)
    layer = Layer(path=str(tmp_path), target="/opt/system", system=True)
    found = list(entries(key(), [layer], HOME))
    order = [(entry.kind, entry.target) for entry in found]

    assert Entry("over", "/usr", str(tmp_path / "usr")) in found
    assert Entry("bind", "/etc/pipe", str(tmp_path / "etc/pipe")) in found
    assert (
        order.index(("bind", "/usr"))
        < order.index(("over", "/usr"))
        < order.index(("hide", "/usr/lib/python3/dist-packages"))
    )
    # What we say of users, and what the host chose among alternatives, stays as it is.
    assert str(tmp_path / "etc/passwd") not in {entry.source for entry in found}
    assert str(tmp_path / "etc/alternatives") not in {entry.source for entry in found}


def test_a_layer_tells_programs_where_it_is(tmp_path):
    layer = Layer(path=str(tmp_path), target="/opt/x", search=(("HF_HOME", ("",)),))

    assert "/opt/x" == dict(compiled(layers=[layer]).environment)["HF_HOME"]
    assert str(tmp_path) == dict(compiled(layers=[layer], rung="landlock").environment)["HF_HOME"]


def test_mounts_are_read_only_unless_they_are_shared(tmp_path):
    mounts = ((str(tmp_path), "/data", True), (str(tmp_path), "/out", False))
    found = table(mounts=mounts)

    assert Entry("bind", "/data", str(tmp_path)) == found["/data"]
    assert Entry("share", "/out", str(tmp_path)) == found["/out"]


@pytest.mark.parametrize("place", ["link", "link/below", "folder/../folder"])
def test_a_mount_whose_path_leads_through_a_link_is_refused(tmp_path, place):
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("folder")

    with pytest.raises(InvalidTask, match="leads through a link; name its real path"):
        table(mounts=((f"{tmp_path}/{place}", "/data", True),))


@pytest.mark.parametrize("inner", ["/data", "/data/inner"])
def test_a_mount_inside_another_one_is_refused(tmp_path, inner):
    mounts = ((str(tmp_path), "/data", True), ("/usr/share", inner, True))

    with pytest.raises(InvalidTask, match="inside another one"):
        table(mounts=mounts)


def test_mounts_beside_each_other_are_not_inside_each_other(tmp_path):
    mounts = ((str(tmp_path), "/data", True), (str(tmp_path), "/data2", True))

    assert {"/data", "/data2"} < table(mounts=mounts).keys()


@pytest.mark.parametrize(
    ("network", "seen"), [(Network.NONE, False), (Network.LOOPBACK, False), (Network.HOST, True)]
)
def test_the_hosts_network_brings_its_resolver(network, seen):
    if not Path("/etc/resolv.conf").exists():
        pytest.skip("this host has no resolver")

    assert seen is ("/etc/resolv.conf" in table(network=network))


def test_the_files_in_etc_are_ours_and_tell_of_nobody():
    files = sources(table(), "file")
    passwd = [line.split(":") for line in files["/etc/passwd"].splitlines()]

    assert {f"/etc/{name}": content for name, content in ETC.items()} == files
    assert [("root", "0"), ("sandbox", str(INNER_UID))] == [(line[0], line[2]) for line in passwd]
    assert all(7 == len(line) for line in passwd)
    assert "/etc/shadow" not in table()


def test_of_the_hosts_etc_only_real_files_are_shown():
    for target, source in sources(table(), "bind").items():
        if target.startswith("/etc/"):
            assert os.path.realpath(source) == source
            assert os.path.exists(source)


def test_devices_are_the_harmless_ones():
    assert {f"/dev/{name}" for name in DEVICES} == sources(table(), "device").keys()
    assert {"null", "zero", "full", "random", "urandom"} == set(DEVICES)


@pytest.fixture
def root(tmp_path):
    """A root directory of somebody's own, with an older layout."""
    for name in ("usr/bin", "lib", "etc/ssl/certs"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root/bin").symlink_to("/usr/bin")
    return tmp_path / "root"


def test_a_given_root_takes_the_place_of_the_hosts(root):
    found = table(root=str(root))

    assert Entry("bind", "/usr", str(root / "usr")) == found["/usr"]
    assert Entry("bind", "/lib", str(root / "lib")) == found["/lib"]
    assert Entry("link", "/bin", "usr/bin") == found["/bin"]
    assert Entry("bind", "/etc/ssl/certs", str(root / "etc/ssl/certs")) == found["/etc/ssl/certs"]
    assert {str(root / "usr"), str(root / "lib"), str(root / "etc/ssl/certs")} == set(
        sources(found, "bind").values()
    )


def test_a_link_in_a_given_root_does_not_lead_out_of_it(root):
    (root / "etc/ssl/certs").rmdir()
    (root / "etc/ssl/certs").symlink_to("/etc")

    assert "/etc/ssl/certs" not in table(root=str(root))


def test_a_given_root_that_is_a_link_is_refused(root, tmp_path):
    (tmp_path / "link").symlink_to("root")

    with pytest.raises(InvalidTask, match="leads, through a link; name real paths"):
        table(root=str(tmp_path / "link"))


def test_what_a_program_finds_in_its_environment():
    found = environment_variables("/home/me/py/bin/python3.12")

    assert found == {
        "HOME": "/work",
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "PATH": "/home/me/py/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TMPDIR": "/tmp",
    }
    assert "/usr/bin:/usr/local/bin:/bin" == environment_variables("/usr/bin/python3")["PATH"]


def test_a_plan_carries_what_it_was_made_of():
    limits = Limits(disk="5MiB", inodes=77)
    plan = compiled(limits=limits, network=Network.LOOPBACK, preload=("json",))

    assert (100_000, 200_000, 1024) == (plan.uid, plan.gid, plan.uids)
    assert (5 << 20, 77) == (plan.disk, plan.inodes)
    assert ("jail", "loopback", ("json",), 3) == (
        plan.rung,
        plan.network,
        plan.preload,
        plan.entrances,
    )
    assert "/usr/bin/python3.12" == plan.argv[0]
    assert dict(plan.environment)["HOME"] == "/work"
    assert vars(plan) == vars(WallPlan.decode(plan.encode()))


def test_without_namespaces_the_interpreter_is_called_as_the_host_calls_it():
    hidden = python("/tmp/py")

    assert "/tmp/py/bin/python3.12" == compiled(hidden, rung="landlock").argv[0]
    assert f"{RELOCATED}/bin/python3.12" == compiled(hidden).argv[0]


@pytest.mark.parametrize("rung", ["jail", "landlock"])
@pytest.mark.parametrize("network", [Network.NONE, Network.HOST])
def test_the_filters_are_those_of_this_rung_and_network(rung, network):
    machine = platform.machine()
    plan = compiled(rung=rung, network=network)

    assert seccomp.inner_filter(machine, network.value, rung) == plan.inner_filter
    assert seccomp.outer_filter(machine) == plan.outer_filter


def rules_of(**options):
    plan = compiled(**options)
    if plan.landlock is None:
        pytest.skip("this kernel has no Landlock")
    return dict(plan.landlock.rules)


def test_landlock_allows_writing_in_the_childs_own_folders_and_in_what_is_shared(tmp_path):
    mounts = ((str(tmp_path), "/data", True), (str(tmp_path), "/out", False))
    rules = rules_of(mounts=mounts)
    abi = landlock.abi()
    alone = dict(
        landlock.ruleset(abi, read=("/",), write=("/work",), devices=(), network="none").rules
    )

    assert {alone["/work"]} == {rules[path] for path in ("/tmp", "/work", "/dev/shm", "/out")}
    assert alone["/"] == rules["/"]
    assert "/data" not in rules


def test_without_namespaces_landlock_names_all_that_may_be_read(tmp_path):
    mounts = ((str(tmp_path), "/data", True),)
    rules = rules_of(rung="landlock", interpreter=HOME, mounts=mounts)

    assert {"/usr", "/home/me/py", str(tmp_path), "."} <= rules.keys()
    assert not {"/", "/home", "/home/me", "/etc", "/tmp", "/etc/resolv.conf"} & rules.keys()


def test_without_namespaces_names_are_resolved_only_on_the_hosts_network():
    rules = rules_of(rung="landlock", network=Network.HOST)

    assert {"/etc/resolv.conf", "/etc/hosts"} <= rules.keys()


def test_whether_we_may_mount_is_the_kernels_word():
    def with_only(mask):
        sys_.set_capabilities(mask)
        return may_mount()

    assert in_child(lambda: with_only(0)) is False
    if may_mount():
        assert in_child(lambda: with_only(1 << sys_.CAP_SYS_ADMIN)) is True


def test_every_rung_and_this_interpreter_make_a_plan():
    for rung in (Rung.JAIL, Rung.LANDLOCK):
        plan = compiled(find(None), rung=rung.value)

        assert plan.argv[0].endswith(os.path.basename(find(None).executable))


NO_GPU = compiled()
PASSAGE = Passage(
    cards=(),
    devices=("/dev/nvidia0", "/dev/nvidiactl"),
    libraries=(("/opt/nvidia/lib/libcuda.so.1", "/usr/lib/libcuda.so.550"),),
    folders=("/sys/module/nvidia",),
    links=(("/opt/nvidia/lib/libcuda.so", "libcuda.so.1"),),
)


def with_gpu(**options):
    ground = Ground("jail", "/sys", IDS, memory_enforced=True, entrances=3, gpu=PASSAGE)
    return compile_plan(key(gpu=1, **options), Limits(), (), USR, ground)


def test_a_gpu_is_its_devices_the_drivers_libraries_and_what_tells_of_it():
    assert {
        Entry("device", "/dev/nvidia0", "/dev/nvidia0"),
        Entry("device", "/dev/nvidiactl", "/dev/nvidiactl"),
        Entry("bind", "/opt/nvidia/lib/libcuda.so.1", "/usr/lib/libcuda.so.550"),
        Entry("bind", "/sys/module/nvidia", "/sys/module/nvidia"),
        Entry("link", "/opt/nvidia/lib/libcuda.so", "libcuda.so.1"),
    } == {*with_gpu().entries} - {*NO_GPU.entries}


def test_a_programs_linker_finds_the_drivers_libraries_and_those_of_layers_before_them():
    layer = Layer(path="/cache/x", target="/opt/x", search=(("LD_LIBRARY_PATH", ("lib",)),))
    ground = Ground("jail", "/sys", IDS, memory_enforced=True, entrances=3, gpu=PASSAGE)
    plan = compile_plan(key(gpu=1), Limits(), (layer,), USR, ground)

    assert "/opt/nvidia/lib" == dict(with_gpu().environment)["LD_LIBRARY_PATH"]
    assert "/opt/x/lib:/opt/nvidia/lib" == dict(plan.environment)["LD_LIBRARY_PATH"]
    assert "LD_LIBRARY_PATH" not in dict(NO_GPU.environment)


def test_without_namespaces_a_gpu_is_found_and_read_where_it_is_on_the_host():
    ground = Ground("landlock", "/sys", IDS, memory_enforced=True, entrances=3, gpu=PASSAGE)
    plan = compile_plan(key(gpu=1), Limits(), (), USR, ground)

    assert "/usr/lib" == dict(plan.environment)["LD_LIBRARY_PATH"]
    if plan.landlock is not None:
        found = set(dict(plan.landlock.rules))
        assert {"/usr/lib/libcuda.so.550", "/sys/module/nvidia", "/proc"} <= found
        assert {*PASSAGE.devices} <= found


def test_only_with_a_gpu_threads_are_named_and_devices_take_orders():
    if with_gpu().landlock is None:
        pytest.skip("this kernel has no Landlock")
    rules, plain = dict(with_gpu().landlock.rules), dict(NO_GPU.landlock.rules)
    orders = landlock.IOCTL_DEV if landlock.abi() >= 5 else 0

    assert with_gpu().names_threads
    assert not NO_GPU.names_threads
    assert {"/proc", *PASSAGE.devices} == rules.keys() - plain.keys()
    assert orders == rules["/dev/nvidia0"] & landlock.IOCTL_DEV
    assert not rules["/dev/null"] & landlock.IOCTL_DEV
    assert rules["/proc"] & landlock.WRITE_FILE
    assert not rules["/proc"] & (landlock.MAKE_REG | landlock.IOCTL_DEV)
