import os
import signal
from pathlib import Path

import pytest
from tests.unit.drivers.forked import burn, eventually, forked, touch

from saggar.drivers.treewatch import MOST, TreeWatch, life

MIB = 1 << 20


def parent_of(pid):
    now = life(pid)
    return now and now.parent


def fork_and_wait(work=signal.pause):
    """A child of the child; it dies with its parent's pipe end or by the test's signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_pages_shared_with_the_fork_server_are_counted_once():
    """Six children of a process that holds 64 MiB weigh 64 MiB, not seven times that."""

    def weight(size):
        def server():
            block = touch(size)
            for _ in range(6):
                fork_and_wait()
            return block

        with forked(server) as child:
            child.ready()
            return TreeWatch([child.pid]).reading()

    # Less what the same family weighs without it: its pages are those of this very process.
    seen, bare = weight(64 * MIB), weight(MIB)

    assert 7 == seen.processes
    assert 60 * MIB <= seen.memory - bare.memory < 2 * 64 * MIB


def test_the_peak_outlives_the_child_that_needed_it():
    def parent():
        touched, holds = os.pipe()

        def hold():
            block = touch(40 * MIB)
            os.write(holds, b"!")
            signal.pause()
            return block

        grandchild = fork_and_wait(hold)
        os.read(touched, 1)
        return grandchild

    with forked(parent) as child:
        grandchild = int(child.ready())
        watch = TreeWatch([child.pid])
        most = watch.reading().memory
        os.kill(grandchild, signal.SIGKILL)
        # How much is left depends on this very process, whose pages the parent shares.
        assert eventually(lambda: watch.reading().memory < most - 30 * MIB)
        last = watch.reading()

    assert last.peak >= most > 40 * MIB


def test_processor_time_counts_children_that_were_waited_for():
    def parent():
        os.waitpid(fork_and_wait(lambda: burn(0.05)), 0)

    with forked(parent) as child:
        child.ready()
        seen = TreeWatch([child.pid]).reading()

    assert 0.04 <= seen.cpu < 5
    assert 1 == seen.processes


def test_processor_time_of_a_child_nobody_waits_for_is_kept():
    """A parent that ignores SIGCHLD is never handed its children's times."""

    def work():
        burn(0.05)
        signal.pause()

    def parent():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return fork_and_wait(work)

    with forked(parent) as child:
        grandchild = int(child.ready())
        watch = TreeWatch([child.pid])
        assert eventually(lambda: watch.reading().cpu >= 0.03)
        before = watch.reading().cpu
        os.kill(grandchild, signal.SIGKILL)
        assert eventually(lambda: life(grandchild) is None)
        after = watch.reading()

    assert after.cpu >= before
    assert 1 == after.processes


def test_an_orphan_seen_once_stays_watched():
    def parent():
        middle, told = os.pipe()

        def between():
            os.write(told, b"%d" % fork_and_wait())
            signal.pause()

        pid = fork_and_wait(between)
        return f"{pid} {int(os.read(middle, 100))}"

    with forked(parent) as child:
        between, orphan = map(int, child.ready().split())
        watch = TreeWatch([between])
        first = watch.reading()
        os.kill(between, signal.SIGKILL)
        # Dead and nobody waits for it: a zombie counts until its parent does.
        assert eventually(lambda: parent_of(orphan) != between)
        second = watch.reading()

    assert 2 == first.processes
    assert 2 == second.processes


def test_a_walk_over_proc_finds_the_same_tree():
    with forked(lambda: (fork_and_wait(), fork_and_wait())) as child:
        child.ready()
        listed = TreeWatch([child.pid]).reading()
        walked = TreeWatch([child.pid], scan=True).reading()

    assert 3 == listed.processes == walked.processes


def test_children_that_come_and_go_while_one_looks_do_no_harm():
    def churn():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if os.fork() == 0:
            while True:
                fork_and_wait(lambda: None)
            os._exit(0)

    with forked(churn) as child:
        child.ready()
        watch = TreeWatch([child.pid])
        seen = [watch.reading() for _ in range(30)]

    assert all(2 <= weight.processes < MOST for weight in seen)


def test_a_dead_root_weighs_nothing():
    with forked() as child:
        watch = TreeWatch([child.pid])
        child.end()

        assert (0.0, 0, 0, 0) == watch.reading()


def test_the_quick_reading_knows_time_and_peak():
    def parent():
        touch(30 * MIB)
        os.waitpid(fork_and_wait(lambda: burn(0.03)), 0)

    with forked(parent) as child:
        child.ready()
        cpu, peak = TreeWatch.first(child.pid)

    assert 0.02 <= cpu < 5
    assert peak is not None
    assert peak > 30 * MIB


def test_the_quick_reading_of_a_dead_process_has_no_peak():
    with forked() as child:
        child.end()

        assert (0.0, None) == TreeWatch.first(child.pid)


def test_a_name_with_brackets_and_spaces_is_no_obstacle():
    def rename():
        Path("/proc/self/comm").write_text("a) R 1 (b")

    with forked(rename) as child:
        child.ready()

        assert os.getpid() == parent_of(child.pid)


@pytest.mark.root
def test_without_the_right_to_read_maps_resident_pages_are_summed():
    """Another user's process: its status is open to all, its smaps_rollup is not."""
    with forked(lambda: touch(20 * MIB)) as child:
        child.ready()

        def look():
            os.setuid(65534)
            return TreeWatch([child.pid]).reading().memory

        with forked(look) as looker:
            memory = int(looker.ready())

    assert memory > 20 * MIB
