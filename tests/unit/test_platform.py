"""The way in for every door. Most of it with the driver that every machine has."""

import os
import resource
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
from tests.unit.child import in_child
from tests.unit.engine.fakes import FakeDriver

import saggar
from saggar import platform as module
from saggar.config import Settings
from saggar.drivers.process import ProcessDriver
from saggar.errors import (
    DriverUnavailable,
    InvalidTask,
    NotFound,
    Overloaded,
    PlatformError,
    PolicyDenied,
    SandboxBroken,
    UsageError,
)
from saggar.model.environment import Environment, Mount
from saggar.model.event import Finished, Output, Started, fold
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.plan import Layer
from saggar.model.policy import Network, Policy, Rung
from saggar.model.program import Command
from saggar.model.result import Status
from saggar.model.task import Task
from saggar.platform import Platform, _around_compiler

OPEN = Policy(
    isolation=Rung.PROCESS,
    network=Network.HOST,
    best_effort=frozenset(LIMIT_NAMES),
    limits=Limits(),
)
"""What a driver without walls can promise."""
HERE: dict[str, Any] = {"driver": "process", "policy": OPEN}
FOREVER = "import os, signal\nprint(os.getpid(), flush=True)\nwhile True: signal.pause()"


class Played(FakeDriver):
    """A driver whose children run nothing, and that may be closed."""

    def __init__(self):
        super().__init__()
        self.closed = []

    def close(self):
        self.closed.append(len(self.open))


class Unlucky(ProcessDriver):
    """The real one, whose first children die before anybody gives them an order."""

    def __init__(self, deaths):
        super().__init__()
        self.deaths = deaths
        self.parked = 0

    @asynccontextmanager
    async def nursery(self, key, policy, layers):
        async with super().nursery(key, policy, layers) as nursery:
            yield Cursed(nursery, self)


class Cursed:
    """Its nursery."""

    def __init__(self, nursery, driver):
        self._nursery, self._driver = nursery, driver

    def __getattr__(self, name):
        return getattr(self._nursery, name)

    async def park(self, *, hurried=False):
        process = await self._nursery.park(hurried=hurried)
        self._driver.parked += 1
        if self._driver.parked <= self._driver.deaths:
            ended = os.dup(process.exited)  # the driver itself waits for the other one
            process.kill()
            await anyio.wait_readable(ended)
            os.close(ended)
        return process


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Folders of its own, for whatever is kept."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return Settings(cache_dir=tmp_path / "cache", runtime_dir=tmp_path / "runtime")


@pytest.fixture
async def platform(settings):
    async with Platform(settings) as made:
        yield made


@pytest.fixture
def played(platform):
    """A driver by the name of "played"."""
    platform._drivers["played"] = driver = Played()
    return driver


@pytest.fixture
def alone():
    """No platform of this process's own, before and after."""
    module._stop()
    yield
    module._stop()
    module._forget()


@contextmanager
def no_room():
    """Not one descriptor more can be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.dup(0)
    os.close(first)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def dead(pid):
    """Until this process, which may be nobody's any more, has come to its end."""
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with anyio.fail_after(5):
        await anyio.wait_readable(ended)
    os.close(ended)


async def test_a_program_is_run_and_its_result_comes_back(platform):
    result = await platform.run("print(6 * 7)\n6 * 7", want_value=True, **HERE)

    assert (Status.OK, "42\n", 42) == (result.status, result.stdout, result.value)
    assert "process" == result.isolation


async def test_a_command_is_run_as_one(platform):
    result = await platform.run(Command(argv=("echo", "hello")), **HERE)

    assert "hello\n" == result.stdout


async def test_a_whole_task_is_run_as_it_is(platform):
    task = Task.of("import sys; print(sys.argv[1:], input())", args=("a", "b"), stdin="c")

    assert "['a', 'b'] c\n" == (await platform.run(task, **HERE)).stdout


async def test_what_happens_is_told_in_its_order_and_adds_up_to_the_result(platform):
    code = "import sys\nprint('a', flush=True)\nprint('b', flush=True)\nsys.exit(3)"
    events = [event async for event in platform.events(code, **HERE)]

    assert (Started, Finished) == (type(events[0]), type(events[-1]))
    assert {Output} == {type(event) for event in events[1:-1]}
    assert b"a\nb\n" == b"".join(event.data for event in events[1:-1])
    assert ("a\nb\n", 3) == (fold(events).stdout, fold(events).exit_code)


async def test_output_is_told_while_the_program_runs(platform):
    code = "import sys\nprint('name?', flush=True)\nsys.stdout.write(open(sys.argv[1]).read())"
    read, write = os.pipe()
    heard = b""
    path = f"/proc/{os.getpid()}/fd/{read}"
    async for event in platform.events(code, args=(path,), **HERE):
        if isinstance(event, Output):
            heard += event.data
            if heard == b"name?\n":
                os.write(write, b"saggar")
                os.close(write)
    os.close(read)

    assert b"name?\nsaggar" == heard


