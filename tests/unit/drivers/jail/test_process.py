"""Children behind real walls, with control groups and without, as the engine uses them."""

import os
import select
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from tests.conftest import missing, readable_interpreter
from tests.unit.engine.fakes import eventually

from saggar.boundary import frames
from saggar.boundary.order import Order
from saggar.drivers.base import Exit
from saggar.drivers.jail.cgroups import Cgroups
from saggar.drivers.jail.driver import JailDriver
from saggar.drivers.jail.process import JailProcess, pid_of
from saggar.drivers.jail.rlimits import AS, DATA, NOFILE, NPROC
from saggar.errors import SandboxBroken
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.plan import WarmKey
from saggar.model.policy import Policy, Rung

MIB = 1 << 20
ANY = Policy(isolation=Rung.LANDLOCK, best_effort=frozenset(LIMIT_NAMES))
UP = "import os, signal; os.write(1, b'up'); signal.pause()"
GROW = """
block = bytearray(50 << 20)
block[::4096] = b"x" * len(range(0, len(block), 4096))
"""


class Ground:
    """A fork server behind one rung's walls, and the driver that opened it."""

    def __init__(self, rung, driver, server, space):
        self.rung, self.driver, self.server, self.space = rung, driver, server, space

    async def park(self, **different):
        space = replace(self.space, **different)
        return await self.driver.park(self.server, space, hurried=True)


@asynccontextmanager
async def opened(rung, cgroups):
    """For the length of a block; leaves the test where there are no such walls."""
    driver = JailDriver()
    driver._found = cgroups
    async with AsyncExitStack() as stack:
        stack.callback(driver.close)
        try:
            walls = driver._server(rung, key(rung), ANY, ())
            ground = Ground(rung, driver, *await stack.enter_async_context(walls))
            (await ground.park()).release()
        except SandboxBroken as exc:
            await stack.aclose()
            missing(str(exc))
        yield ground


def key(rung):
    """Without namespaces a child of root's is somebody else, who must be able to read Python."""
    other = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    interpreter = readable_interpreter(other) if rung == Rung.LANDLOCK else ""
    return WarmKey(interpreter=interpreter, environment="")


@pytest.fixture(scope="module", params=[Rung.JAIL, Rung.LANDLOCK])
async def bare(request, tmp_path_factory):
    """Either rung, on a machine without control groups."""
    nowhere = tmp_path_factory.mktemp("proc")
    async with opened(request.param, Cgroups.discover(proc=nowhere)) as ground:
        yield ground


@pytest.fixture(scope="module")
async def counted():
    """A jail, on a machine whose control groups keep everything."""
    found = Cgroups.discover()
    lacking = [finding.why_not for finding in found.supports.values() if not finding.enforced]
    if lacking:
        found.close()
        missing(f"no control group to write: {'; '.join(lacking)}")
    async with opened(Rung.JAIL, found) as ground:
        yield ground


@pytest.fixture
async def process(bare):
    made = await bare.park()
    yield made
    made.release()


@pytest.fixture
async def counted_process(counted):
    made = await counted.park()
    yield made
    made.release()


async def start(process, code, size=1, **limits):
    """Claim it and give it this program; what that says first, at least so many characters."""
    process.claim(Limits(**limits))
    order = Order(
        argv=None,
        code=code,
        filename="main.py",
        entry=None,
        input=None,
        want_value=False,
        args=(),
        env=dict(process.environment),
        cwd=process.cwd,
        site=process.site,
        files=(),
        rlimits=process.rlimits,
        largest=0,
        body=None,
        stays=False,
    )
    process.channel.send(frames.pack(frames.TASK, order.encode()))
    return await said(process, size)


async def said(process, size=1):
    """What it writes next, at least so many characters; fewer when it has come to its end."""
    heard, more = "", "?"
    while len(heard) < size and more:
        with anyio.fail_after(10):
            await anyio.wait_readable(process.stdout)
        more = os.read(process.stdout, 4096).decode()
        heard += more
    return heard


