"""Other languages behind real walls, and without any: scripts, functions, what goes wrong."""

import json
import os
import sys

import anyio
import pytest
from tests.conftest import missing

from saggar import Platform
from saggar.environments import runtimes
from saggar.errors import DriverUnavailable, InvalidTask, PlatformError
from saggar.model.event import Finished, Output
from saggar.model.plan import Runtime
from saggar.model.policy import Policy
from saggar.model.program import Inline
from saggar.model.result import Status

TRUSTED = Policy(
    isolation="process",
    network="host",
    best_effort={"cpu_share", "disk", "inodes", "memory", "processes"},
)
BRIEF = {"wall": 0.5, "grace": 0.5}
NUMBERS = {"values": [1, 2, 3, 4, 5]}
ANSWER = {"count": 5, "sum": 15, "mean": 3}

STATISTICS = {
    "node": """
export async function describe({ values }) {
  console.log("counting");
  const sum = values.reduce((a, b) => a + b, 0);
  return { count: values.length, sum, mean: sum / values.length };
}
""",
    "go": """package main

import (
	"errors"
	"fmt"
)

type Input struct {
	Values []float64 `json:"values"`
}

type Output struct {
	Count int     `json:"count"`
	Sum   float64 `json:"sum"`
	Mean  float64 `json:"mean"`
}

func describe(input Input) (Output, error) {
	fmt.Println("counting")
	if len(input.Values) == 0 {
		return Output{}, errors.New("no values")
	}
	sum := 0.0
	for _, value := range input.Values {
		sum += value
	}
	count := len(input.Values)
	return Output{count, sum, sum / float64(count)}, nil
}
""",
}
ECHO = {
    "bash": 'echo "$@"; cat; cat beside.txt; exit 3',
    "node": """
const fs = require("fs");
console.log(process.argv.slice(2).join(" "));
process.stdout.write(fs.readFileSync(0));
process.stdout.write(fs.readFileSync("beside.txt"));
process.exitCode = 3;
""",
    "go": """package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	fmt.Println(strings.Join(os.Args[1:], " "))
	io.Copy(os.Stdout, os.Stdin)
	file, _ := os.Open("beside.txt")
	io.Copy(os.Stdout, file)
	os.Exit(3)
}
""",
}
ENDLESS = {
    "bash": "while true; do read -t 1 < /dev/zero; done",
    "node": "setInterval(() => {}, 1000)",
    "go": "package main\n\nfunc main() {\n\tfor {\n\t}\n}\n",
}
SUICIDE = {
    "bash": "kill -TERM $$",
    "node": "process.kill(process.pid, 'SIGTERM'); setInterval(() => {}, 1000)",
    "go": 'package main\n\nimport "syscall"\n\nfunc main() { syscall.Kill(syscall.Getpid(), 15)'
    "; select {} }\n",
}
BROKEN = "package main\n\nfunc main() { unused := 1 }\n"


@pytest.fixture
async def platform():
    async with Platform() as opened:
        yield opened


@pytest.fixture(params=["jail", "process"])
def run(request, platform):
    """A program in one of the languages, by the driver of this test."""

    async def one(language, code, **options):
        options.setdefault("driver", request.param)
        if request.param == "process":
            options.setdefault("policy", TRUSTED)
        try:
            await runtimes.find(Runtime(name=language))
        except DriverUnavailable as exc:
            missing(str(exc))
        try:
            return await platform.run(code, language=language, **options)
        except PlatformError as exc:
            missing(str(exc))

    return one


@pytest.mark.parametrize("language", ECHO)
async def test_a_script_has_arguments_stdin_files_and_an_exit_code(run, language):
    result = await run(
        language, ECHO[language], args=["a b", "c"], stdin="in\n", files={"beside.txt": "file\n"}
    )

    assert (Status.ERROR, 3) == (result.status, result.exit_code)
    assert "a b c\nin\nfile\n" == result.stdout
    assert "" == result.stderr


@pytest.mark.parametrize("language", SUICIDE)
async def test_a_signal_is_told_by_its_name(run, language):
    result = await run(language, SUICIDE[language])

    assert (Status.KILLED, "SIGTERM") == (result.status, result.signal)


@pytest.mark.parametrize("language", ENDLESS)
async def test_an_endless_one_meets_its_deadline(run, language):
    if language == "go":
        await run(language, ENDLESS[language], limits=BRIEF)  # compiling is not on this clock
    result = await run(language, ENDLESS[language], limits=BRIEF)

    assert (Status.TIMEOUT, "wall") == (result.status, result.limit)


