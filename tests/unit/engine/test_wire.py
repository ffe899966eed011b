"""The wire, with the test at the other end of it."""

import os
import select
import socket
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.engine.ends import Ends

from saggar.boundary import frames
from saggar.boundary.frames import DISPLAY, DONE, READY, TASK, Frame
from saggar.engine.wire import CHUNK, FRAMES, Wire

MAX_BLOB = 1 << 20


@pytest.fixture
def ends():
    with Ends() as made:
        yield made


@pytest.fixture
def wire(ends):
    opened = wire_of(ends)
    yield opened
    opened.close()


def wire_of(ends: Any) -> Wire:
    return Wire(ends, max_blob=MAX_BLOB)


def readable(wire, seconds=0.0):
    return bool(select.select([wire.fileno()], [], [], seconds)[0])


def everything(wire):
    """All that the wire gives until it falls silent."""
    found = []
    while heard := list(wire.read()):
        found += heard
    return found


def joined(found, stream):
    return b"".join(data for name, data in (x for x in found if len(x) == 2) if name == stream)


def test_a_silent_tree_has_nothing_to_read(wire):
    assert not readable(wire)
    assert [] == list(wire.read())


def test_one_descriptor_tells_of_all_that_a_tree_can_say(ends, wire):
    for speak in (
        lambda: ends.say(frames.pack(READY, b"{}")),
        lambda: os.write(ends.writes_stdout, b"x"),
        lambda: os.write(ends.writes_stderr, b"x"),
        lambda: ends.close("lives"),
    ):
        assert not readable(wire)
        speak()
        assert readable(wire)
        everything(wire)

    assert wire.exited


def test_frames_and_output_come_as_they_are(ends, wire):
    ends.say(frames.pack(READY, b"{}") + frames.pack(DONE, b'{"exit": 3}', b"blob"))
    os.write(ends.writes_stdout, b"out")
    os.write(ends.writes_stderr, b"err\xff")
    found = everything(wire)

    assert [Frame(READY, b"{}", b""), Frame(DONE, b'{"exit": 3}', b"blob")] == [
        said for said in found if isinstance(said, Frame)
    ]
    assert {("stdout", b"out"), ("stderr", b"err\xff")} == {x for x in found if len(x) == 2}


@given(writes=st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=300)), max_size=20))
@settings(max_examples=30, deadline=None)
def test_each_stream_keeps_its_order_whatever_the_other_does(writes):
    with Ends() as ends:
        wire = wire_of(ends)
        for to_stdout, data in writes:
            os.write(ends.writes_stdout if to_stdout else ends.writes_stderr, data)
        found = everything(wire)
        wire.close()

    for stream, to_stdout in (("stdout", True), ("stderr", False)):
        assert b"".join(data for which, data in writes if which is to_stdout) == joined(
            found, stream
        )


def test_one_reading_takes_a_bounded_piece_of_a_flood(ends, wire):
    """Whoever talks without end is heard in pieces, so that others have their turn."""
    ends.inside.setblocking(False)
    ends.inside.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    os.set_blocking(ends.writes_stdout, False)
    one = frames.pack(DISPLAY, b"{}")
    with suppress(BlockingIOError):
        while True:
            ends.inside.send(one * 1000)
    with suppress(BlockingIOError):
        while True:
            os.write(ends.writes_stdout, bytes(4096))
    heard = list(wire.read())

    assert FRAMES // len(one) + 1 >= sum(isinstance(said, Frame) for said in heard)
    assert CHUNK >= len(joined(heard, "stdout")) > 0
    assert readable(wire)


def test_a_frame_that_comes_in_crumbs_is_one_frame(ends, wire):
    data = frames.pack(DISPLAY, b"{}", bytes(100_000))
    found = []
    for start in range(0, len(data), 9_999):
        ends.say(data[start : start + 9_999])
        found += everything(wire)

    assert [Frame(DISPLAY, b"{}", bytes(100_000))] == found


def test_a_task_is_one_frame_and_stdin_is_at_its_end(ends, wire):
    wire.send(b"the order", b"")
    expected = frames.pack(TASK, b"the order")

    assert expected == ends.hear(len(expected))
    assert -1 == ends.stdin
    assert os.read(ends.reads_stdin, 1) == b""


def test_the_input_is_there_before_the_task(ends, wire):
    """A program that looks without waiting finds it."""
    wire.send(b"the order", b"input")

    assert os.read(ends.reads_stdin, 100) == b"input"
    assert os.read(ends.reads_stdin, 100) == b""


def test_a_task_larger_than_the_sockets_buffer_follows_piece_by_piece(ends, wire):
    head = os.urandom(3 << 20)
    wire.send(head, b"")
    got = b""
    while len(got) < len(head) + frames.HEADER.size:
        got += ends.inside.recv(1 << 16)
        assert [] == list(wire.read())

    assert frames.pack(TASK, head) == got
    assert not readable(wire)


