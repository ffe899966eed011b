"""ZMTP as the host speaks it: what a peer may say, and that nothing it says has no bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.engine import zmtp
from saggar.engine.zmtp import Decoder, NotSpoken, TooLong

LARGEST = 1000
HELLO = zmtp.opening("ROUTER")


def decoded(data, largest=LARGEST, step=1 << 20):
    decoder = Decoder(largest)
    found: list = []
    for start in range(0, len(data), step):
        found += decoder.feed(data[start : start + step])
    return found


@given(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=3)), st.integers(1, 400))
def test_what_was_packed_is_read_however_it_is_cut(messages, step):
    data = HELLO + b"".join(map(zmtp.packed, messages))

    assert messages == decoded(data, step=step)


def test_a_peer_is_ready_when_it_says_so():
    decoder = Decoder(LARGEST)
    list(decoder.feed(zmtp.GREETING))
    before = decoder.ready
    list(decoder.feed(HELLO[len(zmtp.GREETING) :]))

    assert (False, True) == (before, decoder.ready)


@pytest.mark.parametrize(
    "parts",
    [[b"x" * 1001], [b"x" * 600, b"y" * 600, b"z"], [b""] * 300],
    ids=["one part", "in all", "many parts"],
)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_what_is_too_long_is_dropped_and_what_follows_is_read(parts, step):
    data = HELLO + zmtp.packed(parts) + zmtp.packed([b"next"])
    first, second = decoded(data, step=step)

    assert isinstance(first, TooLong)
    assert [b"next"] == second


def test_parts_without_an_end_are_not_kept():
    """A message of which the last part never comes: libzmq would keep them all."""
    decoder = Decoder(LARGEST)
    list(decoder.feed(HELLO))
    part = zmtp.packed([b"x" * 100, b""])[:102]
    for _ in range(1000):
        assert [] == list(decoder.feed(part))

    assert 0 == len(decoder._parts)
    assert 200 > len(decoder._buffer)


def test_a_part_of_any_length_is_dropped_as_it_comes():
    decoder = Decoder(LARGEST)
    list(decoder.feed(HELLO + bytes([zmtp.LONG]) + (1 << 62).to_bytes(8, "big")))
    for _ in range(100):
        list(decoder.feed(b"x" * 10_000))

    assert 0 == len(decoder._buffer)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n" * 8,
        b"\xff" + b"\0" * 8 + b"\x7e" + b"\0" * 60,
        zmtp.GREETING.replace(b"\x7f\x03", b"\x7f\x01"),
        zmtp.GREETING.replace(b"NULL", b"CURV"),
        HELLO + b"\x08\x00",
        HELLO + bytes([zmtp.COMMAND | zmtp.LONG]) + (1 << 20).to_bytes(8, "big"),
    ],
    ids=["http", "signature", "version", "mechanism", "flags", "command"],
)
def test_what_is_not_this_protocol_is_said_to_be_none(data):
    with pytest.raises(NotSpoken):
        decoded(data)


@given(st.binary(max_size=2000))
def test_whatever_comes_is_a_message_or_not_spoken(data):
    try:
        found = decoded(HELLO + data)
    except NotSpoken:
        return

    assert all(isinstance(one, (list, TooLong)) for one in found)
