"""Runtimes of this machine: which one is taken, and what of it a sandbox is shown."""

import os

import pytest

from saggar.environments import runtimes
from saggar.errors import DriverUnavailable, InvalidTask
from saggar.model.plan import Layer, Runtime

NODE = Runtime(name="node", least=(18,), purpose="JavaScript")
TYPES = Runtime(name="node", least=(22, 6), purpose="TypeScript")
GO = Runtime(name="go")


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """A machine with nothing on PATH but what a test puts there, and no wheels."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(runtimes, "_WHEELS", {})
    (tmp_path / "bin").mkdir()


def put(path, *lines):
    """A program that answers with these lines, whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = "\n".join(f"echo '{line}'" for line in lines)
    path.write_text(f"#!/bin/sh\n{said}\n")
    path.chmod(0o755)
    return str(path)


async def test_the_one_on_path_is_taken_and_shown_alone(tmp_path):
    """The folder around it may be somebody's home."""
    path = str(tmp_path / "bin" / "node")
    put(tmp_path / "bin" / "node", path, "v24.1.0", "--some-option")
    found = await runtimes.find(NODE)

    assert ("24.1.0", ("--some-option",)) == (found.version, found.options)
    assert (Layer(path=path, target="/opt/saggar/runtimes/node/bin/node"),) == found.layers
    assert "/opt/saggar/runtimes/node/bin/node" == found.program


async def test_what_it_says_of_its_place_counts(tmp_path):
    """A script of a version manager starts another one."""
    put(tmp_path / "bin" / "node", "/usr/bin/true", "v24.1.0")
    found = await runtimes.find(NODE)

    assert found.program.startswith("/usr/")
    assert () == found.layers


async def test_go_is_shown_with_its_home(tmp_path):
    put(tmp_path / "bin" / "go", tmp_path / "goroot", "go1.27.3")
    found = await runtimes.find(GO)

    assert ("1.27.3", str(tmp_path / "goroot")) == (found.version, found.home)
    assert "/opt/saggar/runtimes/go/bin/go" == found.program
    assert (str(tmp_path / "goroot"),) == tuple(layer.path for layer in found.layers)


async def test_go_can_be_shown_where_nothing_else_of_this_machine_is(tmp_path):
    (tmp_path / "goroot" / "src").mkdir(parents=True)
    put(tmp_path / "bin" / "go", tmp_path / "goroot", "go1.27.3")
    found = await runtimes.movable(GO)

    assert found is not None
    assert "/opt/saggar/runtimes/go/bin/go" == found.program


async def test_what_lies_behind_links_cannot_be_shown_elsewhere(tmp_path):
    """Debian keeps the sources of its library apart."""
    (tmp_path / "goroot").mkdir()
    (tmp_path / "goroot" / "src").symlink_to("/usr")
    put(tmp_path / "bin" / "go", tmp_path / "goroot", "go1.27.3")

    assert await runtimes.movable(GO) is None


async def test_what_is_missing_here_may_be_in_the_image():
    assert await runtimes.movable(GO) is None


async def test_a_runtime_of_somebody_elses_language_is_what_path_says(tmp_path):
    path = put(tmp_path / "bin" / "cobol")
    found = await runtimes.find(Runtime(name="cobol"))

    assert (path,) == tuple(layer.path for layer in found.layers)
    with pytest.raises(DriverUnavailable, match="pascal is not installed; put pascal on PATH"):
        await runtimes.find(Runtime(name="pascal"))


async def test_a_newer_one_beside_saggar_is_taken_where_that_on_path_is_too_old(
    tmp_path, monkeypatch
):
    new = tmp_path / "wheel" / "bin" / "node"
    put(tmp_path / "bin" / "node", tmp_path / "bin" / "node", "v20.1.0")
    put(new, new, "v24.1.0")
    monkeypatch.setattr(runtimes, "_candidates", lambda _: [str(tmp_path / "bin/node"), str(new)])

    assert "20.1.0" == (await runtimes.find(NODE)).version
    assert "24.1.0" == (await runtimes.find(TYPES)).version


async def test_one_that_is_too_old_is_named_with_what_it_takes(tmp_path):
    put(tmp_path / "bin" / "node", "/usr/bin/node", "v20.1.0")

    with pytest.raises(InvalidTask, match=r"TypeScript needs node 22\.6 or later, found 20\.1\.0"):
        await runtimes.find(TYPES)


@pytest.mark.parametrize(
    ("name", "package"),
    [("node", r"saggar\[node\]"), ("go", r"saggar\[go\]"), ("bash", "apt install bash")],
)
async def test_one_that_is_missing_is_named_with_its_package(name, package):
    with pytest.raises(DriverUnavailable, match=f"{name} is not installed; .*{package}"):
        await runtimes.find(Runtime(name=name))


async def test_one_that_does_not_answer_is_none(tmp_path):
    put(tmp_path / "bin" / "node")

    with pytest.raises(DriverUnavailable, match="node is not installed"):
        await runtimes.find(NODE)


async def test_an_upgrade_in_place_is_another_one(tmp_path):
    path = tmp_path / "bin" / "node"
    put(path, path, "v20.1.0")
    assert "20.1.0" == (await runtimes.find(NODE)).version
    path.unlink()
    put(path, path, "v24.1.0")
    os.utime(path, (1, 1))

    assert "24.1.0" == (await runtimes.find(NODE)).version


@pytest.mark.parametrize(
    ("name", "library"),
    [("fmt", True), ("os/internal", False), ("cmd/go", False), ("nothing", False)],
)
def test_only_what_programs_may_import_is_compiled_before(tmp_path, name, library):
    for folder in ("fmt", "os/internal", "cmd/go"):
        (tmp_path / "src" / folder).mkdir(parents=True)

    found = runtimes.Found("go", "1.27", home=str(tmp_path))

    assert library == runtimes._is_library(found, name)
