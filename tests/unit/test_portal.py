"""Calls into another thread's event loop: what comes back, and what becomes of those given up."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import pytest

from saggar.portal import Portal

SOON = 20.0
said = ContextVar("said", default="nothing")


@contextmanager
def elsewhere() -> Iterator[Portal]:
    """A portal into a loop of its own, on a thread of its own."""
    opened: Future[Portal] = Future()
    leave = threading.Event()

    async def live() -> None:
        async with Portal() as portal:
            opened.set_result(portal)
            await anyio.to_thread.run_sync(leave.wait)

    thread = threading.Thread(target=anyio.run, args=(live,))
    thread.start()
    try:
        yield opened.result(SOON)
    finally:
        leave.set()
        thread.join(SOON)


async def doubled(number):
    await anyio.lowlevel.checkpoint()
    return 2 * number


def test_what_is_called_answers():
    with elsewhere() as portal:
        assert 42 == portal.start_task_soon(doubled, 21).result(SOON)
        assert 3 == portal.start_task_soon(len, "abc").result(SOON)


def test_what_it_raises_is_raised_here():
    with elsewhere() as portal, pytest.raises(ZeroDivisionError):
        portal.start_task_soon(lambda: 1 / 0).result(SOON)


def test_it_runs_on_the_other_thread_with_the_callers_context():
    said.set("hello")

    with elsewhere() as portal:
        thread = portal.start_task_soon(threading.get_ident).result(SOON)

        assert threading.get_ident() != thread
        assert "hello" == portal.start_task_soon(said.get).result(SOON)


def test_what_is_cancelled_here_is_cancelled_there_and_may_tidy_up():
    begun, tidied, went_on = threading.Event(), threading.Event(), []

    async def waiting():
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                tidied.set()
            await anyio.lowlevel.checkpoint()
            went_on.append(True)

    with elsewhere() as portal:
        future = portal.start_task_soon(waiting)
        assert begun.wait(SOON)
        future.cancel()

        assert tidied.wait(SOON)
        assert 2 == portal.start_task_soon(doubled, 1).result(SOON)
    assert not went_on


def test_what_is_given_up_before_it_began_gets_no_further_than_its_first_wait():
    block, tidied, went_on = threading.Event(), threading.Event(), []

    async def late():
        try:
            await anyio.lowlevel.checkpoint()
            await anyio.sleep_forever()
            went_on.append(True)
        finally:
            tidied.set()

    with elsewhere() as portal:
        first = portal.start_task_soon(block.wait, SOON)
        portal.start_task_soon(late).cancel()
        block.set()

        assert first.result(SOON)
        assert tidied.wait(SOON)
    assert not went_on


def test_who_leaves_waits_for_what_was_begun():
    gate = anyio.Event
    done: list[int] = []

    async def live():
        go = gate()
        async with Portal() as portal:
            portal.start_task_soon(late, go)
            await anyio.lowlevel.checkpoint()
            go.set()
        return list(done)

    async def late(go):
        await go.wait()
        await anyio.lowlevel.checkpoint()
        done.append(1)

    assert [1] == anyio.run(live)


def test_a_portal_that_was_left_says_so():
    async def live():
        async with Portal() as portal:
            pass
        future = portal.start_task_soon(doubled, 1)
        await anyio.lowlevel.checkpoint()
        return portal, future

    portal, future = anyio.run(live)

    with pytest.raises((RuntimeError, CancelledError)):
        future.result(SOON)
    with pytest.raises(RuntimeError):
        portal.start_task_soon(doubled, 1)
