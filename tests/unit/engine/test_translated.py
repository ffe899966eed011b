"""What a kernel said, in our words."""

import json

import pytest

from saggar.boundary import frames
from saggar.engine import translated


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
    shown = translated.display({"data": data, "metadata": 7, "transient": []})

    assert expected == json.loads(shown.blob)
    assert {} == head(shown)


def test_a_display_keeps_its_id_and_its_metadata():
    shown = translated.display(
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
    value = translated.value({"data": {"text/plain": "shown"}}, metadata)

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
    error = translated.error(content)

    assert frames.ERROR == error.kind
    assert expected == tuple(head(error)[name] for name in ("type", "message", "traceback"))


def test_what_was_never_begun_is_said_to_be_aborted():
    assert "ExecutionAborted" == head(translated.error({"status": "aborted"}))["type"]


def test_pages_are_shown():
    payload = [{"source": "page", "data": {"text/plain": "help"}}, {"source": "other"}, 7]

    assert [{"text/plain": "help"}] == list(translated.pages({"payload": payload}))
    assert [] == list(translated.pages({"payload": "no list"}))
