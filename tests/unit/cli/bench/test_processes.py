import os
import subprocess
import sys

import pytest

from saggar.cli.bench.processes import descendants, proportional


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate()


def test_a_child_is_a_descendant(child):
    assert child in descendants()
    assert os.getpid() not in descendants()


def test_a_process_has_memory_of_its_own(child):
    assert 0 < proportional(child)


def test_a_process_that_has_gone_has_none():
    assert 0 == proportional(2**22 + 1)
