import json
from pathlib import Path

import pytest

from saggar.cli.doctor import as_json, can_run_closed, report
from saggar.drivers.jail.recipes import RECIPES
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


def test_a_page_without_recipes_announces_none():
    assert "What to do" not in page(FULL)
    assert "What to do" in page(LESS)


@pytest.mark.parametrize("name", RECIPES)
def test_the_readme_has_the_same_recipes(name):
    """What is to be typed, line for line, and the words around it."""
    readme = Path(__file__).parents[3].joinpath("README.md").read_text()
    said = " ".join(readme.replace("`", "").split())
    lines = RECIPES[name].splitlines()
    typed = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    words = " ".join(line for line in lines if line and not line.startswith("    "))

    assert "\n".join(typed) in readme
    assert all(part.strip() in said for part in words.split(". ") if not part.startswith("Ubuntu"))