@pytest.mark.parametrize("language", STATISTICS)
async def test_a_function_is_called_with_json(run, language):
    result = await run(language, STATISTICS[language], entry="describe", input=NUMBERS)

    assert (Status.OK, ANSWER) == (result.status, result.value), result.error
    assert ("", "counting\n") == (result.stdout, result.stderr)


@pytest.mark.parametrize(
    ("language", "value", "code", "message"),
    [
        ("go", {"values": []}, "EXECUTION", "no values"),
        ("go", {"values": "x"}, "INPUT_VALIDATION", "cannot unmarshal string"),
        ("node", {}, "EXECUTION", "TypeError"),
    ],
)
async def test_a_function_that_fails_is_an_error_with_its_words(
    run, language, value, code, message
):
    result = await run(language, STATISTICS[language], entry="describe", input=value)

    assert (Status.ERROR, code) == (result.status, result.error.type)
    assert message in result.error.message


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("export default (x) => x * 2", 8),
        ("export default { f: (x) => x * 2 }", 8),
        ("module.exports = { f: (x) => x * 2 }", 8),
        ("module.exports = function f(x) { return x * 2 }", 8),
        ("export const f = async (x) => x * 2", 8),
        ("export function f() {}", None),
        (
            "export const f = () => ({ a: undefined, b: new Date(0) })",
            {"b": "1970-01-01T00:00:00.000Z"},
        ),
    ],
)
async def test_node_finds_the_function_however_it_is_exported(run, code, value):
    entry = "default" if "default (x)" in code else "f"
    result = await run("node", code, entry=entry, input=4)

    assert (Status.OK, value) == (result.status, result.value), result.error


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("export const g = 1", "NO_EXECUTE_FUNCTION", "main.js exports no function f"),
        ("export const f = () => [1, { 'a/b': NaN }]", "OUTPUT_VALIDATION", "at /1/a~1b: NaN"),
        ("export const f = () => [10n]", "OUTPUT_VALIDATION", "at /0: a bigint has no JSON form"),
        ("export const f = () => new Map()", "OUTPUT_VALIDATION", "a Map has no JSON form"),
        (
            "export const f = () => { const a = []; a.push(a); return a }",
            "OUTPUT_VALIDATION",
            "itself",
        ),
        (
            "export const f = () => process.exit(0)",
            "EXECUTION",
            "ended the process with exit code 0",
        ),
        ("export const f = () => new Promise(() => {})", "EXECUTION", "nothing will ever settle"),
        ("export const f = () => { throw null }", "EXECUTION", "null"),
        (
            "export const f = () => new Promise(() => setTimeout(() => { throw Error('late') }))",
            "EXECUTION",
            "late",
        ),
        ("export const f = () => process.reallyExit(4)", "CRASH", "exit code 4 before"),
        (
            "import fs from 'fs'; export const f = () => { fs.writeSync(4, 'x'); return 1 }",
            "InvalidAnswer",
            "is not JSON",
        ),
    ],
)
async def test_what_is_no_answer_of_node_is_named(run, code, kind, message):
    result = await run("node", code, entry="f", input=None)

    assert (Status.ERROR, kind) == (result.status, result.error.type)
    assert message in result.error.message


async def test_whatever_node_prints_is_no_answer(run):
    code = """
import { writeSync } from "fs";
import { execSync } from "child_process";
export function f() {
  writeSync(1, "raw\\n");
  execSync("echo child", { stdio: "inherit" });
  return "answer";
}
"""
    result = await run("node", code, entry="f")

    assert (Status.OK, "answer") == (result.status, result.value), result.error
    assert {"raw", "child"} == set(result.stderr.split())


async def test_node_meets_its_memory_as_memory(run):
    code = "const kept = []; for (;;) kept.push(new Array(1e5).fill(Math.random()))"
    result = await run("node", code)

    assert (Status.MEMORY, "memory") == (result.status, result.limit)


async def test_node_has_threads_webassembly_and_fetch_with_the_usual_limits(run):
    code = """
const { Worker } = require("worker_threads");
new WebAssembly.Memory({ initial: 1 });
const post = "require('worker_threads').parentPort.postMessage(1)";
let heard = 0;
for (let n = 0; n < 4; n++) new Worker(post, { eval: true }).on("message", () => { heard++ });
process.on("exit", () => console.log(heard));
fetch("http://127.0.0.1:1").catch(() => {});
"""
    result = await run("node", code)

    assert (Status.OK, "4\n") == (result.status, result.stdout), result.stderr


