"""Answers that are told as they come to be, to readers who are slow or do not read at all."""

import json

import anyio

from saggar.server.stream import AHEAD, Lines

PART = "x" * 100_000


class Reader:
    """The other end of an answer: it takes what is sent when it is let, and leaves never."""

    def __init__(self) -> None:
        self.reads = anyio.Event()
        self.taken: list[dict[str, object]] = []

    async def send(self, message):
        await self.reads.wait()
        self.taken += map(json.loads, message.get("body", b"").splitlines())

    async def receive(self):
        await anyio.sleep_forever()


class Yields:
    """Documents of a kind, counted, and whether their end was seen."""

    def __init__(self, kind: str, many: int) -> None:
        self.kind, self.many = kind, many
        self.produced, self.ended = 0, False

    async def documents(self):
        try:
            for number in range(self.many):
                self.produced += 1
                yield {"kind": self.kind, "number": number, "data": PART}
        finally:
            self.ended = True


async def test_what_yields_waits_for_whoever_reads_slowly():
    reader, source = Reader(), Yields("yielded", 100)
    answer = Lines(source.documents(), lambda exc: {"failed": str(exc)})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer, {}, reader.receive, reader.send)
        await anyio.wait_all_tasks_blocked()
        produced = source.produced
        reader.reads.set()

    assert AHEAD // len(PART) <= produced <= AHEAD // len(PART) + 2
    assert list(range(100)) == [one["number"] for one in reader.taken]


async def test_what_prints_waits_for_nobody():
    reader, source = Reader(), Yields("output", 100)
    answer = Lines(source.documents(), lambda exc: {"failed": str(exc)})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer, {}, reader.receive, reader.send)
        await anyio.wait_all_tasks_blocked()
        ended = source.ended
        reader.reads.set()

    assert ended
    assert 100 == len(reader.taken)


async def test_whoever_does_not_read_at_all_does_not_hold_what_yields():
    reader, source = Reader(), Yields("yielded", 100)
    answer = Lines(source.documents(), lambda exc: {"failed": str(exc)}, unread=0.01)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer, {}, reader.receive, reader.send)
        with anyio.fail_after(30):
            while not source.ended:
                await anyio.lowlevel.checkpoint()
        reader.reads.set()

    assert "nobody read" in str(reader.taken[-1]["failed"])
    assert source.produced < 100
