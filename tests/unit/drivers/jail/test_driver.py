"""The jail driver: what it finds here, what it refuses, and where its children come from."""

import dataclasses
import gc
import os
import platform
import resource
import select
import signal
import tempfile
from contextlib import contextmanager

import anyio
import pytest
from tests.conftest import missing, readable_interpreter
from tests.unit.engine.fakes import eventually

from saggar.config import Settings
from saggar.drivers.jail import uids
from saggar.drivers.jail.cgroups import Cgroups
from saggar.drivers.jail.driver import JailDriver
from saggar.drivers.jail.recipes import RECIPES
from saggar.engine import oneshot
from saggar.errors import DriverUnavailable, SandboxBroken
from saggar.languages.python import Python
from saggar.model.event import afold
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.plan import Layer, WarmKey
from saggar.model.policy import Network, Policy, Rung
from saggar.model.task import Task

EVERYTHING = frozenset(LIMIT_NAMES)
JAIL = Policy(best_effort=EVERYTHING)
LANDLOCK = Policy(best_effort=EVERYTHING, isolation=Rung.LANDLOCK)
KEY = WarmKey(interpreter="", environment="")
NOWHERE = (("/usr", "/etc/hostname/below", True),)
"""A mount that a jail cannot be built with; without namespaces nothing is mounted."""


@pytest.fixture(scope="session")
def walls():
    """There are some here; or the test is left."""

    async def found():
        return await JailDriver().probe()

    capabilities = anyio.run(found)
    if capabilities.rung != Rung.JAIL:
        missing("; ".join(capabilities.reasons))


@pytest.fixture
def driver(walls):
    made = JailDriver()
    yield made
    made.close()


@pytest.fixture
async def weaker(driver):
    """The driver of a machine that has found no namespaces to be had."""
    found = await driver.probe()
    driver._capabilities = found.replace(rung=Rung.LANDLOCK)
    return driver


@pytest.fixture
def bare(walls, tmp_path):
    """The driver of a machine without control groups."""
    made = JailDriver()
    made._found = Cgroups.discover(proc=tmp_path)
    return made


