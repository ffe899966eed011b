"""Jupyter's messages: what is signed is read, and lies are named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.engine.jupyter import DELIMITER, Garbled, Said, Signer

KEY = "secret"


def test_what_was_packed_is_read():
    number, parts = Signer(KEY).pack("execute_request", {"code": "1"}, {"saggar": {}})
    said = Signer(KEY).unpack([b"topic", *parts])

    assert number == json.loads(parts[2])["msg_id"]
    assert Said("execute_request", "", {"code": "1"}, {"saggar": {}}) == said


def test_every_part_is_signed():
    _, parts = Signer(KEY).pack("status", {"execution_state": "idle"}, {})
    for place in range(2, 6):
        changed = [*parts]
        changed[place] += b" "

        with pytest.raises(Garbled, match="signature"):
            Signer(KEY).unpack(changed)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([], "delimiter"),
        ([b"x"] * 20 + [DELIMITER], "delimiter"),
        ([DELIMITER, b"", b"{}", b"{}"], "four parts"),
        (Signer("another").pack("status", {}, {})[1], "signature"),
    ],
)
def test_what_is_no_message_is_named(parts, why):
    with pytest.raises(Garbled, match=why):
        Signer(KEY).unpack(parts)


@given(st.lists(st.binary(max_size=40), min_size=4, max_size=4))
def test_signed_parts_of_any_kind_are_a_message_or_garbled(parts):
    """The key is known inside: a signature is no proof of JSON."""
    signer = Signer(KEY)
    try:
        said = signer.unpack([DELIMITER, signer._sign(parts), *parts])
    except Garbled:
        return

    assert isinstance(said.content, dict)
    assert isinstance(said.kind, str)
