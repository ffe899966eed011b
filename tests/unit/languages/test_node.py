import json

import pytest

from saggar.errors import InvalidTask
from saggar.languages.node import PLAIN, TYPES, Node
from saggar.model.limits import Limits
from saggar.model.program import Inline
from saggar.model.task import File, Task

SCRIPT = "console.log(1)"


def planned(code=SCRIPT, limits=None, **options):
    task = Task.of(code, language="node", **options)
    return Node().plan(task, Limits(**(limits or {})))


def test_a_script_is_a_file_that_node_is_given():
    plan = planned(args=["a", "--b"])

    assert plan.argv is not None
    assert "node" == plan.argv[0]
    assert ("main.js", "a", "--b") == plan.argv[-3:]
    assert (File(path="main.js", content=SCRIPT.encode()),) == plan.files
    assert PLAIN == plan.runtime
    assert (False, None) == (plan.answers, plan.stdin)


@pytest.mark.parametrize("name", ["main.ts", "a/b.mts", "c.cts"])
def test_typescript_takes_a_node_that_strips_types(name):
    plan = planned(Inline(text="let x: number = 1", filename=name))

    assert TYPES == plan.runtime
    assert (22, 6) == TYPES.least
    assert plan.argv is not None
    assert "--experimental-strip-types" in plan.argv
    assert name == plan.argv[-1]


@pytest.mark.parametrize("name", ["main.mjs", "main.cjs", "script"])
def test_javascript_keeps_its_name_and_its_types(name):
    plan = planned(Inline(text=SCRIPT, filename=name))

    assert plan.argv is not None
    assert name == plan.argv[-1]
    assert "--experimental-strip-types" not in plan.argv


def test_the_heap_is_told_what_the_walls_enforce():
    argv = planned(limits={"memory": "128MiB"}).argv

    assert argv is not None
    assert {"--max-old-space-size=128", "--max-semi-space-size=2"} <= set(argv)


def test_an_entry_is_called_by_our_runner_with_a_request():
    plan = planned("export const f = (x) => x", entry="f", input={"a": 1}, args=["b"])

    assert plan.answers
    assert {"input": {"a": 1}} == json.loads(plan.stdin)
    assert plan.argv is not None
    assert ("sh", "-c") == plan.argv[:2]
    assert 3 == plan.argv.index("node")
    assert ("--", "f", "main.js", "b") == plan.argv[-4:]


def test_an_argument_called_node_is_an_argument():
    plan = planned("", entry="node", args=["node"])

    assert plan.argv is not None
    assert 3 == plan.argv.index("node")
    assert 0 == (planned(args=["node"]).argv or ()).index("node")


def test_the_stdin_of_an_entry_is_the_request():
    with pytest.raises(InvalidTask, match="an entry of node finds its request on stdin"):
        planned(entry="f", stdin="x")


def test_there_is_no_value_without_an_entry():
    with pytest.raises(InvalidTask, match="node has no value of a last expression"):
        planned(want_value=True)


def test_a_plan_is_only_a_plan():
    assert planned(entry="f") == planned(entry="f")