async def ended(process):
    """Kill what is left of it when the first process is dead, and hear how that ended."""
    with anyio.fail_after(5):
        await anyio.wait_readable(process.exited)
        process.kill()
        return await process.wait()


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def has_ended(pidfd):
    return bool(select.select([pidfd], [], [], 0)[0])


async def test_a_parked_child_is_ready_for_whoever_comes(bare, process):
    assert bare.rung == process.isolation
    assert not process.channel.getblocking()
    assert [False] * 3 == [
        os.get_blocking(fd) for fd in (process.stdin, process.stdout, process.stderr)
    ]
    assert not has_ended(process.exited)
    assert [] == os.listdir(process.work)


async def test_its_home_is_its_work_folder_and_its_temporary_one_is_beside_that(bare, process):
    environment = process.environment

    assert process.cwd == environment["HOME"]
    if bare.rung == Rung.JAIL:
        assert ("/work", "/tmp") == (process.cwd, environment["TMPDIR"])
    else:
        assert os.path.dirname(process.cwd) == os.path.dirname(environment["TMPDIR"])
        assert os.path.samestat(os.stat(process.cwd), os.fstat(process.work))


async def test_no_two_children_have_a_folder_in_common(bare, process):
    await start(process, "open('mine', 'w').close(); print('done')")
    other = await bare.park()

    assert ["mine"] == [name for name in os.listdir(process.work) if name != "main.py"]
    assert [] == os.listdir(other.work)
    other.release()


async def test_the_environment_of_one_is_nobody_elses(bare, process):
    other = await bare.park()
    process.environment["MINE"] = "1"

    assert "MINE" not in other.environment
    assert "MINE" not in bare.space.environment
    other.release()


async def test_without_a_cgroup_resource_limits_keep_memory_and_processes(bare, process):
    process.claim(Limits(memory=100 * MIB, processes=7, open_files=99))
    hard = {number: most for number, _, most in process.rlimits}

    assert (200 * MIB, 99) == (hard[DATA], hard[NOFILE])
    assert AS in hard
    assert bare.space.own_uid is (NPROC in hard)
    assert 7 == hard.get(NPROC, 7)


async def test_where_a_cgroup_keeps_memory_no_process_is_refused_any(counted_process):
    counted_process.claim(Limits(processes=7))
    hard = {number: most for number, _, most in counted_process.rlimits}

    assert not {DATA, AS} & hard.keys()
    assert 7 < hard[NPROC]  # the second to refuse


async def test_without_a_cgroup_whole_cores_are_named_and_everybody_gets_another(bare):
    ours = os.sched_getaffinity(0)
    found = []
    for _ in ours:
        process = await bare.park()
        process.claim(Limits(cpu_share=0.5))
        found.append(os.sched_getaffinity(pid_of(process.exited)))
        process.release()

    assert {1} == set(map(len, found))
    assert ours == set().union(*found)


async def test_who_may_use_all_cores_is_not_bound_to_any(process):
    process.claim(Limits(cpu_share=len(os.sched_getaffinity(0))))

    assert os.sched_getaffinity(0) == os.sched_getaffinity(pid_of(process.exited))


async def test_where_a_cgroup_keeps_the_share_no_core_is_named(counted_process):
    counted_process.claim(Limits(cpu_share=0.5))

    assert os.sched_getaffinity(0) == os.sched_getaffinity(pid_of(counted_process.exited))


async def test_a_parked_child_that_has_died_is_told_as_broken_or_claimed_for_nothing(process):
    """Between the look whether it lives and the claim, say: then another one can be had."""
    os.kill(pid_of(process.exited), signal.SIGKILL)
    process.kill()
    await ended(process)
    try:
        process.claim(Limits(cpu_share=0.5))
    except SandboxBroken:
        return

    assert has_ended(process.exited)


async def test_the_writable_space_is_what_the_task_may_have(bare, process):
    process.claim(Limits(disk=3 * MIB, inodes=100))
    space = os.fstatvfs(process.work)
    if bare.rung == Rung.JAIL:
        assert (3 * MIB, 100) == (space.f_blocks * space.f_frsize, space.f_files)
    else:
        assert 3 * MIB < space.f_blocks * space.f_frsize  # the host's, and not to be resized