async def test_typescript_runs_where_node_strips_types(run):
    code = Inline(text="const x: number = 5\nconsole.log(x)\n", filename="main.ts")
    try:
        await runtimes.find(Runtime(name="node", least=(22, 6), purpose="TypeScript"))
    except (InvalidTask, DriverUnavailable) as exc:
        missing(str(exc))
    result = await run("node", code)

    assert ("5\n", "") == (result.stdout, result.stderr)


@pytest.mark.parametrize(
    ("signature", "body", "value"),
    [
        ("(x int) int", "return x * 2", 8),
        ("(x map[string]any) any", "return x", None),
        ("() string", 'return "<&>"', "<&>"),
        ("(x *int) error", "return nil", None),
        ("(x int)", "", None),
    ],
)
async def test_go_finds_out_the_types_of_the_function(run, signature, body, value):
    code = f"package main\n\nfunc f{signature} {{ {body} }}\n"
    result = await run("go", code, entry="f", input=None if "map" in signature else 4)

    assert (Status.OK, value) == (result.status, result.value), result.error


async def test_a_panic_of_go_is_an_error_with_its_stack(run):
    code = "package main\n\nfunc f(x []int) int { return x[3] }\n"
    result = await run("go", code, entry="f", input=[])

    assert "EXECUTION" == result.error.type
    assert "index out of range [3] with length 0" in result.error.message
    assert "main.f" in result.error.traceback


async def test_what_does_not_compile_is_told_apart_from_what_fails(run):
    result = await run("go", BROKEN)

    assert (Status.ERROR, "CompileError") == (result.status, result.error.type)
    assert "main.go:3:15: declared and not used: unused" in result.error.message
    assert "declared and not used" in result.stderr


async def test_a_part_of_gos_library_for_other_machines_is_a_compile_error(run):
    result = await run("go", 'package main\n\nimport _ "syscall/js"\n\nfunc main() {}\n')

    assert (Status.ERROR, "CompileError") == (result.status, result.error.type)
    assert "syscall/js" in result.error.message
    assert "exclude" in result.error.message


async def test_go_packages_beside_the_program_are_compiled_in(run):
    files = {
        "go.mod": "module example\n\ngo 1.18\n",
        "words/words.go": 'package words\n\nfunc Hello() string { return "hello" }\n',
    }
    code = 'package main\n\nimport "example/words"\n\nfunc main() { print(words.Hello()) }\n'
    result = await run("go", code, files=files)

    assert (Status.OK, "hello") == (result.status, result.stderr), result.error


async def test_a_module_that_is_not_there_is_not_fetched(run):
    code = 'package main\n\nimport _ "example.com/nothing"\n\nfunc main() {}\n'
    result = await run("go", code)

    assert "CompileError" == result.error.type


async def test_a_go_program_is_compiled_once(run, platform):
    code = f"package main\n\nfunc main() {{ println({os.getpid()}, {id(platform)}) }}\n"
    first = await run("go", code)
    second = await run("go", code)

    assert (Status.OK, first.stderr) == (second.status, second.stderr)
    assert 1 > second.usage.wall


async def test_the_compilers_words_are_output_while_it_compiles(platform):
    try:
        events = [event async for event in platform.events(BROKEN, language="go")]
    except PlatformError as exc:
        missing(str(exc))

    assert all("stderr" == event.stream for event in events if isinstance(event, Output))
    assert isinstance(events[-1], Finished)


async def test_the_compiler_embeds_files_of_the_task(platform):
    code = """package main

import _ "embed"

//go:embed words.txt
var words string

func main() { print(words) }
"""
    try:
        result = await platform.run(code, language="go", files={"words.txt": "hello"})
    except PlatformError as exc:
        missing(str(exc))

    assert (Status.OK, "hello") == (result.status, result.stderr), result.error


@pytest.mark.parametrize(
    ("name", "language"), [("x.js", "node"), ("x.go", "go"), ("x.sh", "bash"), ("x.mjs", "node")]
)
async def test_the_command_line_knows_a_language_by_the_files_ending(tmp_path, name, language):
    try:
        await runtimes.find(Runtime(name=language))
    except DriverUnavailable as exc:
        missing(str(exc))
    programs = {"node": "console.log('hi')", "bash": "echo hi"}
    programs["go"] = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hi") }\n'
    (tmp_path / name).write_text(programs[language])
    argv = [sys.executable, "-m", "saggar", "run", name, "--json"]
    ran = await anyio.run_process(argv, cwd=tmp_path, check=False)
    if ran.returncode == 70:
        missing(ran.stderr.decode())
    result = json.loads(ran.stdout)

    assert ("ok", "hi\n") == (result["status"], result["stdout"])
