"""Many calls at once: the order, how far ahead they are taken, and what becomes of failures."""

import itertools
import threading
from concurrent.futures import CancelledError
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint

from saggar.functions.mapped import READY, worked_off


async def doubled(x):
    await checkpoint()
    return 2 * x


def test_answers_come_in_the_order_of_the_calls():
    found = worked_off(iter(range(100)), doubled, 3, ordered=True)

    assert [2 * n for n in range(100)] == [future.result() for future in found]


def test_answers_may_come_as_they_are_there():
    first = threading.Event()

    async def slow_at_first(x):
        if x == 0:
            await anyio.to_thread.run_sync(first.wait, 10)
        return x

    found = worked_off(iter(range(20)), slow_at_first, 2, ordered=False)
    head = next(found).result()
    first.set()

    assert 0 != head
    assert set(range(20)) == {head, *(future.result() for future in found)}


def test_no_more_is_taken_than_lies_ready():
    taken = []

    def calls():
        for number in itertools.count():
            taken.append(number)
            yield number

    found = worked_off(calls(), doubled, 2, ordered=True)
    assert 0 == next(found).result()
    found.close()  # type: ignore[attr-defined]

    assert len(taken) <= 2 * READY + 1


def test_never_more_are_under_way_than_was_said():
    under_way, most = 0, 0

    async def counted(_):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await anyio.sleep(0.001)
        under_way -= 1

    for future in worked_off(iter(range(50)), counted, 3, ordered=True):
        future.result()

    assert 3 == most


def test_a_failure_is_its_calls_own():
    async def odd_only(x):
        if x % 2 == 0:
            raise ValueError(x)
        return x

    found = worked_off(iter(range(4)), odd_only, 2, ordered=True)
    failures = [future.exception() or future.result() for future in found]

    assert [1, 3] == failures[1::2]
    assert "2" == str(failures[2])


def test_who_leaves_early_ends_what_is_under_way():
    begun, ended = threading.Event(), threading.Event()

    async def for_ever(x):
        if x == 0:
            return x
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    found = worked_off(iter(range(100)), for_ever, 2, ordered=True)
    assert 0 == next(found).result()
    assert begun.wait(10)
    found.close()  # type: ignore[attr-defined]

    assert ended.wait(10)


def test_nobody_waits_for_ever_for_what_was_given_up():
    futures = list(worked_off(iter(range(20)), anyio.sleep, 2, ordered=True))

    for future in futures:
        with suppress(CancelledError):
            future.result(10)


def test_calls_that_come_late_find_who_takes_them():
    def calls():
        for number in range(5):
            threading.Event().wait(0.02)
            yield number

    assert [0, 2, 4, 6, 8] == [
        future.result() for future in worked_off(calls(), doubled, 2, ordered=True)
    ]