async def test_a_full_disk_is_seen_from_outside_where_it_is_one_of_its_own(bare, process):
    assert not process.disk_full()
    code = """
try:
    with open("full", "wb", buffering=0) as file:
        for _ in range(512): file.write(bytes(4096))
except OSError as exc:
    print(exc.errno)
else:
    print("fits")
"""
    heard = await start(process, code, disk=MIB)
    if bare.rung == Rung.JAIL:
        assert "28\n" == heard
        assert process.disk_full()
    else:
        assert "fits\n" == heard
        assert not process.disk_full()


async def test_used_up_inodes_are_a_full_disk_too(bare, process):
    code = """
try:
    for number in range(100): open(str(number), "w").close()
except OSError as exc:
    print(exc.errno)
else:
    print("fit")
"""
    await start(process, code, inodes=50)

    assert (bare.rung == Rung.JAIL) is process.disk_full()


async def test_an_interrupt_reaches_the_first_process(process):
    code = """
import signal
try:
    print("up", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""
    await start(process, code)
    process.interrupt()

    assert "interrupted\n" == await said(process)


async def test_a_kill_takes_the_whole_tree(process):
    """The pipe ends when the last one who could write to it is dead."""
    code = "import os, signal\nfor _ in range(3): os.fork()\nos.write(1, b'x')\nsignal.pause()"
    await start(process, code, size=8)
    process.kill()
    exit_ = await ended(process)

    assert (None, signal.SIGKILL) == (exit_.code, exit_.signal)
    assert "" == await said(process)


async def test_what_is_dead_can_be_killed_and_interrupted_again(process):
    process.kill()
    await ended(process)
    process.kill()
    process.interrupt()


async def test_how_it_ended_is_told_when_it_is_dead(process):
    await start(process, "import os; print('up', flush=True); os._exit(7)")
    exit_ = await ended(process)

    assert Exit(7, None, exit_.cpu, exit_.memory) == exit_
    assert 0 <= exit_.cpu < 5
    assert MIB < exit_.memory < 500 * MIB


async def test_the_end_of_the_input_reaches_the_program_and_may_come_again(process):
    await start(process, "import sys; print('up', flush=True); print(len(sys.stdin.read()))")
    os.write(process.stdin, b"12345")
    process.close_stdin()
    process.close_stdin()

    assert -1 == process.stdin
    assert "5\n" == await said(process)


async def test_a_look_sees_the_memory_of_every_process(process):
    before = process.read()
    await start(process, f"import os, signal\nos.fork()\n{GROW}\n{UP}", size=4)
    used = process.read()

    assert 100 * MIB <= used.current - before.current < 200 * MIB
    assert used.current <= used.memory
    assert 2 == used.processes
    assert 0 < used.cpu < 20


async def test_files_are_memory_where_they_are_kept_in_it(bare, process):
    """Mapped by nobody, and counted all the same."""
    await start(process, f"open('file', 'wb').write(bytes(20 << 20))\n{UP}")
    used = process.read()
    files = used.current - process._watch.reading().memory

    assert (bare.rung == Rung.JAIL) is (20 * MIB <= files < 21 * MIB)


async def test_the_most_that_was_seen_is_remembered_when_it_is_over(process):
    await start(process, f"{GROW}\n{UP}")
    process.read()
    process.kill()
    await ended(process)

    assert 50 * MIB < process.first_read().memory < 200 * MIB
    assert 50 * MIB < process.read().memory < 200 * MIB


async def test_what_nobody_looked_at_is_known_of_the_first_process_alone(process):
    await start(process, f"{GROW}\n{UP}")
    used = process.first_read()

    assert 50 * MIB < used.memory < 200 * MIB
    assert 0 < used.cpu < 20
    assert (None, None, 0, 0) == (
        used.current,
        used.processes,
        used.oom_kills,
        used.refused_forks,
    )


async def test_of_the_dead_whom_nobody_looked_at_nothing_is_made_up(process):
    process.kill()
    await ended(process)

    first, looked = process.first_read(), process.read()

    assert (0.0, None) == (first.cpu, first.memory)
    assert (0.0, 0) == (looked.cpu, looked.processes)


async def test_a_cgroup_counts_what_no_look_has_seen(counted_process):
    await start(counted_process, f"import os\nos.fork() or os._exit(len(bytes(1)))\n{GROW}\n{UP}")
    used, again = counted_process.read(), counted_process.first_read()

    assert used == replace(again, cpu=used.cpu, processes=2)
    assert 50 * MIB < used.current <= used.memory < 200 * MIB
    assert 0 < used.cpu <= again.cpu < 20


async def test_a_cgroup_holds_memory_to_its_limit_and_says_so(counted_process):
    assert "" == await start(counted_process, GROW + UP, memory=20 * MIB)
    used = counted_process.first_read()  # before it is had back
    exit_ = await ended(counted_process)

    assert signal.SIGKILL == exit_.signal
    assert 0 < used.oom_kills


async def test_a_cgroup_refuses_processes_and_says_so(counted_process):
    code = """
