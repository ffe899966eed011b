"""Methods that are generators: read one by one, interrupted when nobody reads on."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import saggar
from saggar.errors import InvalidTask
from saggar.functions.errors import RemoteError, RemoteTimeout


@dataclass
class Point:
    x: int


class Fired:
    def __init__(self):
        self.at = -1

    def points(self, n) -> Iterator[Point]:
        for self.at in range(n):
            yield Point(self.at)

    def large(self, n):
        for self.at in range(n):
            yield bytes(200_000)

    async def slowly(self, n) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    def breaks(self):
        yield 1
        raise KeyError("k")

    def endless(self):
        while True:
            yield 1

    def heat(self):
        return self.at


Kiln: Any = saggar.remote(timeout=20)(Fired)


@pytest.fixture(scope="module")
def kiln():
    with Kiln() as made:
        yield made


def test_what_a_method_yields_is_made_what_it_is_annotated_as(kiln):
    assert [Point(0), Point(1)] == list(kiln.points.stream(2))
    assert [Point(0), Point(1)] == kiln.points(2)
    assert [0, 1] == list(kiln.slowly.stream(2))
    assert [0, 1] == kiln.slowly(2)
    assert [200_000] * 40 == [len(item) for item in kiln.large.stream(40)]


def test_a_stream_that_is_left_is_interrupted_and_the_instance_goes_on(kiln):
    for _ in kiln.large.stream(1_000_000):
        break

    assert kiln.heat() < 1000


async def test_it_is_read_inside_a_loop(kiln):
    found = [point.x async for point in kiln.points.astream(5)]

    assert [0, 1, 2, 3, 4] == found


def test_what_it_raises_comes_when_its_items_have_been_taken(kiln):
    items = kiln.breaks.stream()

    assert 1 == next(items)
    with pytest.raises(KeyError) as found:
        next(items)
    assert isinstance(found.value, RemoteError)
    with pytest.raises(InvalidTask, match=r"Fired\.heat is no generator"):
        next(kiln.heat.stream())


def test_its_clock_goes_on_while_nobody_takes():
    with Kiln.options(timeout=0.5)() as kiln:
        items = kiln.endless.stream()
        next(items)

        # It waits for its turn, which comes when the stream's time is over.
        assert -1 == kiln.heat()
        with pytest.raises(RemoteTimeout):
            list(items)


def test_a_function_that_yields_dataclasses_ends_well():
    @saggar.remote
    def points(n) -> Iterator[Point]:
        for x in range(n):
            yield Point(x)

    assert [Point(0), Point(1)] == list(points.stream(2))


SMALL_ROOM = {"memory": "160MiB"}


def test_what_is_large_waits_inside_for_who_is_slower():
    """It travels as shared memory, which is the sandbox's own: few of it may be under way."""

    @saggar.remote(timeout=30, limits=SMALL_ROOM)
    def many(n):
        for _ in range(n):
            yield bytes(8 << 20)

    class Fills:
        def many(self, n):
            for _ in range(n):
                yield bytes(8 << 20)

    Kind: Any = saggar.remote(timeout=30, limits=SMALL_ROOM)(Fills)  # noqa: N806 - a class
    with Kind() as fills:
        for stream in (many.stream(60), fills.many.stream(60)):
            first = next(stream)
            # Whoever takes this one has let so much time go by that the rest could have come.
            assert 10 == saggar.run("import time; time.sleep(0.5); 10", want_value=True).value
            assert 60 == 1 + sum(len(first) == len(item) for item in stream)


def test_a_coroutine_that_waits_for_nothing_is_interrupted_too():
    class Counts:
        async def endless(self) -> AsyncIterator[int]:
            number = 0
            while True:
                yield (number := number + 1)

        def ping(self):
            return "pong"

    Kind: Any = saggar.remote(timeout=20)(Counts)  # noqa: N806 - a class
    with Kind() as counts:
        stream = counts.endless.stream()
        assert [1, 2] == [next(stream), next(stream)]
        stream.close()
        assert "pong" == counts.ping()