async def test_nothing_happens_before_somebody_listens(platform):
    async with aclosing(platform.events("1", driver="nobody")) as events:
        with pytest.raises(NotFound):
            await anext(events)


async def test_who_stops_listening_ends_the_program(platform):
    async with aclosing(platform.events(FOREVER, **HERE)) as events:
        async for event in events:
            if isinstance(event, Output):
                break
    await dead(int(event.data))

    assert "well\n" == (await platform.run("print('well')", **HERE)).stdout


async def test_who_is_cancelled_ends_the_program(platform):
    read, write = os.pipe()
    code = (
        "import os, signal, sys\n"
        "os.write(os.open(sys.argv[1], os.O_WRONLY), str(os.getpid()).encode())\n"
        "while True: signal.pause()"
    )
    async with anyio.create_task_group() as tasks:
        path = f"/proc/{os.getpid()}/fd/{write}"
        tasks.start_soon(lambda: platform.run(code, args=(path,), **HERE))
        with anyio.fail_after(10):
            await anyio.wait_readable(read)
        tasks.cancel_scope.cancel()
    await dead(int(os.read(read, 100)))
    os.close(read)
    os.close(write)

    assert "well\n" == (await platform.run("print('well')", **HERE)).stdout


async def test_runs_beside_each_other_get_their_own_answers(platform):
    found = {}

    async def one(number):
        found[number] = (await platform.run(f"print({number})", **HERE)).stdout

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(one, number)

    assert {number: f"{number}\n" for number in range(5)} == found


async def test_who_leaves_the_platform_ends_what_runs_there(settings):
    read, write = os.pipe()
    code = f"import os, signal\nos.write(os.open('/proc/{os.getpid()}/fd/{write}', os.O_WRONLY)"
    code += ", str(os.getpid()).encode())\nwhile True: signal.pause()"
    with anyio.CancelScope() as scope:
        async with Platform(settings) as platform, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: platform.run(code, **HERE))
            with anyio.fail_after(10):
                await anyio.wait_readable(read)
            scope.cancel()
    await dead(int(os.read(read, 100)))
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"driver": "jial"}, NotFound, r"no driver named 'jial'.*did you mean 'jail'\?"),
        ({"language": "pyton"}, NotFound, r"no language named 'pyton'.*did you mean 'python'\?"),
        ({"limits": {"wal": 1}}, InvalidTask, r"no field named 'wal'; did you mean 'wall'\?"),
        ({"limits": {"wall": "soon"}}, InvalidTask, r"limits\.wall: .*'soon'"),
        ({"files": {"../up": b""}}, InvalidTask, r"\.\./up"),
        ({"environment": Environment(root="/srv")}, PolicyDenied, r"environment\.root: /srv"),
        ({"policy": Policy(accept={"named"})}, PolicyDenied, r"program\.code\.kind: inline"),
        ({"policy": 3}, InvalidTask, "policy: wanted a saggar.Policy, found 3"),
        ({"limits": 3}, InvalidTask, "limits: wanted .*, found 3"),
        ({"timeout": 3}, InvalidTask, "timeout is a limit: limits={'wall': 3}"),
        ({"memory": "1MiB"}, InvalidTask, "memory is a limit: limits={'memory': '1MiB'}"),
        ({"colect": "*"}, NotFound, r"no option named 'colect'.*did you mean 'collect'\?"),
    ],
)
async def test_what_does_not_exist_or_is_not_allowed_is_refused_by_name(
    platform, options, error, said
):
    with pytest.raises(error, match=said):
        await platform.run("print(1)", **{**HERE, **options})
    with pytest.raises(error, match=said):
        async for _ in platform.events("print(1)", **{**HERE, **options}):
            pass


async def test_no_weaker_wall_is_taken_than_was_asked_for(platform):
    with pytest.raises(DriverUnavailable, match="process"):
        await platform.run("print(1)", driver="process")


@pytest.mark.parametrize("limits", [Limits(output=8), {"output": 8}], ids=type)
async def test_limits_may_be_said_beside_the_policy(platform, limits):
    result = await platform.run("print('x' * 100)", limits=limits, **HERE)

    assert (Status.OUTPUT, "x" * 8) == (result.status, result.stdout)


async def test_nobody_gets_more_than_the_operator_allows(settings):
    ceiling = OPEN.replace(limits=Limits(output=8))
    async with Platform(settings.replace(ceiling=ceiling, driver="process")) as platform:
        wanted = OPEN.replace(limits=Limits(output=1000))
        result = await platform.run("print('x' * 100)", policy=wanted)

    assert (Status.OUTPUT, "x" * 8) == (result.status, result.stdout)


