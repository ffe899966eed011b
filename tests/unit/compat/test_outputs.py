import time

import pytest

from saggar.compat.outputs import RESET, Outputs, Telling, ending
from saggar.model.event import Cleared, Displayed, Finished, Output, Started
from saggar.model.limits import Limits
from saggar.model.result import Display, ErrorInfo, Status

LIMITS = Limits(memory="256MiB", output="1MiB", cpu=10)


def finished(status=Status.OK, **facts):
    return Finished(status=status, isolation="jail", **facts)


def said(*events, timeout=3.0):
    telling = Telling(timeout, LIMITS)
    return [output for event in events for output in telling.of(event)]


def gathered(*events):
    outputs = Outputs()
    for output in said(*events):
        outputs.add(output)
    return outputs.all()


def out(text, stream="stdout"):
    data = text if isinstance(text, bytes) else text.encode()
    return Output(stream=stream, data=data)


def shown(text, **options):
    return Displayed(display=Display(data={"text/plain": text}, **options))


def test_neighbouring_text_of_one_stream_is_joined():
    events = [out("a"), out("b"), out("c", "stderr"), shown("d"), out("e")]

    assert [
        {"type": "stream", "name": "stdout", "text": "ab"},
        {"type": "stream", "name": "stderr", "text": "c"},
        {"type": "display", "data": {"text/plain": "d"}, "metadata": {}},
        {"type": "stream", "name": "stdout", "text": "e"},
    ] == gathered(Started(isolation="jail"), *events, finished())


def test_a_character_may_be_split_between_two_events():
    euro = "€".encode()

    assert ["€"] == [each["text"] for each in said(out(euro[:1]), out(euro[1:]))]
    assert ["\N{REPLACEMENT CHARACTER}"] == [
        each["text"] for each in said(out(euro[:1]), finished())
    ]


def test_the_value_of_the_last_expression_is_a_result():
    assert [{"type": "result", "data": {"text/plain": "42"}}] == gathered(
        shown("42", role="result"), finished()
    )


def test_what_is_updated_is_shown_once_and_as_it_is_at_the_end():
    events = [shown("one", id="a"), out("x"), shown("two", id="a", update=True)]

    assert ["two", "x"] == [
        each.get("text") or each["data"]["text/plain"] for each in gathered(*events)
    ]
    assert [{"type", "data", "metadata"}, {"type", "name", "text"}] == list(
        map(set, gathered(*events))
    )


def test_an_update_of_nothing_shows_nothing():
    assert [] == gathered(shown("two", id="b", update=True))


def test_a_stream_of_outputs_says_which_replaces_which():
    first, second = said(shown("one", id="a"), shown("two", id="a", update=True))

    assert ("a", None) == (first["display_id"], first.get("update"))
    assert ("a", True) == (second["display_id"], second["update"])


def test_what_is_cleared_is_gone_at_once_or_when_the_next_thing_comes():
    one, two = out("one"), out("two")

    assert [] == gathered(one, Cleared())
    assert ["one"] == [each["text"] for each in gathered(one, Cleared(wait=True))]
    assert ["two"] == [each["text"] for each in gathered(one, Cleared(wait=True), two)]
    assert [{"type": "clear", "wait": True}] == said(Cleared(wait=True))


@pytest.mark.parametrize("metadata", [{"n": float("nan")}, {"n": float("inf")}, {"deep": None}])
def test_metadata_that_not_everybody_can_read_is_left_out(metadata):
    if "deep" in metadata:
        for _ in range(50):
            metadata = {"deep": metadata}

    assert {} == gathered(shown("x", metadata=metadata))[0]["metadata"]


def test_a_million_parts_are_joined_in_good_time():
    outputs, begun = Outputs(), time.monotonic()
    for _ in range(300_000):
        outputs.add({"type": "stream", "name": "stdout", "text": "xxx"})

    assert 900_000 == len(outputs.all()[0]["text"])
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("outcome", "name", "value"),
    [
        (
            finished(Status.TIMEOUT, limit="wall"),
            "TimeoutError",
            "Execution timed out after 3 seconds",
        ),
        (
            finished(Status.TIMEOUT, limit="cpu"),
            "TimeoutError",
            "Execution used 10 seconds of processor time",
        ),
        (
            finished(Status.MEMORY, limit="memory", session_reset=True),
            "MemoryError",
            f"out of memory (OOM): more than 256 MiB were used; {RESET}",
        ),
        (finished(Status.OUTPUT, limit="output"), "OutputLimit", "more than 1 MiB were printed"),
        (finished(Status.CANCELLED), "Cancelled", "the execution was cancelled before it ended"),
        (
            finished(Status.KILLED, signal="SIGSEGV", session_reset=True),
            "KernelDied",
            f"the interpreter was killed by SIGSEGV; {RESET}",
        ),
        (
            finished(
                Status.ERROR,
                exit_code=3,
                session_reset=True,
                error=ErrorInfo(type="SessionReset", message="of the engine's own"),
            ),
            "KernelDied",
            f"the interpreter ended with exit code 3; {RESET}",
        ),
        (
            finished(Status.OK, exit_code=0, session_reset=True),
            "KernelDied",
            f"the interpreter ended with exit code 0; {RESET}",
        ),
        (
            finished(Status.ERROR, error=ErrorInfo(type="ValueError", message="no")),
            "ValueError",
            "no",
        ),
        (finished(Status.ERROR, limit="disk"), "Error", "disk"),
    ],
)
def test_an_end_is_named_by_what_was_seen_from_outside(outcome, name, value):
    found = ending(outcome, 3.0, LIMITS) or {}

    assert ("error", name, value) == (found["type"], found["name"], found["value"])


@pytest.mark.parametrize(("timeout", "seconds"), [(3.0, "3"), (0.5, "0.5"), (120.0, "120")])
def test_the_words_of_a_timeout_are_the_contracts(timeout, seconds):
    error = ErrorInfo(type="KeyboardInterrupt", message="", traceback="one\ntwo")
    (told,) = said(finished(Status.TIMEOUT, limit="wall", error=error), timeout=timeout)
    (reset,) = said(finished(Status.TIMEOUT, limit="wall", session_reset=True), timeout=timeout)

    assert {f"Execution timed out after {seconds} seconds"} == {told["value"], reset["value"]}
    assert (["one", "two"], [RESET]) == (told["traceback"], reset["traceback"])


def test_a_good_end_says_nothing():
    assert ending(finished(), 3.0, LIMITS) is None
