import os
import re
import select
import signal
from pathlib import Path

import pytest
from tests.unit.child import in_child
from tests.unit.guest.assembling import MACHINES, assembled

from saggar.guest.tinyinit import CODE, TinyInit


@pytest.mark.parametrize("machine", MACHINES)
def test_the_bytes_are_what_the_source_says(machine, tmp_path, needs):
    assert CODE[machine] == assembled("tinyinit.S", machine, tmp_path, needs)


def settled(pid):
    """Until it has done its work, and only sleeps."""
    while True:
        ignored = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        if ignored and int(ignored[1], 16) >> signal.SIGCHLD - 1 & 1:
            return
        os.sched_yield()


def started():
    """Two of them, with a descriptor that both have inherited; what is seen of them."""
    read, write = os.pipe()
    init = TinyInit()
    pids = init.start(), init.start()
    os.close(write)
    for pid in pids:
        settled(pid)
    ended = select.select([read], [], [], 5)[0]
    open_in = [os.listdir(f"/proc/{pid}/fd") for pid in pids]
    names = {Path(f"/proc/{pid}/comm").read_text() for pid in pids}
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    return ended == [read], open_in, names, [os.waitpid(pid, 0)[1] for pid in pids]


def test_it_closes_what_it_inherited_and_ends_when_it_is_killed():
    """Not as pid 1 here, so a signal that it has no handler for still ends it."""
    closed, open_in, names, ends = in_child(started)

    assert closed
    assert [[], []] == open_in
    assert {"saggar-init\n"} == names
    assert [signal.SIGTERM] * 2 == ends


def test_it_costs_no_memory_of_its_own():
    """It runs in the memory of whoever started it, which is still well afterwards."""

    def measured():
        pid = TinyInit().start()
        same = os.path.samefile(f"/proc/{pid}/exe", "/proc/self/exe")
        maps = [Path(f"/proc/{which}/maps").read_text() for which in (pid, "self")]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return same, maps[0] == maps[1]

    assert (True, True) == in_child(measured)
