"""
The runners' images, used as the documents use them: `docker run -i --rm IMAGE < input.json`.

One function in three languages (function/) is put into each of them: mounted where the language
allows that, compiled into an image of its own where it does not.
"""

import json
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from tests.conftest import missing, require

HERE = Path(__file__).parent
FUNCTION = HERE / "function"
CORPUS = json.loads((HERE / "corpus.json").read_text())
DERIVED_GO = "saggar-test/function-go"
SEALED = ("--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")

DESCRIBE = {"do": "describe", "values": [1, 2, 3, 4, 5]}
DESCRIPTION = {
    "type": "object",
    "required": ["count", "sum", "mean"],
    "properties": {"count": {"type": "integer"}, "sum": {"type": "number"}},
}


def docker(*words, stdin=b"", timeout=50):
    return subprocess.run(
        ["docker", *map(str, words)], input=stdin, capture_output=True, timeout=timeout, check=False
    )


@cache
def silence():
    """Why no engine answers; empty when one does."""
    answer = docker("version", "--format", "{{.Server.Version}}")
    return "" if answer.returncode == 0 else answer.stderr.decode().strip()[-300:]


@pytest.fixture(autouse=True)
def _engine():
    require("docker")
    if reason := silence():
        missing(f"no container engine answers: {reason}")


def present(image, target):
    """The image, or this test is left."""
    if docker("image", "inspect", image).returncode != 0:
        missing(f"no image {image}: make {target}")
    return image


def built(tag, dockerfile, context, *options):
    """An image of that Dockerfile's text."""
    (context / "Dockerfile").write_text(dockerfile)
    made = docker("build", "--quiet", *options, "--tag", tag, context)
    assert made.returncode == 0, made.stderr.decode()
    return tag


@dataclass(frozen=True)
class Runner:
    """An image with the function in it."""

    name: str
    image: str
    options: tuple[str, ...] = ()

    def run(self, document, *options):
        """What the container wrote, for one document or for the bytes of it."""
        stdin = document if isinstance(document, bytes) else json.dumps(document).encode()
        return docker(
            "run", "-i", "--rm", *SEALED, *self.options, *options, self.image, stdin=stdin
        )

    def answer(self, document, *options):
        """The one JSON document on its stdout."""
        ran = self.run(document, *options)
        assert (0, 1) == (ran.returncode, ran.stdout.count(b"\n")), ran.stderr[-2000:]
        return json.loads(ran.stdout)

    def code(self, document, *options):
        return self.answer(document, *options)["error"]["code"]


@pytest.fixture(scope="session")
def runners(tmp_path_factory):
    def mounted(name, file):
        image = present(f"saggar/runner-{name}", f"build-runner-{name}")
        return Runner(name, image, ("--volume", f"{FUNCTION / file}:/app/{file}:ro"))

    def compiled():
        present("saggar/runner-go:build", "build-runner-go")
        folder = tmp_path_factory.mktemp("go")
        (folder / "execute.go").write_bytes((FUNCTION / "execute.go").read_bytes())
        dockerfile = (
            "FROM saggar/runner-go:build AS build\n"
            "COPY execute.go ./\n"
            "RUN go build -o /app/runner .\n"
            "FROM saggar/runner-go\n"
            "COPY --from=build /app/runner /app/runner\n"
        )
        return Runner("go", built(DERIVED_GO, dockerfile, folder, "--network", "none"))

    made = {
        "python": cache(lambda: mounted("python", "execute.py")),
        "node": cache(lambda: mounted("node", "execute.js")),
        "go": cache(compiled),
    }
    yield made
    if not silence():
        docker("image", "rm", "--force", DERIVED_GO)


@pytest.fixture(params=["python", "node", "go"])
def runner(request, runners):
    return runners[request.param]()


@pytest.fixture
def python(runners):
    return runners["python"]()


@pytest.fixture
def node(runners):
    return runners["node"]()


@pytest.fixture
def go(runners):
    return runners["go"]()


# What each of them answers.


def test_the_documents_example(runner):
    answer = runner.answer(
        {"schema_in": {"required": ["values"]}, "schema_out": DESCRIPTION, "input": DESCRIBE}
    )

    assert {"ok": True, "output": {"count": 5, "sum": 15.0, "mean": 3.0}} == answer


def test_null_is_an_input_and_an_output(runner):
    assert {"ok": True, "output": None} == runner.answer({"input": {"do": "echo", "value": None}})
    assert "EXECUTION" == runner.code({"input": None})


def test_schemas_may_be_null(runner):
    document = {"schema_in": None, "schema_out": None, "input": {"do": "echo", "value": "é\u2028"}}

    assert "é\u2028" == runner.answer(document)["output"]


def test_an_async_function_is_awaited(runner):
    assert [1] == runner.answer({"input": {"do": "wait", "value": [1]}})["output"]


