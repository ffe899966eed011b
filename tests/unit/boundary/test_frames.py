import json
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.boundary import frames
from saggar.boundary.frames import DONE, KINDS, READY, TASK, VALUE, VERSION, Decoder, Frame

LARGEST = 300
FRAMES = st.lists(
    st.builds(
        Frame,
        st.sampled_from(sorted(KINDS)),
        st.binary(max_size=40),
        st.binary(max_size=LARGEST),
    ),
    max_size=6,
)


def packed(found):
    return b"".join(frames.pack(*frame) for frame in found)


def chunked(data, cuts):
    """`data` in pieces, cut at these places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def fed(decoder, chunks):
    return [frame for chunk in chunks for frame in decoder.feed(chunk)]


@given(found=FRAMES, cuts=st.lists(st.integers(0, 4000), max_size=12))
def test_frames_arrive_as_they_were_sent_however_they_are_cut(found, cuts):
    assert found == fed(Decoder(LARGEST), chunked(packed(found), cuts))


def test_a_frame_arrives_byte_by_byte():
    data = frames.pack(VALUE, b"head", b"blob")
    decoder = Decoder(LARGEST)

    assert [] == fed(decoder, [bytes([byte]) for byte in data[:-1]])
    assert [Frame(VALUE, b"head", b"blob")] == fed(decoder, [data[-1:]])


def test_an_empty_frame_is_its_header():
    assert frames.HEADER.size == len(frames.pack(READY))
    assert [Frame(READY, b"", b"")] == fed(Decoder(0), [frames.pack(READY)])


@given(garbage=st.binary(max_size=200), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_garbage_is_frames_or_an_error_of_ours_and_nothing_else(garbage, cuts):
    try:
        found = fed(Decoder(LARGEST), chunked(garbage, cuts))
    except frames.FrameError:
        return

    assert garbage.startswith(packed(found))


@given(found=FRAMES, version=st.integers(0, 255).filter(lambda number: number != VERSION))
def test_what_came_before_the_garbage_is_given(found, version):
    given_before: list[Frame] = []
    with pytest.raises(frames.FrameError):
        given_before.extend(Decoder(LARGEST).feed(packed(found) + bytes([version] * 12)))

    assert found == given_before


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused_by_its_number(version):
    data = struct.pack("<BBxxII", version, READY, 0, 0)

    with pytest.raises(frames.FrameError, match=f"version 1: version {version}, kind {READY}"):
        fed(Decoder(LARGEST), [data])


@pytest.mark.parametrize("kind", [0, TASK, max(KINDS) + 1, 255])
def test_kinds_that_guests_do_not_send_are_refused(kind):
    with pytest.raises(frames.FrameError, match=f"kind {kind}"):
        fed(Decoder(LARGEST), [frames.pack(kind)])


@pytest.mark.parametrize(("head", "blob"), [(frames.MAX_HEAD + 1, 0), (0, LARGEST + 1)])
def test_what_is_too_large_is_refused_by_its_header_alone(head, blob):
    """Before a byte of it is waited for."""
    with pytest.raises(frames.FrameError, match=f"head {head}, blob {blob} bytes"):
        fed(Decoder(LARGEST), [struct.pack("<BBxxII", VERSION, VALUE, head, blob)])


def test_the_largest_frame_that_is_allowed_passes():
    frame = Frame(VALUE, bytes(frames.MAX_HEAD), bytes(LARGEST))

    assert [frame] == fed(Decoder(LARGEST), [frames.pack(*frame)])


def test_a_stream_that_broke_once_stays_broken():
    decoder = Decoder(LARGEST)
    for _ in range(2):
        with pytest.raises(frames.FrameError):
            fed(decoder, [frames.pack(TASK), frames.pack(READY)])


def test_nothing_is_read_of_a_head_but_its_length():
    """Whether it is JSON is for whoever wants it to be."""
    head = json.dumps({"exit": 0}).encode()[:-3]

    assert [Frame(DONE, head, b"")] == fed(Decoder(LARGEST), [frames.pack(DONE, head)])