async def test_where_there_is_an_operator_he_says_what_may_be_preloaded(settings):
    bare = Environment(preload=("json", "csv"))
    operated = settings.replace(ceiling=OPEN, preload=("json",))
    async with Platform(operated) as platform:
        with pytest.raises(PolicyDenied, match=r"csv is not on the operator's list"):
            await platform.run("print(1)", environment=bare, **HERE)
    async with Platform(settings) as platform:
        assert (await platform.run("print(1)", environment=bare, **HERE)).ok


async def test_a_platform_without_room_says_so_and_when_to_come_again(platform, played):
    played.troubles = [Overloaded("every block is taken", retry_after=1.5)]
    with pytest.raises(Overloaded, match="every block is taken") as told:
        await platform.run("print(1)", driver="played")

    assert 1.5 == told.value.retry_after
    assert 1 == len(played.keys)


async def test_a_child_refused_for_want_of_room_is_not_asked_for_again(platform, played):
    played.curses = [Overloaded("no more requests", retry_after=0.1)]
    with pytest.raises(Overloaded):
        await platform.run("print(1)", driver="played")

    assert 1 == played.nurseries[0].born


async def test_what_the_machine_lacks_is_ours_to_tell(platform, played):
    played.troubles = [OSError(24, "Too many open files")]
    with pytest.raises(PlatformError, match=r"no room for a run now: .*Too many open files"):
        await platform.run("print(1)", driver="played")


async def test_walls_that_break_are_tried_again_but_not_for_ever(platform, played):
    played.troubles = [SandboxBroken(f"broken {number}") for number in range(20)]
    with pytest.raises(SandboxBroken, match="broken 2"):
        await platform.run("print(1)", driver="played")

    assert module.TRIES == len(played.keys)


async def test_a_child_that_dies_before_its_order_is_replaced(platform):
    platform._drivers["unlucky"] = driver = Unlucky(deaths=2)
    events = [event async for event in platform.events("print(1)", driver="unlucky", policy=OPEN)]

    assert 3 == driver.parked
    assert [Started, Output, Finished] == [type(event) for event in events]
    assert "1\n" == fold(events).stdout


async def test_who_has_only_such_children_is_told(platform):
    platform._drivers["unlucky"] = driver = Unlucky(deaths=99)
    with pytest.raises(SandboxBroken, match="did not answer as it was built to"):
        await platform.run("print(1)", driver="unlucky", policy=OPEN)

    assert module.TRIES == driver.parked


async def test_a_program_that_kills_itself_is_not_run_twice(platform, tmp_path):
    code = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\nimport os; os.kill(os.getpid(), 9)"
    result = await platform.run(code, **HERE)

    assert (Status.KILLED, "SIGKILL") == (result.status, result.signal)
    assert "x" == (tmp_path / "runs").read_text()


async def test_a_driver_is_closed_when_nothing_of_it_is_open_any_more(settings):
    async with Platform(settings) as platform:
        driver: Any = Played()
        platform._drivers["played"] = driver
        with pytest.raises(AttributeError):
            await platform.run("print(1)", driver="played")  # its children are none
        assert 1 == len(driver.open)

    assert [0] == driver.closed


async def test_what_each_driver_can_do_here_is_asked_of_it(platform):
    found = await platform.probe()

    assert {"jail", "process"} <= found.keys()
    assert all(name == each.driver for name, each in found.items())
    assert (True, Rung.PROCESS) == (found["process"].available, found["process"].rung)


async def test_a_driver_that_does_not_load_is_one_that_is_not_available(
    platform, tmp_path, monkeypatch
):
    package = tmp_path / "broken_plug-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plug\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[saggar.drivers]\nbroken = no_such_module:Driver\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = (await platform.probe())["broken"]

    assert not found.available
    assert "no_such_module:Driver" in found.reasons[0]
    with pytest.raises(PlatformError, match="does not load"):
        await platform.run("print(1)", driver="broken")


async def test_an_environment_without_packages_needs_no_preparation(platform, settings):
    assert () == await platform.prepare(Environment(python="3.11", preload=("json",)))
    assert not settings.cache_dir.exists()


async def test_a_sweep_counts_what_each_driver_found_and_the_layers(platform, tmp_path):
    (tmp_path / "temporary" / "saggar-work-dead").mkdir()
    found = await platform.sweep()

    assert {"cgroups", "leases", "folders", "process_folders", "layers"} <= found.keys()
    assert (1, 0) == (found["folders"], found["layers"])


async def test_a_platform_that_was_not_entered_says_so(settings):
    with pytest.raises(UsageError, match="this platform is not open"):
        await Platform(settings).run("print(1)", **HERE)


async def test_a_platform_that_was_left_says_so(settings):
    async with Platform(settings) as platform:
        pass
    with pytest.raises(UsageError, match="not open"):
        await platform.run("print(1)", **HERE)