@pytest.mark.parametrize(
    ("stdin", "code"),
    [
        (b"", "NO_INPUT"),
        (b" \n", "NO_INPUT"),
        (b"{", "INVALID_JSON"),
        (b'{"input": 1} {"input": 2}', "INVALID_JSON"),
        (b'{"input": NaN}', "INVALID_JSON"),
        (b'{"input": 1e999}', "INVALID_JSON"),
        (b'{"input": "\xff"}', "INVALID_JSON"),
        (b"[1]", "INVALID_JSON"),
        (b"null", "INVALID_JSON"),
        (b"{}", "MISSING_INPUT"),
        (b'{"input": 1, "schema_in": {"type": "text"}}', "INVALID_SCHEMA"),
        (b'{"input": 1, "schema_out": [1]}', "INVALID_SCHEMA"),
        (b'{"input": 1, "schema_in": {"type": "string"}}', "INPUT_VALIDATION"),
    ],
)
def test_a_document_that_cannot_be_run_is_named(runner, stdin, code):
    assert code == runner.code(stdin)


def test_a_validation_error_says_where(runner):
    document = {"schema_in": {"properties": {"a/b": {"items": {"type": "string"}}}}}
    error = runner.answer(document | {"input": {"a/b": ["x", 1]}})["error"]

    assert "INPUT_VALIDATION" == error["code"]
    assert error["message"].startswith("input validation failed: at /a~1b/1: ")


def test_a_function_that_fails_is_reported_with_its_trace(runner):
    error = runner.answer({"input": {"do": "fail"}})["error"]

    assert "EXECUTION" == error["code"]
    assert "boom at noon" in error["message"]


@pytest.mark.parametrize(("name", "frame"), [("python", "do_fail"), ("node", "execute.js:")])
def test_the_details_are_the_users_frames(runners, name, frame):
    details = runners[name]().answer({"input": {"do": "fail"}})["error"]["details"]

    assert frame in details
    assert "runner.py" not in details


def test_an_output_against_its_schema_is_refused(runner):
    error = runner.answer(
        {"schema_out": {"required": ["median"]}, "input": DESCRIBE},
    )["error"]

    assert "OUTPUT_VALIDATION" == error["code"]
    assert error["message"].startswith("output validation failed: ")


def test_an_output_without_a_json_form_is_refused(runner):
    assert "OUTPUT_VALIDATION" == runner.code({"input": {"do": "nan"}})


@pytest.mark.parametrize("name", ["python", "node"])
def test_what_has_no_json_form_is_named_by_its_place(runners, name):
    error = runners[name]().answer({"input": {"do": "nan"}})["error"]

    assert error["message"].startswith("output validation failed: at /a/1: ")


def test_what_user_code_prints_goes_to_stderr(runner):
    ran = runner.run({"input": {"do": "print"}})

    assert b'{"ok":true,"output":{"quiet":true}}\n' == ran.stdout
    assert ran.stderr.count(b"noise") > 20_000


def test_an_output_of_twenty_megabytes_arrives(runner):
    ran = runner.run({"input": {"do": "large", "bytes": 20_000_000}})

    assert 20_000_000 < len(ran.stdout) < 20_000_100


def test_a_larger_output_than_allowed_is_refused(runner):
    limit = ("--env", "SAGGAR_OUTPUT_LIMIT=1000")

    assert "OUTPUT_TOO_LARGE" == runner.code({"input": {"do": "large", "bytes": 1001}}, *limit)
    assert runner.answer({"input": {"do": "large", "bytes": 990}}, *limit)["ok"]


def test_nothing_that_user_code_left_running_is_waited_for(runner):
    assert "answered" == runner.answer({"input": {"do": "linger"}})["output"]


def test_it_is_nobody_without_network_on_a_root_it_cannot_write(runner):
    who = runner.answer({"input": {"do": "who"}})["output"]

    assert (1000, 1000, False, True) == (who["uid"], who["gid"], who["app"], who["tmp"])
    assert ["lo"] == [name for name in who["interfaces"] if not name.startswith(TUNNELS)]


TUNNELS = ("tunl", "gre", "erspan", "sit", "ip6", "ip_vti", "dummy", "bond", "teql", "ifb")
"""What some kernels put, unusable, into every network namespace."""


@pytest.mark.parametrize("name", ["python", "node", "go"])
def test_without_a_function_it_says_how_to_give_one(name):
    image = present(f"saggar/runner-{name}", f"build-runner-{name}")
    error = Runner(name, image).answer({"input": 1})["error"]

    assert "NO_EXECUTE_FUNCTION" == error["code"]
    assert error["message"].startswith("No execution function provided. ")


# What only some languages can do.


@pytest.mark.parametrize("name", ["python", "node"])
def test_a_function_that_ends_the_process_is_an_error_of_it(runners, name):
    error = runners[name]().answer({"input": {"do": "exit"}})["error"]

    assert "EXECUTION" == error["code"]
    assert "3" in error["message"]


@pytest.mark.parametrize(("do", "said"), [("never", "settle"), ("later", "boom at noon")])
def test_a_promise_that_ends_elsewhere_is_answered_for(node, do, said):
    error = node.answer({"input": {"do": do}})["error"]

    assert "EXECUTION" == error["code"]
    assert said in error["message"]


