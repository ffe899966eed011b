import os
import sys

import pytest

from saggar.cli.arguments import split
from saggar.cli.worker import argv, parser
from saggar.errors import UsageError


def words(*said):
    ours, theirs = split(said)
    return argv(parser().read(ours), theirs)


def test_the_defaults_suit_sandboxes():
    found = words()

    assert [sys.executable, "-m", "celery", "-A", "saggar.worker", "worker"] == found[:6]
    assert f"--concurrency={len(os.sched_getaffinity(0))}" in found
    assert "--queue" not in found


def test_queues_and_what_is_celerys_own_are_passed_on():
    found = words("--queue", "a", "--queue", "b", "--", "--autoscale=8,2")

    assert ["--queue", "a", "--queue", "b", "--autoscale=8,2"] == found[-5:]
    assert not any(word.startswith("--concurrency") for word in found)


def test_a_number_that_is_none_is_refused():
    with pytest.raises(UsageError, match="--concurrency: wanted a number above 0, found 'many'"):
        words("--concurrency", "many")
