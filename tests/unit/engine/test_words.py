"""What a guest says, made fit to be kept."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.engine import words
from saggar.model.result import Display

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=20,
)
DEEP = [b"[" * depth + b"]" * depth for depth in (100, 900, 990, 1000, 5000, 100_000)]


@given(ANYTHING)
def test_a_word_is_text_that_has_a_form(said: object):
    words.text(said).encode()


@pytest.mark.parametrize("deep", DEEP, ids=len)
def test_what_nests_deep_is_no_word_and_no_structure(deep: bytes):
    """A parser may go deeper than a printer: nothing of it is walked again."""
    head = words.json_object(b'{"type": ' + deep + b"}")

    assert "" == words.text(head.get("type", ""))
    assert {} == words.structure(head) or len(deep) <= 2 * 64


@given(ANYTHING)
def test_a_structure_can_be_written_down_by_everybody(said: object):
    kept = words.structure(json.loads(json.dumps(said)))

    assert json.dumps(kept, allow_nan=False)
    assert Display(data={}, metadata=kept).model_dump_json()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (0, 0),
        (7, 7),
        (-1, None),
        (True, None),
        (10**30, None),
        ("7", None),
        (1.0, None),
        ([], None),
    ],
)
def test_a_number_counts_something(said: object, kept: int | None):
    assert kept == words.number(said)


@given(st.binary())
def test_any_bytes_are_an_object_or_an_empty_one(said: bytes):
    assert isinstance(words.json_object(said), dict)
    assert isinstance(words.json_list(said), list)
    assert isinstance(words.bundle(said), dict)


def test_half_a_character_is_replaced():
    assert {"text/plain": "a?"} == words.bundle(rb'{"text/plain": "a\ud800", "x": 7}')
