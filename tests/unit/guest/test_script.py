import errno
import os
import resource
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.child import in_child
from tests.unit.guest.assembling import MACHINES, assembled

from saggar.guest.script import CODE, Script

AT_FDCWD = -100


@pytest.mark.parametrize("machine", MACHINES)
def test_the_bytes_are_what_the_source_says(machine, tmp_path, needs):
    assert CODE[machine] == assembled("script.S", machine, tmp_path, needs)


def ran(script):
    script.compile()
    script.run()


def results(script):
    return [script._table[index * 9 + 8] for index in range(len(script._calls))]


def test_the_result_of_a_call_is_an_argument_of_later_ones(tmp_path):
    """Open, write, duplicate, close: no number in it is known before."""
    script = Script()
    path = str(tmp_path / "file").encode()
    file = script.add("openat", AT_FDCWD, path, os.O_CREAT | os.O_WRONLY, 0o640)
    script.add("write", file, b"hello", 5)
    copy = script.add("fcntl", file, 0, 100)
    script.add("write", copy, b", world", 7)
    script.add("close", file)
    script.add("close", copy)
    ran(script)

    assert (tmp_path / "file").read_bytes() == b"hello, world"
    assert 0 == sum(results(script)[-2:])


def test_every_argument_can_be_a_result(tmp_path):
    """mount_setattr has five; here the third, fourth and fifth come from earlier calls."""
    script = Script()
    null = [script.add("openat", AT_FDCWD, b"/dev/null", 0, 0) for _ in range(3)]
    for fd in null:
        script.add("close_range", fd, fd, 0)
    ran(script)

    for number in results(script)[:3]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


def test_a_buffer_is_written_by_the_kernel_and_can_be_read():
    import ctypes

    ends = ctypes.create_string_buffer(8)
    script = Script()
    script.add("pipe2", ends, os.O_CLOEXEC)
    ran(script)
    read, write = struct.unpack("ii", ends)
    os.write(write, b"x")

    assert os.read(read, 2) == b"x"
    os.close(read)
    os.close(write)


def test_a_script_runs_again_with_what_was_changed_in_between():
    script = Script()
    mask = script.add("umask", 0o77)
    script.compile()

    def twice():
        script.run()
        script.change(mask, 0, 0o27)
        script.run()
        return os.umask(0), results(script)

    assert (0o27, [0o77]) == in_child(twice)


def test_a_failing_call_is_named_with_its_arguments_and_ends_the_script():
    script = Script()
    script.add("close", 987_654)
    script.add("umask", 0o77)
    before = os.umask(0o22)
    os.umask(before)

    with pytest.raises(OSError, match=r"Bad file descriptor in close\(987654\)") as caught:
        ran(script)
    assert (errno.EBADF, before) == (caught.value.errno, os.umask(before))


def test_what_is_said_of_a_failing_call_leaves_out_what_cannot_be_said():
    script = Script()
    pid = script.add("fcntl", 1, 1)
    script.add("openat", AT_FDCWD, b"/nowhere", pid, 0)

    with pytest.raises(FileNotFoundError, match=r"in openat\(-100, b'/nowhere', 0\)"):
        ran(script)


def test_an_error_that_is_expected_is_passed_over():
    script = Script()
    script.add("close", 987_654, expected=True)
    done = script.add("fcntl", 1, 1)
    ran(script)

    assert [-errno.EBADF, os.get_inheritable(1) ^ 1] == results(script)
    assert 1 == done.index


def test_a_result_may_stand_beside_an_expected_error():
    """Both share one word of the table."""
    script = Script()
    file = script.add("openat", AT_FDCWD, b"/dev/null", os.O_RDONLY, 0)
    script.add("close", file)
    script.add("close", file, expected=True)
    ran(script)

    assert -errno.EBADF == results(script)[-1]


def test_nothing_to_do_is_done():
    ran(Script())


def test_a_name_that_this_machine_does_not_know_is_refused_while_it_is_laid_out():
    script = Script()
    script.add("fly", 1)

    with pytest.raises(KeyError, match="fly"):
        script.compile()


@given(masks=st.lists(st.integers(0, 0o777), min_size=1, max_size=40))
def test_calls_are_made_in_order_and_each_once(masks):
    """umask gives back what it replaces."""
    script = Script()
    for mask in masks:
        script.add("umask", mask)
    script.compile()
    before = os.umask(0o22)
    try:
        script.run()
    finally:
        os.umask(before)

    assert [0o22, *masks[:-1]] == results(script)


def test_arguments_are_passed_with_all_their_bits(tmp_path):
    """A size of five gigabytes, and a descriptor that is negative."""
    script = Script()
    path = str(tmp_path / "file").encode()
    script.add("openat", AT_FDCWD, path, os.O_CREAT | os.O_RDWR, 0o600)
    script.add("fcntl", -1, 1, expected=True)
    script.add("write", 987_654, b"", 5 << 30, expected=True)
    ran(script)
    os.close(results(script)[0])

    assert [-errno.EBADF] * 2 == results(script)[1:]
    assert resource.getpagesize() <= script._table[2 * 9 + 3] == 5 << 30