def test_a_large_input_follows_as_it_is_read(ends, wire):
    data = os.urandom(1 << 20)
    wire.send(b"", data)
    got = b""
    while len(got) < len(data):
        got += os.read(ends.reads_stdin, 1 << 16)
        assert [] == list(wire.read())

    assert data == got
    assert os.read(ends.reads_stdin, 1) == b""


def test_a_reader_that_stops_reading_blocks_nobody(ends, wire):
    """Its pipe is full; whatever else it says is heard."""
    wire.send(b"", bytes(1 << 20))
    everything(wire)
    os.write(ends.writes_stdout, b"busy")

    assert [("stdout", b"busy")] == everything(wire)
    assert ends.stdin >= 0


def test_a_reader_that_closes_its_input_is_given_no_more(ends, wire):
    wire.send(b"", bytes(1 << 20))
    ends.close("reads_stdin")
    everything(wire)

    assert -1 == ends.stdin
    assert not readable(wire)


def test_an_input_that_nobody_ever_reads_is_no_error(ends, wire):
    ends.close("reads_stdin")
    wire.send(b"order", b"input")

    assert -1 == ends.stdin


def test_a_task_for_somebody_who_is_gone_is_no_error(ends, wire):
    ends.inside.close()
    wire.send(bytes(3 << 20), b"")

    assert [] == everything(wire)
    assert not readable(wire)


def test_a_channel_that_closes_while_the_task_is_sent_is_let_go(ends, wire):
    wire.send(bytes(3 << 20), b"")
    ends.hear(1000)
    ends.inside.close()

    assert [] == everything(wire)
    assert not wire.garbled
    assert not readable(wire)


def test_a_closed_channel_is_not_the_end_of_the_output(ends, wire):
    ends.say(frames.pack(READY))
    ends.inside.close()
    os.write(ends.writes_stdout, b"still here")
    found = everything(wire)

    assert [Frame(READY, b"", b"")] == [said for said in found if isinstance(said, Frame)]
    assert joined(found, "stdout") == b"still here"
    assert not wire.exited


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello, I am no frame",
        struct.pack("<BBxxII", 2, READY, 0, 0),
        struct.pack("<BBxxII", 1, TASK, 0, 0),
        struct.pack("<BBxxII", 1, DONE, 0, MAX_BLOB + 1),
        struct.pack("<BBxxII", 1, DONE, 1 << 31, 0),
    ],
)
def test_what_is_no_frame_ends_the_listening_and_what_came_before_it_counts(ends, wire, garbage):
    ends.say(frames.pack(READY) + garbage + frames.pack(DONE))

    assert [Frame(READY, b"", b"")] == everything(wire)
    assert wire.garbled
    ends.say(frames.pack(DONE) * 3)
    assert not readable(wire)


def test_after_garbage_the_task_is_not_sent_any_further(ends, wire):
    wire.send(bytes(3 << 20), b"")
    ends.say(b"garbage enough")
    everything(wire)

    assert wire.garbled
    assert not readable(wire)


def test_a_pipe_that_ends_is_not_waited_for_any_more(ends, wire):
    ends.close("writes_stdout")
    ends.close("writes_stderr")

    assert [] == everything(wire)
    assert not readable(wire)


def test_what_the_dead_have_said_and_written_is_still_there(ends, wire):
    """More than one reading takes: of frames, and of both streams."""
    ends.inside.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    ends.say(frames.pack(DISPLAY, b"{}", bytes(3 * FRAMES)))
    os.write(ends.writes_stdout, b"x" * 60_000)
    os.write(ends.writes_stderr, b"last words")
    ends.die()
    heard = list(wire.read())
    assert wire.exited
    heard += wire.drain()

    assert [3 * FRAMES] == [len(said.blob) for said in heard if isinstance(said, Frame)]
    assert (60_000, b"last words") == (len(joined(heard, "stdout")), joined(heard, "stderr"))


def test_what_is_drained_of_a_broken_channel_is_what_came_before_it_broke(ends, wire):
    ends.say(frames.pack(READY) + b"garbage enough" + frames.pack(DONE))
    ends.die()
    heard = [*wire.read(), *wire.drain()]

    assert [Frame(READY, b"", b"")] == [said for said in heard if isinstance(said, Frame)]
    assert wire.garbled


def test_a_survivor_that_holds_the_pipes_does_not_hold_the_drain(ends, wire):
    os.write(ends.writes_stdout, b"before")
    ends.close("lives")
    heard = [*wire.read(), *wire.drain()]

    assert joined(heard, "stdout") == b"before"


def test_closing_leaves_the_descriptors_to_their_owner(ends):
    wire = wire_of(ends)
    wire.close()

    for fd in (ends.channel.fileno(), ends.stdin, ends.stdout, ends.stderr, ends.exited):
        os.fstat(fd)