def test_what_children_are_kept_for_is_told_apart_by_all_that_makes_a_difference():
    def key(policy=OPEN, **environment):
        return module._key(Environment(**environment), policy)

    mount = Mount(source="/srv", target="/mnt/srv")
    found = [
        key(),
        key(OPEN.replace(network=Network.NONE)),
        key(OPEN.replace(isolation=Rung.JAIL)),
        key(packages=("numpy",)),
        key(preload=("json",)),
        key(mounts=(mount,)),
        key(root="/srv"),
        key(python="3.12"),
        key(host_packages=True),
    ]

    assert len(found) == len(set(found))
    assert key(packages=("a", "b")) == key(packages=("b", "a"))
    assert key() == key(OPEN.replace(limits=Limits(wall=1)))


def test_code_without_a_loop_needs_none(alone):
    result = saggar.run("print(1)", **HERE)

    assert "1\n" == result.stdout


def test_what_goes_wrong_is_raised_where_it_was_asked_for(alone):
    with pytest.raises(NotFound, match="did you mean 'process'"):
        saggar.run("print(1)", driver="proces")
    with pytest.raises(DriverUnavailable):
        saggar.run("print(1)", driver="process")


def test_threads_share_one_platform_and_get_their_own_answers(alone):
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: saggar.run(f"print({n})", **HERE).stdout, range(8)))

    assert [f"{number}\n" for number in range(8)] == found
    assert 1 == [thread.name for thread in threading.enumerate()].count("saggar")


async def test_inside_a_running_loop_it_works_too(alone, platform):
    assert "1\n" == saggar.run("print(1)", **HERE).stdout
    assert "2\n" == (await anyio.to_thread.run_sync(lambda: saggar.run("print(2)", **HERE))).stdout
    assert "3\n" == (await platform.run("print(3)", **HERE)).stdout


def test_a_forked_child_has_a_platform_of_its_own(alone):
    assert "1\n" == saggar.run("print(1)", **HERE).stdout
    ours = module._background

    assert "2\n" == in_child(lambda: saggar.run("print(2)", **HERE).stdout)
    assert in_child(lambda: module._background is None)
    assert "3\n" == saggar.run("print(3)", **HERE).stdout
    assert ours is module._background


def test_a_child_that_has_forked_first_has_one_too(alone):
    assert "1\n" == in_child(lambda: saggar.run("print(1)", **HERE).stdout)
    assert module._background is None or not module._background.alive


def test_a_platform_that_was_stopped_is_started_again(alone):
    saggar.run("pass", **HERE)
    first = module._platform()
    module._stop()
    module._stop()
    assert not first.alive

    assert "1\n" == saggar.run("print(1)", **HERE).stdout
    assert first is not module._background


def test_without_room_for_a_loop_that_is_told_and_the_next_call_works(alone):
    """In a process of its own: asyncio complains of half a loop when that is thrown away."""

    def work():
        with no_room(), pytest.raises(PlatformError) as told:
            saggar.run("print(1)", **HERE)
        return str(told.value), saggar.run("print(1)", **HERE).stdout

    said, after = in_child(work)

    assert "no event loop for the platform can be made: [Errno 24] Too many open files" == said
    assert "1\n" == after


def test_who_is_interrupted_does_not_wait_and_the_program_ends(alone, tmp_path):
    """The program itself presses Ctrl-C here."""
    code = f"""
import os, signal
with open({str(tmp_path / "pid")!r}, "w") as file:
    file.write(str(os.getpid()))
os.kill({os.getpid()}, signal.SIGINT)
while True: signal.pause()
"""
    with pytest.raises(KeyboardInterrupt):
        saggar.run(code, **HERE)
    anyio.run(dead, int((tmp_path / "pid").read_text()))

    assert "well\n" == saggar.run("print('well')", **HERE).stdout


def test_a_process_that_ends_takes_its_platform_along():
    code = """
import saggar
from saggar.model.limits import LIMIT_NAMES
policy = saggar.Policy(isolation="process", network="host", best_effort=LIMIT_NAMES)
print(saggar.run("print(1)", driver="process", policy=policy).stdout, end="")
"""
    argv = [sys.executable, "-W", "error", "-c", code]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)

    assert (0, "1\n", "") == (ran.returncode, ran.stdout, ran.stderr)


def test_what_is_compiled_for_everybody_is_compiled_where_no_task_has_a_say():
    """Or an image of one tenant's could make the program that another one runs."""
    asked = Environment(
        image="tenant/own:1", user=33, workdir="/own", root="/own", packages=("numpy",)
    )
    toolchain = (Layer(path="/usr/lib/go", target="/opt/go"),)

    assert Environment() == _around_compiler(asked, toolchain)
    assert Environment(image="tenant/own:1", root="/own") == _around_compiler(asked, ())
