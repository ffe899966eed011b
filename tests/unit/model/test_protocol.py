"""What is said to a program, and what is made of its answer, whatever bytes that is."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.errors import InvalidTask
from saggar.model.codec import Payload
from saggar.model.protocol import Answered, decode_answer, encode_request, quoted
from saggar.model.result import ErrorInfo

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_a_request_carries_any_value(value):
    assert {"input": value} == json.loads(encode_request(value))


@given(VALUES)
def test_an_answer_carries_any_value(value):
    text = json.dumps({"ok": True, "output": value}).encode() + b"\n"

    assert Answered(value) == decode_answer(text)


@given(st.binary(max_size=2000))
def test_any_bytes_are_an_answer_or_an_error(said):
    assert isinstance(decode_answer(said), Answered | ErrorInfo)


@given(VALUES, st.text(min_size=1).filter(str.strip))
def test_nothing_may_follow_an_answer(value, more):
    text = json.dumps({"ok": True, "output": value}) + "\n" + more

    assert isinstance(decode_answer(text.encode(errors="replace")), ErrorInfo)


@given(VALUES)
def test_an_ok_that_is_no_boolean_decides_nothing(ok):
    found = decode_answer(json.dumps({"ok": ok, "output": 1}).encode())

    assert (ok is True) == isinstance(found, Answered)


def test_schemas_go_along_with_the_input():
    request = json.loads(encode_request([1], {"type": "array"}, True))

    assert {"schema_in": {"type": "array"}, "schema_out": True, "input": [1]} == request


def test_a_payload_is_carried_as_it_was_written():
    data = b'{"n": 1.0, "n2": 10000000000000000000000}'

    assert data in encode_request(Payload(media_type="application/json", data=data))


def test_no_payload_is_null():
    assert b'{"input":null}' == encode_request(Payload.none()) == encode_request(None)


def test_what_has_no_json_form_is_refused_with_its_place():
    with pytest.raises(InvalidTask, match="input at /a/1: nan has no JSON form"):
        encode_request({"a": [1, float("nan")]})
    with pytest.raises(InvalidTask, match="schema_out at /x: bytes have no JSON form"):
        encode_request(1, None, {"x": b""})
    with pytest.raises(InvalidTask, match="wanted application/json, found text/csv"):
        encode_request(Payload(media_type="text/csv", data=b"1"))


def test_an_error_is_told_with_its_code_and_its_details():
    error = {"message": "no", "code": "EXECUTION", "details": "Traceback"}
    found = decode_answer(json.dumps({"ok": False, "error": error}).encode())

    assert ErrorInfo(type="EXECUTION", message="no", traceback="Traceback") == found


def test_details_of_any_form_become_text():
    error = {"message": "no", "code": "EXECUTION", "details": {"line": 3}}
    found = decode_answer(json.dumps({"ok": False, "error": error}).encode())

    assert isinstance(found, ErrorInfo)
    assert '{"line": 3}' == found.traceback


def test_half_a_character_is_no_part_of_an_error():
    said = rb'{"ok": false, "error": {"message": "\ud800", "code": "EXECUTION"}}'
    found = decode_answer(said)

    assert isinstance(found, ErrorInfo)
    found.model_dump_json()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "the program wrote no answer on stdout"),
        (b" \n\t", "the program wrote no answer on stdout"),
        (b"hello", "the answer is not JSON"),
        (b'{"ok": true, "output": 1', "the answer is not JSON"),
        (b'{"ok": true, "output": NaN}', "the answer is not JSON"),
        (b'{"ok": true, "output": 1e999}', "a number that is too large"),
        (b"[" * 100 + b"]" * 100, "the answer nests deeper than 64"),
        (b"\xff\xfe", "the answer is not JSON"),
        (b'{"ok": true, "output": 1}{"ok": false}', "there are two answers"),
        (b'{"ok": true, "output": 1}\n\n7', "there are two answers"),
        (b'\n\r\n{"ok": true, "output": "\xc3\xa9"}\r\n {"a": [NaN]}', "something follows"),
        (b'{"ok": true, "output": "\xc3\xa9"}\r\n\n {"a": 1} {}', "there are two answers"),
        (b"[[]," * 100_001, "the answer holds more than 200,000 lists and objects"),
        (b'{"ok": true, "output": 1} bye', "something follows the answer"),
        (b'{"ok": 1, "output": 1}', "neither true nor false, but int"),
        (b'{"ok": "true", "output": 1}', "neither true nor false, but str"),
        (b'{"ok": true}', "is ok and has no output"),
        (b'{"ok": false}', "has no error with a message and a code"),
        (b'{"ok": false, "error": "no"}', "has no error with a message and a code"),
        (b'{"ok": false, "error": {"message": 1, "code": "X"}}', "has no error with a message"),
        (b'{"output": 1}', "the answer has no ok"),
        (b"[true]", "the answer is no object, but list"),
        (b"null", "the answer is no object, but NoneType"),
    ],
)
def test_what_is_no_answer_is_named(said, why):
    found = decode_answer(said)

    assert isinstance(found, ErrorInfo)
    assert "InvalidAnswer" == found.type
    assert why in found.message


def test_a_refusal_shows_both_ends_and_no_more():
    found = decode_answer(b"a" * 300 + b"b" * 300)

    assert isinstance(found, ErrorInfo)
    assert "a" * 200 in found.message
    assert "b" * 200 in found.message
    assert 600 > len(found.message)


def test_a_hundred_megabytes_are_refused_before_they_are_read():
    said = b'{"ok": true, "output": "' + b"x" * 100_000_000 + b'"}'
    begun = time.perf_counter()
    found = decode_answer(said)

    assert isinstance(found, ErrorInfo)
    assert "OUTPUT_TOO_LARGE" == found.type
    assert "100,000,026 bytes, more than the 4,194,304 allowed" in found.message
    assert 1 > time.perf_counter() - begun


def test_few_bytes_are_quoted_once():
    assert "'abc'" == quoted(b"abc")
