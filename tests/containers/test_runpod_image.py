"""The worker's image, and an application's on top of it, built as the guide for production does."""

import json
import os
import subprocess
import sys
from textwrap import dedent

import pytest
from tests.conftest import ROOT, missing, require
from tests.containers.test_runners import docker, silence

IMAGE = "saggar/runpod-cpu"
REGISTRY = {
    "test_func": {"type": "function", "module": "baked_code.test", "name": "test_func"},
}
TEST = 'def test_func():\n    return "Hello from baked code!"\n'
DOCKERFILE = f"""\
FROM {IMAGE}
COPY baked_code /app/baked_code
ENV TETRA_BAKED_MODE=true
"""


@pytest.fixture(scope="module", autouse=True)
def _image():
    require("docker")
    if reason := silence():
        missing(f"no container engine answers: {reason}")
    title = '{{index .Config.Labels "org.opencontainers.image.title"}}'
    found = docker("image", "inspect", "--format", title, IMAGE)
    if found.stdout.strip() != b"saggar runpod worker":
        missing(f"no image {IMAGE} of ours: make build-cpu")


def run(*words, image=IMAGE, options=()):
    return docker("run", "--rm", *options, image, *words)


def handled(event, *, image=IMAGE, options=()):
    said = json.dumps({"input": event})
    ran = run("python", "handler.py", "--test_input", said, image=image, options=options)
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    """The guide's own: no __init__.py, and nothing but a registry and a module."""
    folder = tmp_path_factory.mktemp("application")
    baked = folder / "baked_code"
    baked.mkdir()
    (baked / "registry.json").write_text(json.dumps(REGISTRY))
    (baked / "test.py").write_text(TEST)
    (folder / "Dockerfile.test").write_text(DOCKERFILE)
    yield from built(folder, "saggar-test-baked", "--file", str(folder / "Dockerfile.test"))


def built(folder, tag, *options):
    ran = docker("build", "--network", "host", *options, "--tag", tag, str(folder))
    assert ran.returncode == 0, ran.stderr.decode()
    yield tag
    docker("image", "rm", "--force", tag)


def test_baked_mode_is_detected_as_the_guide_does_it():
    code = "from baked_executor import is_baked_mode_enabled; print(is_baked_mode_enabled())"
    found = run("python", "-c", code, options=("-e", "TETRA_BAKED_MODE=true"))

    assert b"True\n" == found.stdout
    assert b"False\n" == run("python", "-c", code).stdout


def test_a_baked_module_is_imported_as_the_guide_does_it(application):
    code = "from baked_code.test import test_func; print(test_func())"

    assert b"Hello from baked code!\n" == run("python", "-c", code, image=application).stdout


def test_a_baked_function_is_called_by_its_name(application):
    said = {"function_name": "test_func", "baked": True, "serialization_format": "json"}
    answer = handled(said, image=application)

    assert (True, "Hello from baked code!") == (answer["success"], answer["json_result"])
    assert "Using baked execution for test_func" in answer["stdout"]


def test_an_application_refuses_code(application):
    answer = handled(
        {"function_name": "f", "function_code": "def f(): return 1"}, image=application
    )

    assert "came with code" in answer["error"]


def test_a_baked_folder_becomes_an_image_that_needs_no_index(tmp_path):
    (tmp_path / "app.py").write_text(
        dedent("""\
        from saggar.functions.remote import remote
        from saggar.model.environment import Environment

        @remote(environment=Environment(packages=("tinycss2==1.5.1",)))
        def css(text: str) -> str:
            import tinycss2
            return tinycss2.serialize(tinycss2.parse_stylesheet(text))
        """)
    )
    output = tmp_path / "baked_code"
    words = ["bake", str(tmp_path / "app.py"), "-o", str(output), "--image", "saggar-test-css"]
    made = subprocess.run(
        [sys.executable, "-m", "saggar", *words],
        capture_output=True,
        timeout=60,
        env=os.environ,
        check=False,
    )
    assert made.returncode == 0, made.stderr.decode()
    said = {"function_name": "css", "args": ["a{b:c}"], "serialization_format": "json"}
    answer = handled(said, image="saggar-test-css", options=("--network", "none"))
    docker("image", "rm", "--force", "saggar-test-css")

    assert ("a{b:c}", None) == (answer["json_result"], answer["error"])


def test_the_example_is_baked_called_by_name_and_runs_no_other_code():
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "baked" / "demo.py"],
        capture_output=True,
        text=True,
        timeout=58,
        check=False,
    )

    assert 0 == ran.returncode, ran.stdout + ran.stderr
    assert "\nanswer: -13.7\n" in ran.stdout
    assert '\nrefused: felt: at /celsius: "cold" is not of type "number"\n' in ran.stdout
    assert "felt came with code" in ran.stdout


def test_a_request_cannot_write_to_the_worker_nor_see_its_variables():
    code = """\
    def f():
        import os, glob
        def tried(call):
            try:
                return call()
            except OSError as exc:
                return exc.strerror
        return [
            tried(lambda: open("/app/handler.py", "a")),
            tried(lambda: open("/proc/1/environ").read()),
            "RUNPOD_API_KEY" in os.environ,
        ]
    """
    said = {"function_name": "f", "function_code": dedent(code), "serialization_format": "json"}
    answer = handled(said, options=("-e", "RUNPOD_API_KEY=a-key-of-this-test"))
    written, environ, seen = answer["json_result"]

    assert "Permission denied" == written
    assert environ in {"Permission denied", "Operation not permitted"}
    assert not seen


def test_nothing_in_the_image_is_of_the_checkout():
    found = run("sh", "-c", "ls /app; ls -d /checkout src /app/src; which uv")

    assert ["baked_executor.py", "handler.py"] == found.stdout.decode().split()[:2]
    assert found.stdout.decode().split()[-1].endswith("/uv")
    assert 3 == found.stderr.count(b"No such file")
    assert (
        b"null"
        == docker(
            "image", "inspect", "--format", "{{json .Config.Entrypoint}}", IMAGE
        ).stdout.strip()
    )