def test_a_panic_is_an_error_with_its_stack(go):
    error = go.answer({"input": {"do": "panic"}})["error"]

    assert ("EXECUTION", "boom at noon") == (error["code"], error["message"])
    assert "execute.go" in error["details"]


@pytest.mark.parametrize(
    "source",
    [
        "export default async (input) => input + 1;",
        "export const executeFunction = (input) => input + 1;",
        "module.exports = (input) => input + 1;",
        "exports.executeFunction = async (input) => input + 1;",
    ],
)
def test_javascript_modules_of_each_kind(tmp_path, source):
    image = present("saggar/runner-node", "build-runner-node")
    (tmp_path / "execute.js").write_text(source)
    mount = ("--volume", f"{tmp_path}/execute.js:/app/execute.js")

    assert 42 == Runner("node", image, mount).answer({"input": 41})["output"]


def test_a_python_module_that_cannot_be_loaded_is_the_functions_error(tmp_path):
    image = present("saggar/runner-python", "build-runner-python")
    (tmp_path / "execute.py").write_text("print('loading')\nimport nothing_of_that_name\n")
    mount = ("--volume", f"{tmp_path}/execute.py:/app/execute.py")
    error = Runner("python", image, mount).answer({"input": 1})["error"]

    assert "EXECUTION" == error["code"]
    assert "nothing_of_that_name" in error["message"]


@pytest.mark.timeout(120)
def test_an_image_with_another_npm_package(tmp_path):
    """`RUN npm install` as it is written in the documents: npm is there, and may write to /app."""
    present("saggar/runner-node", "build-runner-node")
    (tmp_path / "execute.js").write_text(
        "import ms from 'ms';\nexport const executeFunction = (input) => ms(input);\n"
    )
    image = built(
        "saggar-test/derived-node",
        "FROM saggar/runner-node:latest\n"
        "RUN npm install --omit=dev ms@2.1.3\n"
        "COPY execute.js ./execute.js\n",
        tmp_path,
        "--network",
        "host",
    )
    try:
        assert 7_200_000 == Runner("node", image).answer({"input": "2 hours"})["output"]
    finally:
        docker("image", "rm", "--force", image)


def test_any_program_that_speaks_the_protocol(tmp_path):
    """A shell script in place of the runner."""
    image = present("saggar/runner-python", "build-runner-python")
    script = tmp_path / "answer"
    script.write_text('#!/bin/sh\ncat >&2\necho \'{"ok": true, "output": "from a shell"}\'\n')
    script.chmod(0o755)
    options = ("--volume", f"{script}:/answer:ro", "--entrypoint", "/answer")

    assert "from a shell" == Runner("sh", image, options).answer({"input": 1})["output"]


def test_orval_makes_a_typescript_client_of_an_openapi_document():
    image = present("saggar/generator-orval", "build-generator-orval")
    responses = {"200": {"description": "ok", "content": {"application/json": {"schema": PET}}}}
    spec = {
        "openapi": "3.0.3",
        "info": {"title": "Pets", "version": "1"},
        "paths": {"/pet": {"get": {"operationId": "getPet", "responses": responses}}},
    }
    output = {"target": "api/pets.ts", "client": "axios"}
    files = Runner("orval", image).answer({"input": {"spec": spec, "output": output}})["output"]

    assert ["api/pets.ts"] == list(files)
    assert "getPet" in files["api/pets.ts"]
    assert "axios" in files["api/pets.ts"]


PET = {"type": "object", "properties": {"name": {"type": "string"}}}


# One meaning of a schema, wherever it is checked.


def verdicts_of(image, folder):
    """What a runner says of each case of the corpus, all asked in one container."""
    inspected = docker("image", "inspect", "--format", "{{json .Config.Entrypoint}}", image)
    entrypoint = json.loads(inspected.stdout) or ["/app/runner"]
    loop = 'for file in /cases/*; do "$@" <$file; done'
    options = ("--rm", *SEALED, "--volume", f"{folder}:/cases:ro", "--entrypoint", "sh")
    ran = docker("run", *options, image, "-c", loop, "loop", *entrypoint)
    return [MEANING[json.loads(line)["error"]["code"]] for line in ran.stdout.splitlines()]


MEANING = {
    "NO_EXECUTE_FUNCTION": "valid",
    "INPUT_VALIDATION": "invalid",
    "INVALID_SCHEMA": "refused",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "image", ["saggar/runner-python", "saggar/runner-node", "saggar/runner-go:build"]
)
def test_each_runner_agrees_with_the_corpus(image, tmp_path):
    present(image, "build-runners")
    for number, case in enumerate(CORPUS):
        document = {"schema_in": case["schema"], "input": case["value"]}
        (tmp_path / f"{number:03}").write_text(json.dumps(document))
    tmp_path.chmod(0o755)
    verdicts = verdicts_of(image, tmp_path)

    assert len(CORPUS) == len(verdicts)
    assert [] == [
        (case["name"], case["verdict"], verdict)
        for case, verdict in zip(CORPUS, verdicts, strict=True)
        if case["verdict"] != verdict
    ]