@pytest.fixture(scope="session")
def readable():
    """A key whose interpreter can be read by anybody: without namespaces it has to be."""
    other = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    return WarmKey(interpreter=readable_interpreter(other), environment="", rung=Rung.LANDLOCK)


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def room_for(count):
    """Only so many descriptors more can be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(200) if not os.path.exists(f"/proc/self/fd/{number}")]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def result(process, code):
    """What comes of a program in this child."""
    task = Task.of(code)
    try:
        return await afold(oneshot.run(process, task, Python().plan(task), Limits()))
    finally:
        process.release()


async def test_what_is_found_is_what_holds(driver):
    found = await driver.probe()

    assert ("jail", True, Rung.JAIL, ()) == (
        found.driver,
        found.available,
        found.rung,
        found.reasons,
    )
    assert set(LIMIT_NAMES) == found.limits.keys()
    assert found.warm is driver.warm
    assert RECIPES.items() <= found.recipes.items()
    assert platform.release() == found.facts["kernel"]
    assert all(found.facts.values())


async def test_what_was_found_is_remembered(driver):
    found = await driver.probe()

    assert found is await driver.probe()


async def test_looking_leaves_nothing_behind(bare):
    before = open_descriptors()
    await bare.probe()

    assert before == open_descriptors()


async def test_without_a_cgroup_it_says_how_it_does_without(bare):
    found = await bare.probe()

    assert "every 50 ms" in found.limits["memory"].how
    assert "none that can be written" == found.facts["cgroups"]
    assert bare._found.recipes
    assert bare._found.recipes.items() <= found.recipes.items()


async def test_another_machine_has_no_walls_and_is_told_why(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    driver = JailDriver()
    found = await driver.probe()
    driver.close()

    assert (False, None, {}) == (found.available, found.rung, found.limits)
    assert ["its filters are written for x86_64 and aarch64, not s390x"] == [*found.reasons]
    assert found.why("memory")
    with pytest.raises(DriverUnavailable, match="jail cannot be had here: its filters"):
        async with driver.nursery(KEY, JAIL, ()):
            pass


@pytest.mark.parametrize("rung", [Rung.CONTAINER, Rung.GVISOR])
async def test_what_is_stronger_than_a_jail_is_refused(driver, rung):
    with pytest.raises(DriverUnavailable, match=f"reaches 'jail' at most, not '{rung.value}'"):
        async with driver.nursery(KEY, JAIL.replace(isolation=rung), ()):
            pass


async def test_the_strongest_walls_to_be_had_are_built_whatever_is_enough(driver):
    async with driver.nursery(KEY, LANDLOCK, ()) as nursery:
        process = await nursery.park()
        process.release()

    assert Rung.JAIL == process.isolation


async def test_what_is_enough_is_built_where_there_is_nothing_stronger(weaker, readable):
    key = dataclasses.replace(readable, mounts=NOWHERE)
    try:
        async with weaker.nursery(key, LANDLOCK, ()) as nursery:
            process = await nursery.park()
            process.release()
    except DriverUnavailable as exc:
        missing(str(exc))

    assert Rung.LANDLOCK == process.isolation


async def test_nothing_weaker_is_built_for_what_is_wrong_with_the_task(driver):
    key = dataclasses.replace(KEY, mounts=NOWHERE)
    with pytest.raises(SandboxBroken, match=r"holds here, but not for what .*: .*Error"):
        async with driver.nursery(key, LANDLOCK, ()):
            pass


async def test_a_preload_that_is_not_there_is_told_by_its_name(driver):
    key = dataclasses.replace(KEY, preload=("nonesuch",))
    with pytest.raises(SandboxBroken, match="cannot preload nonesuch: ModuleNotFoundError"):
        async with driver.nursery(key, JAIL, ()):
            pass


async def test_nothing_weaker_is_built_than_what_was_asked_for(weaker):
    key = dataclasses.replace(KEY, mounts=NOWHERE)
    message = r"cannot reach isolation 'jail' here: jail: FileExistsError: .*`saggar doctor`"
    with pytest.raises(DriverUnavailable, match=message) as told:
        async with weaker.nursery(key, JAIL, ()):
            pass

    assert "landlock" not in str(told.value)


async def test_where_several_walls_would_do_each_says_why_it_cannot_be_had(weaker):
    key = dataclasses.replace(KEY, mounts=NOWHERE, network=Network.LOOPBACK)
    message = "jail: FileExistsError: .*; landlock: a loopback of its own takes a network"
    with pytest.raises(DriverUnavailable, match=message):
        async with weaker.nursery(key, LANDLOCK, ()):
            pass


async def test_walls_that_could_not_be_built_leave_nothing_behind(bare):
    key = dataclasses.replace(KEY, mounts=NOWHERE, network=Network.LOOPBACK)
    await bare.probe()
    before = open_descriptors()
    with pytest.raises(SandboxBroken):
        async with bare.nursery(key, LANDLOCK, ()):
            pass

    assert before == open_descriptors()


async def test_a_limit_that_cannot_be_kept_is_refused_with_the_way_out(bare):
    policy = Policy(limits=Limits(cpu_share=0.5))
    message = r"cannot enforce here: cpu_share \(.*Policy\(best_effort=\{'cpu_share'\}\) would do"
    with pytest.raises(DriverUnavailable, match=message):
        async with bare.nursery(KEY, policy, ()):
            pass


async def test_a_limit_that_may_go_unkept_is_no_reason_to_refuse(bare):
    policy = Policy(limits=Limits(cpu_share=0.5), best_effort=frozenset({"cpu_share"}))
    async with bare.nursery(KEY, policy, ()) as nursery:
        assert "1\n" == (await result(await nursery.park(), "print(1)")).stdout


async def test_who_comes_later_is_asked_what_he_can_do_without_too(bare):
    """The server was opened for somebody who was content with less."""
    wanted = Policy(limits=Limits(cpu_share=0.5))
    async with bare.nursery(KEY, JAIL, ()) as nursery:
        nursery.admit(Policy())
        nursery.admit(wanted.replace(best_effort=frozenset({"cpu_share"})))
        for _ in range(2):
            with pytest.raises(DriverUnavailable, match="cannot enforce here: cpu_share"):
                nursery.admit(wanted)


async def test_the_child_that_proved_the_walls_is_the_first_to_be_used(driver):
    async with driver.nursery(KEY, JAIL, ()) as nursery:
        assert 1 == nursery.born
        first = await nursery.park()
        assert 1 == nursery.born
        second = await nursery.park(hurried=True)
        assert 2 == nursery.born
        assert first is not second
        first.release()
        second.release()


async def test_the_child_that_proved_the_walls_is_released_when_nobody_wants_it(bare):
    before = open_descriptors()
    async with bare.nursery(KEY, JAIL, ()) as nursery:
        ended = os.dup(nursery.first.exited)

    assert [ended] == select.select([ended], [], [], 0)[0]
    os.close(ended)
    assert before == open_descriptors()


async def test_a_nursery_whose_server_was_killed_parks_nobody(driver):
    async with driver.nursery(KEY, JAIL, ()) as nursery:
        (await nursery.park()).release()
        assert nursery.alive
        ended = os.pidfd_open(nursery._server.pid)
        os.kill(nursery._server.pid, signal.SIGKILL)
        with anyio.fail_after(5):
            await anyio.wait_readable(ended)
        os.close(ended)
        with anyio.fail_after(5), pytest.raises(SandboxBroken):
            await nursery.park()
        await eventually(lambda: not nursery.alive)


async def test_an_error_in_the_block_comes_out_as_it_is(driver):
    with pytest.raises(ZeroDivisionError):
        async with driver.nursery(KEY, JAIL, ()):
            raise ZeroDivisionError


async def test_modules_of_a_layer_are_found_inside(driver, tmp_path):
    (tmp_path / "greeting.py").write_text("WORD = 'hello'")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    layer = Layer(path=str(tmp_path), target="/opt/layers/greeting", python_path=True)
    async with driver.nursery(KEY, JAIL, (layer,)) as nursery:
        process = await nursery.park()
        assert ("/opt/layers/greeting",) == process.site
        ran = await result(process, "import greeting; print(greeting.WORD, greeting.__file__)")

    assert "hello /opt/layers/greeting/greeting.py\n" == ran.stdout


async def test_what_is_no_module_path_is_only_shown(driver, tmp_path):
    layer = Layer(path=str(tmp_path), target="/opt/layers/x")
    async with driver.nursery(KEY, JAIL, (layer,)) as nursery:
        process = await nursery.park()
        assert () == process.site
        process.release()


@pytest.mark.parametrize("count", [0, 4, 7, 8])
async def test_without_room_for_a_child_that_is_what_is_told_and_nothing_is_kept(bare, count):
    """Eight descriptors come with it, and one more is opened."""
    async with bare.nursery(KEY, JAIL, ()) as nursery:
        (await nursery.park()).release()
        before = open_descriptors()
        with room_for(count), pytest.raises(SandboxBroken):
            await nursery.park()
        gc.collect()
        assert before == open_descriptors()

        assert "1\n" == (await result(await nursery.park(), "print(1)")).stdout


async def test_without_room_for_a_server_it_is_the_machine_that_is_told_of(bare):
    """Trying again may help: it is not that such walls cannot be had here."""
    async with bare.nursery(KEY, JAIL, ()):
        pass  # everything is imported now
    for count in range(4):
        with room_for(count), pytest.raises(SandboxBroken):
            async with bare.nursery(KEY, JAIL, ()):
                pass


@pytest.mark.root
async def test_two_servers_have_no_user_id_in_common(driver):
    async with driver.nursery(KEY, JAIL, ()) as one, driver.nursery(KEY, JAIL, ()) as other:
        living = [await nursery.park() for nursery in (one, one, other)]
        found = [os.stat(f"/proc/self/fd/{process.work}").st_uid for process in living]
        for process in living:
            process.release()

    assert 3 == len(set(found))
    assert all(uid in uids.SPAN for uid in found)


@pytest.mark.root
async def test_a_lease_is_free_again_when_the_block_is_left(walls, tmp_path):
    driver = JailDriver(Settings(runtime_dir=tmp_path))
    async with driver.nursery(KEY, JAIL, ()):
        assert 0 == uids.sweep(tmp_path)

    assert 1 == uids.sweep(tmp_path)
    driver.close()


@pytest.mark.root
async def test_no_lease_to_be_had_is_said_with_its_reason(walls, tmp_path):
    (tmp_path / "uids").mkdir()
    (tmp_path / "uids").chmod(0o777)
    driver = JailDriver(Settings(runtime_dir=tmp_path))
    with pytest.raises(
        DriverUnavailable, match=r"needs user ids of its own: .*only root can write"
    ):
        async with driver.nursery(KEY, JAIL, ()):
            pass
    driver.close()


async def test_an_ordinary_user_has_no_ids_to_give_but_his_own(driver):
    if os.geteuid() == 0:
        pytest.skip("root has; the suites run as an ordinary user see this")
    async with driver.nursery(KEY, JAIL, ()) as nursery:
        process = await nursery.park()
        assert os.geteuid() == os.fstat(process.work).st_uid
        process.release()

    assert "the caller's own" == (await driver.probe()).facts["user ids"]


def test_a_sweep_says_what_there_was_of_each(walls, tmp_path, monkeypatch):
    runtime, temporary = tmp_path / "runtime", tmp_path / "temporary"
    (runtime / "uids").mkdir(parents=True)
    runtime.chmod(0o700)
    (runtime / "uids" / "2013265920.lock").touch()
    (temporary / "saggar-work-dead").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    driver = JailDriver(Settings(runtime_dir=runtime))
    found = driver.sweep()
    driver.close()

    assert {"cgroups", "leases", "folders"} == found.keys()
    assert (1, 1) == (found["leases"], found["folders"])
    assert [] == [*temporary.iterdir(), *(runtime / "uids").iterdir()]


def test_a_sweep_leaves_what_is_in_use(driver, readable):
    async def hold():
        try:
            async with driver.nursery(readable, LANDLOCK, ()) as nursery:
                process = await nursery.park()
                driver.sweep()
                return (await result(process, "print('well')")).stdout
        finally:
            driver.close()

    assert "well\n" == anyio.run(hold)


def test_what_was_never_used_can_be_closed():
    driver = JailDriver()
    driver.close()
    driver.close()


async def test_cgroups_are_kept_for_the_next_run_until_it_is_closed(driver):
    if not (await driver.probe()).facts["cgroups"].startswith("cgroup"):
        missing("no control group can be written")
    async with driver.nursery(KEY, JAIL, ()) as nursery:
        process = await nursery.park()
        folders = process._cgroup.folders
        await result(process, "")
        with anyio.fail_after(5):
            await process.wait()
    assert [True] * len(folders) == [*map(os.path.isdir, folders)]
    driver.close()

    assert [False] * len(folders) == [*map(os.path.isdir, folders)]


async def test_what_was_used_is_known_when_nothing_is_left_of_what_counted_it(driver):
    """Its first process may be killed for memory before anybody looks; its cgroup goes at once."""
    if not (await driver.probe()).facts["cgroups"].startswith("cgroup"):
        missing("no control group can be written")
    async with driver.nursery(KEY, JAIL, ()) as nursery:
        process, other = await nursery.park(), await nursery.park()
        before = process.first_read()
        process._cgroup._sound = False  # as one with memory that a dead process has sent away
        signal.pidfd_send_signal(process._handles.init, signal.SIGKILL)
        with anyio.fail_after(30):
            await process.wait()
        gone = not any(map(os.path.isdir, process._cgroup.folders))
        after, looked = process.first_read(), process.read()
        process.release()
        other.release()

    assert gone
    assert (before.cpu or 0) <= (after.cpu or 0)
    assert after.memory is not None
    assert 0 == looked.processes
