"""A cell: what becomes of what its interpreter says, without one."""

import json
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from saggar.boundary import frames
from saggar.boundary.frames import Frame
from saggar.drivers.base import Reading
from saggar.engine.cell import MAX_DISPLAYS, Cell
from saggar.engine.interpreter import Said
from saggar.model.event import Cleared, Displayed, Event, Finished, Output, Started
from saggar.model.limits import Limits
from saggar.model.result import Status

LIMITS = Limits(output="64KiB")
DONE = Frame(frames.DONE, b'{"count": 1}', b"")


class Scripted:
    """An interpreter that says what it was given, at once."""

    alive, lost, exited = True, False, None

    def __init__(self, said: Iterable[Said]) -> None:
        self._said = said

    def request(self, do: str, text: str = "", **head: object) -> None:
        """It knows already."""

    async def heard(self) -> None:
        """It has."""

    def hear(self) -> Iterator[Said]:
        """All of it."""
        said, self._said = self._said, ()
        yield from said

    def rest(self) -> Iterator[Said]:
        """Nothing."""
        return iter(())

    async def signal(self, number: int) -> None:
        """It ends by itself."""


def frame(kind: int, head: object = None, blob: bytes = b"") -> Frame:
    said = head if isinstance(head, bytes) else json.dumps(head or {}).encode()
    return Frame(kind, said, blob)


def written(data: bytes, stream: str = "stdout") -> Output:
    return Output(stream=stream, data=data)


async def events(*said: Said) -> list[Event]:
    process = SimpleNamespace(first_read=Reading, read=Reading)
    sandbox: Any = SimpleNamespace(
        used=None, process=process, isolation="none", paused=False, alive=True
    )
    cell = Cell(sandbox, Scripted([*said, DONE]), LIMITS, 5.0)  # type: ignore[arg-type]
    return [event async for event in cell.events("run", "")]


async def verdict(*said: Said) -> Finished:
    last = (await events(*said))[-1]
    assert isinstance(last, Finished)
    return last


async def test_crumbs_of_one_stream_stay_together():
    found = await events(*[written(b"x")] * 100, written(b"e", "stderr"), *[written(b"y")] * 3)

    assert [(b"x" * 100), b"e", b"yyy"] == [e.data for e in found if isinstance(e, Output)]


async def test_a_clear_after_a_clear_is_none():
    clear = frame(frames.CLEARED)
    found = await events(*[clear] * 1000, written(b"x"), clear, clear, frame(frames.TEXT), clear)

    assert [Started, Cleared, Output, Cleared, Finished] == [type(event) for event in found]


async def test_text_without_any_is_no_event():
    assert [Started, Finished] == [type(e) for e in await events(*[frame(frames.TEXT)] * 50)]


async def test_what_stands_beside_a_display_counts():
    heavy = frame(frames.DISPLAY, {"metadata": {"x": "y" * 30_000}}, b'{"text/plain": "x"}')
    found = await events(heavy, heavy, heavy)

    assert 2 == sum(isinstance(event, Displayed) for event in found)
    assert (Status.OUTPUT, True) == (found[-1].status, found[-1].truncated)


async def test_more_displays_than_may_be_are_dropped():
    shown = frame(frames.DISPLAY, {}, b'{"a/b": ""}')
    found = await events(*[shown] * (MAX_DISPLAYS + 10))

    assert MAX_DISPLAYS == sum(isinstance(event, Displayed) for event in found)


@pytest.mark.parametrize(
    ("said", "count"),
    [(7, 7), (0, 0), (-1, None), (10**30, None), (True, None), ("7", None), ([], None)],
)
async def test_a_count_is_one(said: object, count: int | None):
    cell = Cell(None, None, LIMITS, 5.0)  # type: ignore[arg-type]
    cell._done({"count": said})

    assert count == cell.count


@pytest.mark.parametrize(
    "head",
    [
        {"type": [], "message": {}, "traceback": 7},
        b'{"type": ' + b"[" * 990 + b"]" * 990 + b"}",
        b'{"type": ' + b"[" * 100_000,
        b'{"message": "\\ud800"}',
        b"\xff",
    ],
)
async def test_an_error_is_text_that_can_be_written_down(head: object):
    result = await verdict(frame(frames.ERROR, head))

    assert Status.ERROR is result.status
    assert result.model_dump_json()


@pytest.mark.parametrize("depth", [10, 100, 500, 900, 980, 990, 1000, 5000, 100_000])
async def test_metadata_can_be_written_down_however_deep_it_came(depth: int):
    nested = b'{"metadata": {"x": ' + b"[" * depth + b"]" * depth + b'}, "id": []}'
    for event in await events(frame(frames.DISPLAY, nested, b'{"a/b": ""}')):
        assert event.model_dump_json()


async def test_what_comes_after_the_end_is_nothing():
    found = await events(DONE, frame(frames.VALUE, {"media_type": "application/json"}, b"1"))

    assert found[-1].value is None


async def test_only_the_last_value_counts_and_none_beside_an_error():
    value = {"media_type": "application/json"}
    assert (
        2
        == (await verdict(frame(frames.VALUE, value, b"1"), frame(frames.VALUE, value, b"2"))).value
    )
    both = frame(frames.VALUE, value, b"1"), frame(frames.ERROR, {"type": "E"})
    assert (await verdict(*both)).value is None


@pytest.mark.parametrize("blob", [b"NaN", b"1e999", b"[" * 70 + b"]" * 70, b"\xff", b""])
async def test_a_value_that_is_no_json_is_an_error_of_the_cell(blob: bytes):
    result = await verdict(frame(frames.VALUE, {"media_type": "application/json"}, blob))

    assert "InvalidValue" == result.error.type