import os
for _ in range(9):
    try:
        if os.fork() == 0: signal.pause()
    except BlockingIOError:
        print("refused")
        break
"""
    heard = await start(counted_process, f"import signal\n{code}", processes=5)

    assert "refused\n" == heard
    assert 0 < counted_process.first_read().refused_forks


async def test_a_cgroup_is_had_back_when_the_tree_is_dead(counted):
    process = await counted.park()
    # By what it is, not by how many there are: an earlier child's may come back meanwhile.
    child, cgroup, pool = process._child, process._cgroup, counted.driver._found._pool
    process.release()
    assert cgroup not in pool
    with anyio.fail_after(5):
        await child.wait()

    assert cgroup in pool


async def test_what_is_released_is_dead_and_has_left_nothing_behind(bare):
    before = open_descriptors()
    process = await bare.park()
    await start(process, UP)
    process.close_stdin()
    child, watched = process._child, os.dup(process.exited)
    process.release()
    process.release()
    with anyio.fail_after(5):
        await child.wait()

    assert has_ended(watched)
    os.close(watched)
    assert before == open_descriptors()


async def test_what_is_released_is_not_killed_again(process):
    """Its numbers may belong to somebody else by now."""
    process.release()
    reused = [os.pidfd_open(os.getpid()) for _ in range(20)]
    process.kill()
    for fd in reused:
        os.close(fd)


async def test_its_folder_goes_when_it_is_released(bare):
    process = await bare.park()
    await start(process, f"import os; os.makedirs('a/b'); open('a/b/c', 'w').close(); {UP}")
    process.release()
    if bare.rung == Rung.LANDLOCK:
        await eventually(lambda: not os.path.exists(process.cwd))
        await eventually(lambda: not os.path.exists(os.path.dirname(process.cwd)))


async def test_no_end_can_be_told_when_the_server_is_gone(bare):
    async with opened(bare.rung, bare.driver._cgroups()) as ground:
        process = await ground.park()
        os.kill(ground.server.pid, signal.SIGKILL)
        with pytest.raises(SandboxBroken), anyio.fail_after(5):
            await process.wait()
        with anyio.fail_after(5):
            await anyio.wait_readable(process.exited)  # although it is dead
        process.release()


async def test_a_child_that_was_not_born_is_no_process(bare):
    child = await bare.server.park()
    child.abandon()
    with pytest.raises(SandboxBroken, match="was not born"):
        JailProcess(bare.server, child, None, bare.space)


def test_a_process_is_known_by_its_number_here():
    own = os.pidfd_open(os.getpid())

    assert os.getpid() == pid_of(own)
    os.close(own)


def test_what_is_dead_and_buried_has_no_number():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    ended = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError, match="died before it was claimed"):
        pid_of(ended)
    os.close(ended)


def test_what_is_no_process_has_no_number():
    with open("/dev/null") as null, pytest.raises(ProcessLookupError):
        pid_of(null.fileno())
