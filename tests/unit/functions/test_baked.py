"""Which words turn baked mode on, and where a registry is."""

from pathlib import Path

import pytest

from saggar.errors import UsageError
from saggar.functions.baked import check_words, is_baked_mode_enabled, is_strict, located


@pytest.mark.parametrize("said", ["true", "1", "yes", "TRUE", "Yes"])
def test_the_documented_words_turn_it_on(said):
    assert is_baked_mode_enabled({"TETRA_BAKED_MODE": said})


@pytest.mark.parametrize("said", ["false", "0", "no", "FALSE", "", "maybe"])
def test_every_other_word_leaves_it_off(said):
    assert not is_baked_mode_enabled({"TETRA_BAKED_MODE": said})


def test_our_own_word_turns_it_on_as_well():
    assert is_baked_mode_enabled({"SAGGAR_ACCEPT": "named"})
    assert not is_baked_mode_enabled({})


def test_it_is_strict_unless_somebody_says_otherwise():
    assert is_strict({})
    assert is_strict({"SAGGAR_BAKED_STRICT": "1"})
    assert not is_strict({"SAGGAR_BAKED_STRICT": "No"})


@pytest.mark.parametrize(
    "said", [{"TETRA_BAKED_MODE": "on"}, {"SAGGAR_BAKED_STRICT": "off"}, {"SAGGAR_ACCEPT": "nmed"}]
)
def test_a_worker_does_not_start_on_a_word_that_means_neither(said):
    with pytest.raises(UsageError, match=next(iter(said))):
        check_words(said)


def test_a_registry_is_where_one_says_or_in_the_workspace_or_in_the_image(tmp_path):
    there = tmp_path / "baked_code" / "registry.json"
    there.parent.mkdir()
    there.write_text("{}")

    assert Path("/elsewhere.json") == located(tmp_path, "/elsewhere.json")
    assert there == located(str(tmp_path), None)
    assert Path("/app/baked_code/registry.json") == located(object(), None)
