import os
import signal
import subprocess
import sys

import pytest

from saggar.drivers.jail.uids import BLOCK, SPAN, lease, sweep
from saggar.errors import Overloaded

pytestmark = pytest.mark.root

FOUR = range(SPAN.start, SPAN.start + 4 * BLOCK)
HOLDER = """
import pathlib, signal, sys
from saggar.drivers.jail.uids import lease
block = lease(pathlib.Path(sys.argv[1]), span=range(int(sys.argv[2]), int(sys.argv[3])))
print(block.base, flush=True)
signal.pause()
"""


@pytest.fixture
def etc(tmp_path):
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder


@pytest.fixture
def holder(tmp_path):
    """Another process, and the base of the block of FOUR that it holds."""
    argv = [sys.executable, "-c", HOLDER, tmp_path, str(FOUR.start), str(FOUR.stop)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        yield process, first_line(process)
        process.kill()


def first_line(process):
    return int(process.stdout.readline())


def bases(runtime, number, **given):
    """The bases of so many blocks, all held at the same time."""
    blocks = [lease(runtime, **given) for _ in range(number)]
    found = [block.base for block in blocks]
    for block in blocks:
        block.close()
    return found


def test_a_block_is_aligned_and_inside_the_span(tmp_path):
    with lease(tmp_path) as block:
        assert 0 == block.base % BLOCK
        assert block.base in SPAN
        assert block.base + block.count - 1 in SPAN


def test_fifty_leases_at_once_are_fifty_blocks(tmp_path):
    assert 50 == len(set(bases(tmp_path, 50)))


def test_leases_of_many_processes_never_meet(tmp_path):
    argv = [sys.executable, "-c", HOLDER, tmp_path, str(FOUR.start), str(FOUR.stop)]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(4)]
    found = [first_line(process) for process in processes]
    for process in processes:
        process.kill()
        process.communicate()

    assert sorted(FOUR[::BLOCK]) == sorted(found)


def test_two_processes_never_share_a_block(tmp_path, holder):
    found = bases(tmp_path, 3, span=FOUR)

    assert sorted(FOUR[::BLOCK]) == sorted([holder[1], *found])


def test_all_blocks_taken_is_overloaded(tmp_path, holder):
    _, base = holder

    with pytest.raises(Overloaded, match="taken") as caught:
        lease(tmp_path, span=range(base, base + BLOCK))

    assert caught.value.retry_after


def test_a_block_outlives_no_killed_holder(tmp_path, holder):
    process, base = holder
    process.send_signal(signal.SIGKILL)
    process.wait()

    with lease(tmp_path, span=range(base, base + BLOCK)) as block:
        assert base == block.base


def test_a_child_that_inherits_the_descriptor_keeps_the_block(tmp_path):
    """The sandbox may outlive for a moment the process that made it; its uids are still its own."""
    one = range(SPAN.start, SPAN.start + BLOCK)
    block = lease(tmp_path, span=one)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[block.fd]) as child:
        block.close()
        with pytest.raises(Overloaded):
            lease(tmp_path, span=one)
        child.communicate()

    assert [SPAN.start] == bases(tmp_path, 1, span=one)


def test_the_descriptor_goes_to_no_program_by_itself(tmp_path):
    with lease(tmp_path) as block:
        assert not os.get_inheritable(block.fd)


@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_ranges_lent_to_others_are_left_alone(tmp_path, etc, name):
    lent = FOUR.start + BLOCK // 2
    (etc / name).write_text(f"# a comment\n\nsomebody:{lent}:{2 * BLOCK}\nbroken:x\n")

    assert [FOUR.stop - BLOCK] == bases(tmp_path, 1, span=FOUR, etc=etc)


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_ids_that_have_a_name_are_left_alone(tmp_path, etc, name):
    (etc / name).write_text(
        f"root:x:0:0\nsomebody:x:{FOUR.start + 5}:{FOUR.start + 5}::/:/bin/sh\n"
    )

    assert FOUR.start not in bases(tmp_path, 3, span=FOUR, etc=etc)


def test_a_span_without_a_block_for_us_says_so(tmp_path, etc):
    (etc / "subuid").write_text(f"somebody:0:{1 << 32}\n")

    with pytest.raises(PermissionError, match="lent to others"):
        lease(tmp_path, etc=etc)


def test_more_than_a_block_is_refused(tmp_path):
    with pytest.raises(ValueError, match="1 to 1024 uids, not 2000"):
        lease(tmp_path, 2000)


def test_a_folder_others_can_write_is_refused(tmp_path):
    folder = tmp_path / "uids"
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(PermissionError, match="only root can write"):
        lease(tmp_path)


def test_a_sweep_removes_what_nobody_holds(tmp_path, holder):
    bases(tmp_path, 3, span=FOUR)

    assert 3 == sweep(tmp_path)
    assert [f"{holder[1]}.lock"] == os.listdir(tmp_path / "uids")
    assert 3 == len(set(bases(tmp_path, 3, span=FOUR)) - {holder[1]})


def test_a_sweep_of_nothing_is_nothing(tmp_path):
    assert 0 == sweep(tmp_path)


def test_sweeps_in_between_never_let_two_have_one_block(tmp_path):
    """Lock files vanish all the time; still only one process at a time gets past the lock."""
    code = """
import os, pathlib, sys
from saggar.drivers.jail.uids import lease, sweep
from saggar.errors import Overloaded
runtime, span = pathlib.Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3]))
had = 0
for _ in range(300):
    try:
        with lease(runtime, span=span):
            os.close(os.open(runtime / "mine", os.O_CREAT | os.O_EXCL))
            os.unlink(runtime / "mine")
            had += 1
    except Overloaded:
        pass
    sweep(runtime)
print(had)
"""
    argv = [sys.executable, "-c", code, tmp_path, str(SPAN.start), str(SPAN.start + BLOCK)]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(3)]
    had = [int(process.communicate()[0] or 0) for process in processes]

    assert [0, 0, 0] == [process.returncode for process in processes]
    assert all(had)
