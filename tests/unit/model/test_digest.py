import os
import subprocess
import sys

import pytest

from saggar.model import Environment, Pickled, Policy, Program, Task, digest
from saggar.model.digest import canonical

KNOWN = "sha256:b18379312e82f6df2466995cc99a9e113dfbfed1fd1b5b4bcfef944ffa5f8f23"


def test_canonical_json_has_sorted_keys_and_no_white_space():
    expected = (
        '{"host_packages":false,"image":null,"models":[],"mounts":[],"packages":["é"],'
        '"preload":[],"python":null,"root":null,"system_packages":[],"user":1000,'
        '"workdir":null,"writable_root":false}'
    )

    assert expected.encode() == canonical(Environment.model_construct(packages=("é",)))


def test_equal_values_have_equal_digests():
    first = Task.of("pass", env={"A": "1", "B": "2"}, stdin=b"\xff")
    second = Task.of("pass", env={"B": "2", "A": "1"}, stdin=b"\xff")

    assert digest(first) == digest(second)


@pytest.mark.parametrize(
    "other",
    [
        Task.of("pass "),
        Task.of("pass", language="node"),
        Task.of("pass", input=None, stdin=b"x"),
        Task.of("pass", packages="numpy"),
        Task.of(Program(code=Pickled(payload=b"pass"))),
    ],
)
def test_different_tasks_have_different_digests(other):
    assert digest(Task.of("pass")) != digest(other)


def test_a_default_and_the_same_value_spelled_out_have_one_digest():
    assert digest(Program.of("pass")) == digest(Program.of("pass", environment=Environment()))


def test_sets_have_one_order_in_every_process():
    code = """
from saggar.model import Policy, digest
print(digest(Policy(best_effort={"wall", "cpu", "disk", "memory"})))
"""
    argv = [sys.executable, "-c", code]
    runs = {
        subprocess.check_output(argv, env=os.environ | {"PYTHONHASHSEED": seed}, text=True).strip()
        for seed in ("1", "2", "3")
    }

    assert {digest(Policy(best_effort={"wall", "cpu", "disk", "memory"}))} == runs


def test_the_digest_of_today_is_the_digest_of_yesterday():
    """Whoever changes this empties every cache and breaks every manifest: say so in CHANGELOG."""
    assert KNOWN == digest(Environment(packages=("numpy==2.*",)))
