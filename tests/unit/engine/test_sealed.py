import fcntl
import os

import pytest

from saggar.engine import sealed

SEALS = sealed.WANTED


def file(size, seals=0):
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_buffers_come_back_aligned_and_ours_alone_to_change():
    fd = sealed.share([memoryview(b"one"), memoryview(b"two" * 100)])
    again = os.dup(fd)
    memory = sealed.mapped(fd, 1 << 20)
    memory[0:1] = b"X"

    assert b"Xne" == bytes(memory[:3])
    assert b"two" == bytes(memory[64:67])
    assert b"one" == os.pread(again, 3, 0)
    os.close(again)


@pytest.mark.parametrize("missing", [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE])
def test_each_seal_is_wanted(missing):
    fd = file(10, SEALS & ~missing)

    with pytest.raises(ValueError, match="is not sealed"):
        sealed.mapped(fd, 100)


@pytest.mark.parametrize("size", [0, 101])
def test_a_size_that_is_not_allowed_is_refused(size):
    with pytest.raises(ValueError, match=r"the limit is 100"):
        sealed.mapped(file(size, SEALS), 100)


def test_what_is_no_shared_memory_is_refused_without_waiting(tmp_path):
    read, write = os.pipe()
    other = os.open(tmp_path, os.O_RDONLY)

    for fd in (read, other):
        with pytest.raises(ValueError, match="no shared memory"):
            sealed.mapped(fd, 100)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
    os.close(write)
