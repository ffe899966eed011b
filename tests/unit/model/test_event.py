from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from saggar.errors import SandboxBroken
from saggar.model import (
    Display,
    Displayed,
    Event,
    File,
    Finished,
    Output,
    Result,
    Started,
    Usage,
    afold,
    fold,
)

STARTED = Started(isolation="jail")
FINISHED = Finished(
    status="ok", isolation="jail", exit_code=0, value=[1], usage=Usage(wall=0.5), truncated=True
)


def split(data, cuts):
    edges = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.binary(), st.lists(st.integers(0, 32)), st.lists(st.integers(0, 32)), st.booleans())
def test_any_split_of_the_same_output_folds_to_the_same_result(data, cuts, others, errors):
    stream = "stderr" if errors else "stdout"

    def folded(edges):
        return fold(
            [STARTED, *(Output(stream=stream, data=d) for d in split(data, edges)), FINISHED]
        )

    assert folded(cuts) == folded(others)
    assert data == getattr(folded(cuts), f"{stream}_bytes")


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=4))))
def test_each_stream_keeps_its_own_order(chunks):
    result = fold([*(Output(stream=stream, data=data) for stream, data in chunks), FINISHED])

    assert b"".join(data for stream, data in chunks if stream == "stdout") == result.stdout_bytes
    assert b"".join(data for stream, data in chunks if stream == "stderr") == result.stderr_bytes


def test_a_character_that_was_split_is_whole_again():
    first, second = "é"[:1].encode()[:1], "é".encode()[1:]

    assert "é" == fold([out(first), out(second), FINISHED]).stdout


def out(data):
    return Output(stream="stdout", data=data)


def test_a_result_has_everything_the_last_event_has():
    files = (File(path="a", content=b"1"),)
    display = Display(data={"text/plain": "x"})

    folded = fold([STARTED, Displayed(display=display), FINISHED.replace(files=files)])

    assert folded == Result(
        status="ok",
        isolation="jail",
        exit_code=0,
        value=[1],
        usage=Usage(wall=0.5),
        truncated=True,
        files=files,
        displays=(display,),
    )


def test_the_first_end_counts():
    late = FINISHED.replace(exit_code=9)

    assert 0 == fold([FINISHED, late]).exit_code


def test_a_run_without_an_end_is_our_failure():
    with pytest.raises(SandboxBroken, match="ended without a verdict"):
        fold([STARTED, out(b"x")])


@pytest.mark.anyio
async def test_events_fold_as_they_happen():
    async def events():
        for event in (STARTED, out(b"1"), FINISHED):
            yield event

    assert fold([STARTED, out(b"1"), FINISHED]) == await afold(events())


@pytest.mark.parametrize(
    "event", [STARTED, out(b"\xff"), Displayed(display=Display(data={})), FINISHED]
)
def test_an_event_comes_back_from_json_as_it_was(event):
    adapter: TypeAdapter[Event] = TypeAdapter(Event)

    assert event == adapter.validate_json(event.model_dump_json())
