import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.boundary import control as ctl

RECORDS = st.builds(
    ctl.Record,
    st.sampled_from([ctl.PARK, ctl.PARKED, ctl.GONE, ctl.FAILED, ctl.RELEASE]),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.floats(0, 1e9),
    st.integers(0, 2**64 - 1),
    st.text(max_size=100),
)


@given(record=RECORDS)
def test_a_record_comes_back_as_it_was(record):
    assert record == ctl.unpack(ctl.pack(*record))


@given(data=st.binary(max_size=100))
def test_a_packet_that_is_no_record_is_told_by_one_error(data):
    """The host waits for exactly this one; a record of an unknown kind is nobody's business."""
    if len(data) < ctl.RECORD.size:
        with pytest.raises(struct.error):
            ctl.unpack(data)
    else:
        assert data[0] == ctl.unpack(data).kind


def test_a_text_without_an_end_is_cut_to_one_packet():
    """A sequenced-packet socket would cut it anyway, and take the descriptors with it."""
    data = ctl.pack(ctl.FAILED, 7, text="é" * ctl.MAX_RECORD)

    assert ctl.MAX_RECORD == len(data)
    assert ctl.unpack(data).text.startswith("é" * 8000)


def test_a_text_that_has_no_utf_8_form_is_still_told():
    assert ctl.unpack(ctl.pack(ctl.FAILED, 7, text="file \udcff")).text == "file ?"


def test_the_longest_record_passes_through_the_socket_with_all_its_descriptors():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        record = ctl.pack(ctl.PARKED, 1, text="x" * ctl.MAX_RECORD)
        socket.send_fds(theirs, [record], [0] * len(ctl.DESCRIPTORS))
        data, fds, flags, _ = socket.recv_fds(ours, ctl.MAX_RECORD, len(ctl.DESCRIPTORS))
        for fd in fds:
            os.close(fd)

    assert (record, len(ctl.DESCRIPTORS), 0) == (data, len(fds), flags & ~socket.MSG_CMSG_CLOEXEC)


def test_a_reason_names_the_function_that_failed():
    def climb():
        raise PermissionError(1, "no ladder")

    with pytest.raises(PermissionError) as caught:
        climb()
    place = f"(in climb, line {climb.__code__.co_firstlineno + 1})"

    assert f"PermissionError: [Errno 1] no ladder {place}" == ctl.reason(caught.value)


def test_a_reason_without_a_place_is_only_the_error():
    assert ctl.reason(OSError("gone")) == "OSError: gone"
