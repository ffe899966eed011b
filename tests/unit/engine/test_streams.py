"""Pipes of a live sandbox, as the host reads them."""

import os
import pty

import anyio
import pytest

from saggar.engine.streams import Pipe, drop, read_some


@pytest.fixture
def ends():
    """A pipe that is read without waiting, and the end to write to it."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    pipe = Pipe(reading)
    yield pipe, writing
    pipe.close()
    drop(writing)


def test_a_pipe_says_what_it_has_and_that_it_has_nothing_now(ends):
    pipe, writing = ends
    os.write(writing, b"said")

    assert b"said" == pipe.read()
    assert pipe.read() is None


def test_the_end_of_a_pipe_is_nothing():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    drop(writing)
    pipe = Pipe(reading)

    assert b"" == pipe.read()
    pipe.close()


def test_the_rest_is_what_lay_there_when_it_was_asked_for(ends, monkeypatch: pytest.MonkeyPatch):
    """Somebody who writes as fast as we read must not keep us."""
    pipe, writing = ends
    os.write(writing, b"x" * 1000)
    read = os.read

    def read_and_write(fd: int, most: int) -> bytes:
        found = read(fd, most)
        os.write(writing, b"y" * 1000)
        return found

    monkeypatch.setattr(os, "read", read_and_write)

    assert b"x" * 1000 == pipe.rest()


def test_a_terminal_whose_last_user_is_gone_has_ended():
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    drop(slave)
    pipe = Pipe(master)

    assert b"" == pipe.read()
    assert b"" == pipe.rest()
    pipe.close()


def test_a_pipe_may_be_closed_again(ends):
    pipe, _ = ends
    pipe.close()
    other = os.open(os.devnull, os.O_RDONLY)  # has the number that the pipe had, most likely
    pipe.close()

    os.fstat(other)
    drop(other)


async def test_reading_without_end_lets_others_have_their_turn(ends):
    pipe, writing = ends
    os.write(writing, b"x")
    with anyio.move_on_after(0.1) as patience:
        while True:
            assert [pipe.fd] == await read_some([pipe.fd])

    assert patience.cancelled_caught


async def test_it_is_waited_for_whichever_comes_first(ends):
    pipe, writing = ends
    async with anyio.create_task_group() as tasks:
        found: list[list[int]] = []

        async def read() -> None:
            found.append(await read_some([pipe.fd]))

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        os.write(writing, b"x")

    assert [[pipe.fd]] == found
    assert [writing] == await read_some([], writing)
