"""What came of a call, made what its caller wants."""

import pickle
from collections import OrderedDict
from typing import Any

import pytest

from saggar.functions.answers import raised_in, settled, whole
from saggar.functions.errors import InvalidAnswer
from saggar.model.codec import Answer
from saggar.model.result import Result, Status


def result(value: object) -> Result[Any]:
    return Result(status=Status.OK, isolation="jail", value=value)


def value_of(value: object) -> Any:
    return settled(result(value), "f", lambda plain: plain, pickles=False)


def test_an_answer_that_a_queue_has_kept_is_one():
    kept = {"document": {"value": None, "parts": [[[], "bytes", 0, 3]]}, "data": "YWJj"}

    assert b"abc" == value_of(kept)


@pytest.mark.parametrize("data", ["\xe9!!", "a", 5, None, {"a": 1}, ["x"]])
def test_what_only_looks_like_an_answer_is_none(data):
    with pytest.raises(InvalidAnswer, match="f: it ended without an answer"):
        value_of({"document": {"value": 1}, "data": data})


def test_what_it_was_made_of_comes_with_what_it_raised():
    document = {"raised": {"name": "E"}, "value": {"args": [1], "whole": True}, "parts": []}

    assert {"name": "E", "args": [1], "whole": True} == raised_in(result(Answer(document=document)))


@pytest.mark.parametrize("value", [{"value": 1}, {"value": [], "parts": 5}, {}])
def test_without_what_it_was_made_of_there_is_what_it_is_called(value):
    document = {"raised": {"name": "E"}, **value}

    assert {"name": "E"} == raised_in(result(Answer(document=document)))


def test_a_whole_result_has_the_value_of_the_function():
    answer = Answer(document={"value": [1, 2], "parts": [[[], "tuple"]]})
    found = whole(result(answer), "f", lambda plain: plain, pickles=False)

    assert (1, 2) == found.value == found.unwrap()


def test_a_whole_result_without_an_answer_is_a_failure():
    def refuse(plain):
        raise ValueError("no number")

    odd = whole(result(Answer(document={"value": 1})), "f", refuse, pickles=False)
    raised = result(Answer(document={"raised": {"name": "E"}})).replace(status=Status.ERROR)

    assert (Status.ERROR, None) == (odd.status, odd.value)
    assert "InvalidAnswer: f: its answer is not as annotated: no number" == odd.summary()
    assert whole(raised, "f", refuse, pickles=False).value is None


def test_what_was_pickled_is_what_the_function_answered_with():
    data = pickle.dumps(OrderedDict(a=1))
    answer = Answer(document={"pickle": [len(data)]}, data=data)

    def refuse(plain):
        raise ValueError("looked at")

    assert OrderedDict(a=1) == settled(result(answer), "f", refuse, pickles=True)
    with pytest.raises(InvalidAnswer, match="looked at"):
        settled(result(Answer(document={"value": 1})), "f", refuse, pickles=True)
