"""How much references come to: counted once for each definition, however often it is meant."""

import json
import time
from importlib.resources import files

import pytest

from saggar.model.expansion import Excess, Expansion, compiled_at_once


def doubling(steps):
    further = ({"$ref": f"#/$defs/a{step + 1}"} for step in range(steps))
    defs = {f"a{step}": {"anyOf": [each, each]} for step, each in enumerate(further)}
    return {"$defs": {**defs, f"a{steps}": {}}, "$ref": "#/$defs/a0"}


def test_the_innermost_place_is_told_that_comes_to_too_much():
    """One, two references and what they lead to, and so on: three times two to the n, less two."""
    assert Excess("/$defs/a22", 1021) == Expansion(doubling(30)).excess(1000)
    assert Expansion(doubling(7)).excess(1000) is None


def test_a_schema_as_long_as_the_law_allows_is_counted_in_no_time():
    document = doubling(9_000)
    before = time.process_time()

    assert Expansion(document).excess(10_000) is not None
    assert 5 > time.process_time() - before


def test_properties_are_for_different_values_and_do_not_add_up():
    names = "abcdefgh"
    defs = {
        f"d{depth}": {"properties": {name: {"$ref": f"#/$defs/d{depth + 1}"} for name in names}}
        for depth in range(30)
    }

    assert Expansion({"$defs": {**defs, "d30": {}}, "$ref": "#/$defs/d0"}).excess(200) is None


def test_what_is_said_without_references_may_be_said():
    long = {"anyOf": [{"const": n} for n in range(30_000)], "properties": {"a": {"$ref": "#"}}}

    assert Expansion(long).excess(10_000) is None


@pytest.mark.parametrize(
    "recursive",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"items": {"$ref": "#"}, "contains": {"$ref": "#"}},
        {"$dynamicAnchor": "n", "anyOf": [{"items": {"$dynamicRef": "#n"}}, {"type": "null"}]},
        {"$recursiveAnchor": True, "items": {"$recursiveRef": "#"}},
    ],
)
def test_recursion_counts_once(recursive):
    assert Expansion(recursive).excess(5) is None


@pytest.mark.parametrize("version", ["v3/nbformat.v3", "v4/nbformat.v4.5"])
def test_schemas_that_people_use_come_to_little(version):
    text = files("nbformat").joinpath(f"{version}.schema.json").read_text()

    assert Expansion(json.loads(text)).excess(100) is None


def test_references_are_found_by_pointer_anchor_and_name():
    document = {
        "$id": "http://x.test/root.json",
        "$defs": {
            "a/b": {"anyOf": [{}, {}, {}]},
            "c": {"$anchor": "here", "anyOf": [{}, {}, {}]},
            "d": {"$id": "folder/d.json", "$defs": {"e": {"anyOf": [{}, {}, {}]}}},
        },
    }
    for target in ("#/$defs/a~1b", "#here", "folder/d.json#/$defs/e", "./folder/%64.json#/$defs/e"):
        expansion = Expansion({**document, "$ref": target})

        assert (5, "") == (expansion.visits(1, 100), expansion.unfollowed)


def test_a_reference_that_leads_nowhere_is_remembered():
    expansion = Expansion({"items": {"$ref": "other.json"}})

    assert expansion.excess(100) is None
    assert "other.json" == expansion.unfollowed


def test_the_standards_own_schemas_are_of_no_account():
    expansion = Expansion({"$ref": "https://json-schema.org/draft/2020-12/schema"})

    assert expansion.excess(100) is None
    assert not expansion.unfollowed


def test_visits_are_of_the_value_at_hand():
    tree = {"type": "array", "anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]}
    expansion = Expansion(tree)

    assert 3 == expansion.visits([], 100)
    assert 3 + 2 * (1 + 3) == expansion.visits([[]], 100)
    assert 100 < expansion.visits(list(range(1000)), 100)


def test_keywords_that_gather_are_left_out_for_a_trial():
    gathering = {"allOf": [{"unevaluatedProperties": False, "type": "object"}]}

    assert {"allOf": [{"type": "object"}]} == compiled_at_once(gathering)
