"""What `saggar runpod` makes of its words."""

import json

import pytest

from saggar.cli import runpod
from saggar.errors import UsageError


def test_an_event_is_an_object_or_in_a_file(tmp_path):
    (tmp_path / "event.json").write_text(json.dumps({"input": {}}))

    assert {"input": {}} == runpod.event('{"input": {}}')
    assert {"input": {}} == runpod.event(f"@{tmp_path / 'event.json'}")


@pytest.mark.parametrize("said", ["[]", "{", "@/nowhere.json", "1"])
def test_what_is_no_event_is_a_mistake_in_the_call(said):
    with pytest.raises(UsageError, match="--test_input"):
        runpod.event(said)


def test_something_has_to_be_asked_for(monkeypatch):
    monkeypatch.delenv("RUNPOD_TEST_INPUT", raising=False)

    with pytest.raises(UsageError, match=r"wanted --test_input EVENT, .* or --rp_serve_api"):
        runpod.main([])
