import ast
import fcntl
import json
import marshal
import os
import subprocess
import sys
import venv
from importlib.util import MAGIC_NUMBER

import pytest

from saggar.drivers import interpreter
from saggar.drivers.interpreter import OPTIONS, bootstrap, bundle, find, memory_file
from saggar.errors import DriverUnavailable, NotFound


@pytest.fixture
def pretender(tmp_path):
    """A program that answers what it was told to when it is asked what it is."""

    def make(answer, status=0):
        path = tmp_path / "python3"
        path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
        path.chmod(0o755)
        interpreter._other.cache_clear()
        return str(path)

    return make


def test_ours_is_the_real_binary_behind_the_virtual_environment():
    ours = find(None)

    assert os.path.realpath(ours.executable) == ours.executable
    assert os.path.samefile(ours.executable, os.path.realpath(sys.executable))
    assert (sys.base_prefix, sys.version_info[:3]) == (ours.prefix, ours.version)


def test_the_folders_of_other_peoples_packages_are_in_its_prefix():
    """Not those of the virtual environment: these are in no sandbox to begin with."""
    assert find(None).site
    for folder in find(None).site:
        assert folder.endswith("-packages")
        assert folder.startswith(sys.base_prefix)


def test_the_same_one_by_its_path_says_the_same_of_itself():
    ours = find(None)
    found = find(ours.executable)

    assert (ours.executable, ours.version) == (found.executable, found.version)
    assert set(found.site) >= set(ours.site) or found.site == ours.site


def test_a_virtual_environments_python_is_the_one_it_was_made_from(tmp_path):
    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    found = find(str(tmp_path / "venv/bin/python"))

    assert find(None).executable == found.executable
    assert not found.prefix.startswith(str(tmp_path))


def test_a_version_is_looked_for_on_path(tmp_path, monkeypatch):
    major, minor = sys.version_info[:2]
    (tmp_path / f"python{major}.{minor}").symlink_to(find(None).executable)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find(None).executable == find(f"{major}.{minor}").executable


def test_a_version_that_nobody_has_is_refused_with_those_that_there_are(tmp_path, monkeypatch):
    for name in ("python3.11", "python3.9", "python3.12", "python3.12-config", "python3"):
        (tmp_path / name).symlink_to(find(None).executable)
    (tmp_path / "python3.13").touch()  # which cannot be executed
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    with pytest.raises(NotFound) as refused:
        find("3.99")

    assert str(refused.value) == (
        "no python3.99 on PATH; there are: 3.11, 3.12; another one is named by its absolute path"
    )


def test_where_there_is_none_on_path_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match=r"no python3\.12 on PATH; there are: none; "):
        find("3.12")


def test_an_interpreter_is_asked_once(pretender, tmp_path):
    path = pretender(json.dumps(["/x", "/", [3, 12, 1], ["/x/site-packages"]]))
    found = find(path)
    (tmp_path / "python3").unlink()

    assert found is find(path)
    assert ("/x", (3, 12, 1)) == (found.executable, found.version)


def test_one_that_is_too_old_is_refused_with_what_it_takes(pretender):
    path = pretender(json.dumps(["/x", "/", [3, 10, 2], []]))

    with pytest.raises(DriverUnavailable, match=r"is Python 3\.10\.2; .* needs 3\.11 or later"):
        find(path)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("", 0),
        ("hello", 0),
        ("[1, 2]", 0),
        ("[]", 3),
        ("{}", 0),
        ("7", 0),
        ('["", "", "x", []]', 0),
    ],
)
def test_what_is_no_python_is_refused(pretender, answer, status):
    with pytest.raises(DriverUnavailable, match="does not answer as a Python interpreter"):
        find(pretender(answer, status))


def test_a_path_that_leads_to_no_program_is_refused_with_what_there_is(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in (
        ("missing", "no such file or directory"),
        ("file", "permission denied"),
        ("file/below", "not a directory"),
        ("", "permission denied"),
    ):
        with pytest.raises(NotFound) as refused:
            find(str(tmp_path / path))

        assert f"{tmp_path / path} cannot be run: {reason}; on PATH" in str(refused.value)
        assert "Errno" not in str(refused.value)


def test_one_that_fails_is_refused_without_what_it_was_asked(pretender):
    with pytest.raises(DriverUnavailable, match=r"does not answer .*: it exits with 3$"):
        find(pretender("[]", 3))


def test_the_options_keep_the_callers_variables_folders_and_site_out(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('mine')")
    code = "import json, sys; print(sys.flags.utf8_mode, 'site' in sys.modules, sys.path[0] == '')"
    ran = subprocess.run(
        [find(None).executable, *OPTIONS, "-c", code],
        env={"PYTHONPATH": str(tmp_path), "LANG": "C", "LC_ALL": "C"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ("1 False False\n", "") == (ran.stdout, ran.stderr)


def test_the_bundle_holds_the_guest_and_the_boundary_and_nothing_of_the_host():
    magic, modules = marshal.loads(bundle())

    assert MAGIC_NUMBER == magic
    assert {"saggar", "saggar.guest", "saggar.boundary", "cloudpickle"} == {
        name for name, (is_package, _, _) in modules.items() if is_package
    }
    ours = {name for name in modules if name.startswith("saggar.")}
    assert {"guest", "boundary"} == {name.split(".")[1] for name in ours}


def test_the_bundle_carries_no_initialisation_of_the_host():
    """`saggar` itself is empty there: its lazy names would lead to modules that are not."""
    _, modules = marshal.loads(bundle())
    found: dict[str, object] = {}
    exec(marshal.loads(modules["saggar"][1]), found)

    assert {"__builtins__"} == found.keys()


def test_code_and_source_of_each_module_are_the_same_program():
    _, modules = marshal.loads(bundle())
    for name, (_, code, source) in modules.items():
        assert compile(source, name, "exec").co_names == marshal.loads(code).co_names


def test_nothing_inside_needs_a_module_that_is_not_in_the_bundle():
    _, modules = marshal.loads(bundle())
    wanted = {
        f"{node.module}.{alias.name}"
        for _, _, source in modules.values()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("saggar")
        for alias in node.names
    }

    assert wanted
    for name in wanted:
        assert name in modules or name.rpartition(".")[0] in modules


def test_the_bootstrap_is_what_the_file_says():
    assert compile(bootstrap(), "bootstrap", "exec").co_names[:3]
    assert bundle() is bundle()
    assert bootstrap() is bootstrap()


def test_a_memory_file_cannot_be_changed_by_whoever_gets_it():
    fd = memory_file("name", b"content")
    try:
        assert b"content" == os.pread(fd, 100, 0)
        assert "/memfd:name (deleted)" == os.readlink(f"/proc/self/fd/{fd}")
        assert not os.get_inheritable(fd)
        for change in (
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.ftruncate(fd, 0),
            lambda: os.ftruncate(fd, 100),
            lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0),
        ):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(fd)
