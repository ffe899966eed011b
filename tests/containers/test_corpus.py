"""
The host's validator on the corpus that the runners are held to as well (test_runners.py).

Its cases are where validators are known to differ: references, formats, numbers, older drafts.
"""

import json
from pathlib import Path

import pytest

from saggar.errors import InvalidTask
from saggar.model.schema import Schema

CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())


def verdict(schema, value):
    try:
        compiled = Schema.of(schema)
    except InvalidTask:
        return "refused"
    return "valid" if compiled.problem(value) is None else "invalid"


@pytest.mark.parametrize("case", CORPUS, ids=[case["name"] for case in CORPUS])
def test_the_host_agrees_with_the_corpus(case):
    assert case["verdict"] == verdict(case["schema"], case["value"])


def test_no_two_cases_share_a_name():
    assert len(CORPUS) == len({case["name"] for case in CORPUS})
