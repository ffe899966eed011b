import json

import pytest

from saggar.cli.doctor import as_json, can_run_closed, report
from saggar.model.limits import LIMIT_NAMES
from saggar.model.plan import Capabilities, Support

FULL = Capabilities(
    driver="jail",
    available=True,
    rung="jail",
    warm=True,
    limits={name: Support(enforced=True, how=f"by {name}") for name in LIMIT_NAMES},
)
LESS = Capabilities(
    driver="other",
    available=True,
    rung="landlock",
    limits={"memory": Support(enforced=False, why_not="no cgroup")},
    reasons=("namespaces are refused",),
    recipes={"docker": "do this\nthen that"},
)


def page(*every):
    return "\n".join(report({each.driver: each for each in every}))


def test_each_driver_has_a_column():
    rows = [line.split() for line in page(FULL, LESS).splitlines()]

    assert ["jail", "other"] in rows
    assert ["rung", "jail", "landlock"] in rows
    assert ["memory", "yes", "NO"] in rows


def test_what_enforces_and_what_does_not_is_said():
    assert "by memory" in page(FULL)
    assert "NOT ENFORCED: no cgroup" in page(LESS)
    assert "namespaces are refused" in page(LESS)


def test_recipes_are_set_apart_with_their_lines_kept():
    assert page(LESS).endswith("\ndocker\n  do this\n  then that")


def test_the_document_says_the_same():
    document = json.loads(as_json({"jail": FULL, "other": LESS}, fit=True))

    assert "landlock" == document["drivers"]["other"]["rung"]
    assert document["closed_policy_runs"]
    assert document["machine"]["kernel"]


def test_the_closed_policy_runs_where_everything_is_enforced():
    assert can_run_closed(FULL)


@pytest.mark.parametrize(
    "change", [{"rung": "landlock"}, {"rung": None}, {"limits": {"wall": FULL.limits["wall"]}}]
)
def test_the_closed_policy_does_not_run_on_less(change):
    assert not can_run_closed(FULL.replace(**change))
