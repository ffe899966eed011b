"""The host's side of a kernel, without one: its sockets, and what it makes of what is said."""

import json
import os
import stat

import pytest

from saggar.boundary import frames
from saggar.engine import kernel
from saggar.engine.kernel import CHANNELS, Channel, Listeners


@pytest.fixture
def listeners():
    made = Listeners()
    yield made
    made.close()


def test_sockets_listen_where_only_their_user_may_enter(listeners):
    mode = stat.S_IMODE(os.stat(listeners.folder).st_mode)

    assert 0o700 == mode
    assert len(CHANNELS) == len(os.listdir(listeners.folder))
    assert 100 > max(len(listeners.path(number)) for number in range(1, 6))


def test_who_connected_stays_connected_when_the_names_are_gone(listeners):
    ours = Channel(listeners.connect("shell"), "DEALER", 1000)
    theirs, _ = listeners.sockets[0].accept()
    listeners.close()
    theirs.sendall(b"\xff")

    assert not os.path.exists(listeners.folder)
    assert b"\xff" == theirs.recv(1)
    assert [] == list(ours.read())
    ours.socket.close()
    theirs.close()


def test_names_that_somebody_removed_are_made_again(listeners):
    os.unlink(listeners.path(1))
    listeners.listen()

    listeners.connect("shell").close()


def head(frame):
    return json.loads(frame.head)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"text/plain": "x"}, {"text/plain": "x"}),
        ({"text/plain": ["x\n", "y"]}, {"text/plain": "x\ny"}),
        ({"application/json": {"a": 1}}, {"application/json": '{"a": 1}'}),
        (None, {}),
        ([1], {}),
    ],
)
def test_every_representation_is_text(data, expected):
    shown = kernel._display({"data": data, "metadata": 7, "transient": []})

    assert expected == json.loads(shown.blob)
    assert {} == head(shown)


def test_a_display_keeps_its_id_and_its_metadata():
    shown = kernel._display(
        {"data": {}, "metadata": {"image/png": {"width": 1}}, "transient": {"display_id": "one"}},
        update=True,
    )

    assert {"id": "one", "metadata": {"image/png": {"width": 1}}, "update": True} == head(shown)


@pytest.mark.parametrize(
    ("metadata", "blob", "media"),
    [
        ({"saggar": {"value": "[1]"}}, b"[1]", "application/json"),
        ({"saggar": {"value": 1}}, b"shown", "text/plain"),
        ({"saggar": 7}, b"shown", "text/plain"),
        ({}, b"shown", "text/plain"),
    ],
)
def test_a_value_is_json_where_it_was_said_and_its_text_elsewhere(metadata, blob, media):
    value = kernel._value({"data": {"text/plain": "shown"}}, metadata)

    assert (blob, media) == (value.blob, head(value)["media_type"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"ename": "E", "evalue": "why", "traceback": ["a", "b"]}, ("E", "why", "a\nb")),
        ({"ename": None, "evalue": "why", "traceback": 3}, ("Error", "why", "")),
        ({}, ("Error", "", "")),
    ],
)
def test_an_error_has_three_texts_whatever_was_said(content, expected):
    error = kernel._error(content)

    assert frames.ERROR == error.kind
    assert expected == tuple(head(error)[name] for name in ("type", "message", "traceback"))


def test_what_was_never_begun_is_said_to_be_aborted():
    assert "ExecutionAborted" == head(kernel._error({"status": "aborted"}))["type"]


def test_pages_are_shown():
    payload = [{"source": "page", "data": {"text/plain": "help"}}, {"source": "other"}, 7]

    assert [{"text/plain": "help"}] == list(kernel._pages({"payload": payload}))
    assert [] == list(kernel._pages({"payload": "no list"}))
