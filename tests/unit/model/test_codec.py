import json
import math
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.errors import InvalidTask
from saggar.model import Payload, decode_value, encode_input
from saggar.model.codec import DEEPEST, JSON, MOST

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back_as_it_was(value):
    payload = encode_input(value)

    assert value == decode_value(payload.data, payload.media_type)


def test_no_payload_is_not_the_same_as_null():
    assert Payload.none().is_none
    assert not Payload.json(None).is_none
    assert b"null" == encode_input(None).data


def test_a_payload_is_taken_as_it_is():
    payload = Payload(media_type="text/csv", data=b"a,b")

    assert payload is encode_input(payload)


@pytest.mark.parametrize(
    "fields", [{"data": b"x"}, {"media_type": "json"}, {"media_type": "a/b\n"}]
)
def test_a_payload_says_what_its_bytes_are(fields):
    with pytest.raises(InvalidTask, match="media type such as 'application/json'"):
        Payload(**fields)


class Colour(IntEnum):
    RED = 1


def test_tuples_and_enumerations_become_their_json_forms():
    assert b'{"a":[1,2],"b":1}' == encode_input({"a": (1, 2), "b": Colour.RED}).data


LOOP: list[object] = [1]
LOOP.append({"again": LOOP})


@pytest.mark.parametrize(
    ("complaint", "value"),
    [
        ("input: nan has no JSON form", math.nan),
        ("input at /1: inf has no JSON form", [1.0, math.inf]),
        ("input at /a~1b/0/~0: bytes have no JSON form", {"a/b": [{"~": b""}]}),
        ("input at /1/again: contains itself", LOOP),
        ("input at /a/1: the key 1 is not text", {"a": {1: 2}}),
        ("input at /0/None: the key None is not text", [{None: 2}]),
        ("input at /0: set has no JSON form", [{1}]),
        ("input at /0: object has no JSON form", (object(),)),
        ("input at /a: holds characters that have no UTF-8 form", {"a": "\udcff"}),
    ],
)  # fmt: skip
def test_what_has_no_json_form_is_named_by_its_pointer(complaint, value):
    with pytest.raises(InvalidTask) as caught:
        encode_input(value)

    assert str(caught.value).startswith(complaint)


def test_a_key_without_utf8_form_is_refused():
    with pytest.raises(InvalidTask, match="input"):
        encode_input({"\udcff": 1})


def test_the_same_list_twice_is_not_a_cycle():
    same = [1]

    assert b"[[1],[1]]" == encode_input([same, same]).data


def test_an_input_too_deep_for_the_stack_is_refused():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(InvalidTask, match="nests too deep"):
        encode_input(deep)


def nested(depth):
    return b"[" * depth + b"]" * depth


def test_a_value_may_nest_up_to_the_cap():
    decode_value(nested(DEEPEST), JSON)

    with pytest.raises(ValueError, match="nests deeper than 64"):
        decode_value(nested(DEEPEST + 1), JSON)


def test_many_brackets_are_not_depth():
    assert [[]] * 1000 == decode_value(json.dumps([[]] * 1000).encode(), JSON)


@pytest.mark.parametrize(
    "lie",
    [
        b"",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"[-1E999]",
        b'{"a": ' + b"9" * 400 + b".0}",
        b"\xff",
        b'"\xff"',
        b'"\\ud800"',
        b"{'a': 1}",
        b"[1,]",
        b"1 2",
        b"9" * 5000,
        nested(100_000),
        b'{"a":' * 50_000,
    ],
)
def test_what_a_guest_should_not_write_is_refused(lie):
    with pytest.raises(ValueError, match=r"^the value (is not JSON|holds a number|nests)"):
        decode_value(lie, JSON)


def test_only_known_media_types_are_decoded():
    assert decode_value(b"", None) is None

    with pytest.raises(ValueError, match="no codec for media type 'application/x-pickle'"):
        decode_value(b"cos\nsystem\n", "application/x-pickle")


def test_a_large_exponent_that_fits_is_taken():
    assert 1e300 == decode_value(b"1e300", JSON)
    assert "1e999" == decode_value(b'"1e999"', JSON)


def test_a_value_of_more_lists_than_anybody_reads_is_refused_before_it_is_built():
    crowd = b"[" + b",".join([b"[]"] * MOST) + b"]"

    with pytest.raises(ValueError, match="more than 200,000 lists and objects"):
        decode_value(crowd, JSON)


def test_brackets_in_a_text_are_text():
    text = '[{"\\' * MOST

    assert text == decode_value(json.dumps(text).encode(), JSON)
