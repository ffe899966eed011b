"""Against the kernel's own control groups; where none can be written, skipped with the reason."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.drivers.forked import burn, eventually, forked, touch

from saggar.drivers.jail.cgroups import OPEN, Cgroups

MIB = 1 << 20
LIMITS: dict[str, Any] = {"memory": 256 * MIB, "processes": 64, "cpu_share": 1.0}
HOLDER = """
import os, signal
from saggar.drivers.jail.cgroups import Cgroups
group = Cgroups.discover().take()
pid = os.fork()
if pid == 0:
    signal.pause()
group.admit(pid)
print(*group.folders, flush=True)
signal.pause()
"""


@pytest.fixture
def groups():
    found = Cgroups.discover()
    lacking = [finding.why_not for finding in found.supports.values() if not finding.enforced]
    if lacking:
        pytest.skip(f"no control group to write: {'; '.join(lacking)}")
    yield found
    found.close()


@pytest.fixture
def group(groups):
    taken = groups.take()
    taken.limit(**LIMITS)
    yield taken
    taken.release()


def inside(group, work):
    """A child that works only after it is in the group."""
    entered, enter = os.pipe()

    def wait_for_entry():
        os.close(enter)
        os.read(entered, 1)

    child = forked(work, before=wait_for_entry)
    started = child.__enter__()
    group.admit(started.pid)
    os.close(entered)
    os.close(enter)
    return child, started


@pytest.fixture
def run():
    """`run(group, work)`: a child that works in the group, ended with the test."""
    children = []

    def start(group, work):
        child, started = inside(group, work)
        children.append(child)
        return started

    yield start
    for child in children:
        child.__exit__(None, None, None)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def first_line(process):
    return process.stdout.readline().decode()


def alive(group):
    """Those in it that run; a dead one stays a number until its parent has waited for it."""
    return Path(group.folders[0], "cgroup.procs").read_text().split()


def spawn_forever():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        with contextlib.suppress(BlockingIOError):
            os.fork()


def test_every_limit_says_how_it_is_kept_or_why_it_is_not():
    found = Cgroups.discover()
    found.close()

    assert {"memory", "processes", "cpu_share", "cpu"} == set(found.supports)
    assert all(each.how if each.enforced else each.why_not for each in found.supports.values())


def test_no_control_groups_leave_a_group_that_keeps_and_knows_nothing(tmp_path):
    found = Cgroups.discover(proc=tmp_path)
    group = found.take()
    group.admit(os.getpid())
    group.limit(**LIMITS)

    assert (None, None, None, 0, 0) == group.reading()
    assert not any(finding.enforced for finding in found.supports.values())
    assert found.recipes["boot"]


def test_memory_past_the_limit_is_an_oom_kill(group, run):
    group.limit(**LIMITS | {"memory": 24 * MIB})
    child = run(group, lambda: touch(64 * MIB))

    assert signal.SIGKILL == child.end()
    assert group.reading().oom_kills >= 1
    assert 20 * MIB < group.reading().memory <= 24 * MIB


def test_the_peak_is_known_after_the_process_is_dead(group, run):
    run(group, lambda: touch(30 * MIB)).end()
    seen = group.reading()

    assert 30 * MIB <= seen.memory < 60 * MIB
    assert seen.current < 10 * MIB


def test_memory_limits_go_up_and_down_in_any_order(group):
    """Version 1 refuses a limit above that of memory plus swap, so the order of writing turns."""
    for size in (64, 16, 512, 32, 32, 1024, 16):
        group.limit(**LIMITS | {"memory": size * MIB})

    assert 0 == group.reading().oom_kills


def test_a_fork_too_many_is_refused_and_counted(group, run):
    def fork_until_refused():
        for number in range(20):
            try:
                if os.fork() == 0:
                    signal.pause()
            except BlockingIOError:
                return number
        return None

    group.limit(**LIMITS | {"processes": 6})
    child = run(group, fork_until_refused)

    assert b"5" == child.ready()
    assert 1 == group.reading().refused_forks
    assert 6 == group.processes()


def test_processor_time_is_that_of_the_whole_tree(group, run):
    def parent():
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                burn(0.05)
                os._exit(0)
            os.waitpid(pid, 0)

    run(group, parent).end()

    assert 0.1 <= group.reading().cpu < 5


def test_a_share_of_the_processor_is_kept(group, run):
    """A tenth of a core: half a second of work does not get done in half a second."""

    def spin():
        import time

        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass

    group.limit(**LIMITS | {"cpu_share": 0.1})
    run(group, spin).end()

    assert group.reading().cpu < 0.2


def test_a_limit_that_stays_is_not_written_again(group):
    group.limit(**LIMITS)
    path = next(
        path
        for folder in group.folders
        for name in ("memory.limit_in_bytes", "memory.max")
        if (path := Path(folder, name)).exists()
    )
    path.write_text(str(128 * MIB))
    group.limit(**LIMITS)

    assert 128 * MIB == int(path.read_text())


def test_a_released_group_starts_from_zero(groups, run):
    first = groups.take()
    first.limit(**LIMITS | {"memory": 24 * MIB, "processes": 6})
    run(first, lambda: touch(64 * MIB)).end()
    first.release()
    again = groups.take()
    seen = again.reading()
    again.release()

    assert (0, 0, 0) == (round(seen.cpu, 3), seen.oom_kills, seen.refused_forks)
    assert seen.memory < 2 * MIB


def test_what_stays_charged_costs_a_group_its_second_use(groups, run):
    """A file in shared memory outlives its writer, and stays on the bill."""
    path = Path(f"/dev/shm/saggar-test-{os.getpid()}")
    first = groups.take()
    run(first, lambda: path.write_bytes(bytes(4 * MIB))).end()
    first.release()
    second = groups.take()
    try:
        assert second is not first
        assert not set(first.folders) & set(second.folders)
    finally:
        path.unlink()
        second.release()


def test_release_kills_what_is_left(groups, run):
    group = groups.take()
    child = run(group, signal.pause)
    group.release()

    assert signal.SIGKILL == os.waitpid(child.pid, 0)[1]


def test_releasing_twice_gives_nobody_the_same_group(groups):
    group = groups.take()
    group.release()
    group.release()
    one, other = groups.take(), groups.take()

    assert one is not other
    one.release()
    other.release()


def test_kill_ends_a_fork_bomb(groups, run):
    group = groups.take()
    group.limit(**LIMITS | {"processes": 100})
    run(group, spawn_forever)
    assert eventually(lambda: group.processes() > 50)
    group.kill()

    assert eventually(lambda: not alive(group))
    group.release()


def test_a_child_goes_in_by_itself(group):
    def enter():
        for door in group.entrances():
            os.write(door, b"0")
        return burn(0.02)

    with forked(enter) as child:
        child.ready()
        within, seen = group.processes(), group.reading()

    assert 1 == within
    assert seen.cpu >= 0.02


def test_number_zero_is_nobody(group):
    """The kernel would take it for the one who writes: us."""
    with pytest.raises(ValueError, match="0 is no process"):
        group.admit(0)


def test_a_dead_process_is_not_admitted(group):
    with forked() as child:
        child.end()
        with pytest.raises(ProcessLookupError):
            group.admit(child.pid)


def test_many_groups_at_once_do_not_eat_all_descriptors(groups):
    before = descriptors()
    taken = [groups.take() for _ in range(OPEN + 20)]
    for group in taken:
        group.limit(**LIMITS)
        group.reading()
    most = descriptors() - before
    last = taken[-1].reading()
    for group in taken:
        group.release()
    groups.close()

    assert most <= 12 * OPEN
    assert last.memory is not None
    assert before == descriptors()
    assert not any(os.path.exists(folder) for group in taken for folder in group.folders)


def test_threads_never_get_the_same_group(groups):
    had = []

    def take():
        for _ in range(20):
            group = groups.take()
            had.append(group)
            group.reading()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    distinct = {group.folders for group in had}
    for group in had:
        group.release()

    assert 80 == len(distinct)


def test_a_forked_child_takes_nothing_from_its_parent(groups, run):
    group = groups.take()
    held = run(group, signal.pause)

    def child():
        group.release()
        groups.close()
        with pytest.raises(RuntimeError, match="before a fork"):
            groups.take()
        mine = Cgroups.discover()
        mine.take().release()
        mine.close()
        return "done"

    with forked(child) as other:
        assert b"done" == other.ready()

    assert [str(held.pid)] == alive(group)
    group.release()


def test_a_sweep_removes_what_a_killed_holder_left(groups):
    """With the processes it left in there; a living holder's are not touched."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE) as holder:
        left = first_line(holder).split()
        groups.sweep()
        kept = all(map(os.path.isdir, left))
        holder.kill()
    swept = groups.sweep()

    assert kept
    assert swept >= 1
    assert not any(map(os.path.exists, left))
