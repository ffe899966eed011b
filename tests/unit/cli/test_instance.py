from pathlib import Path

import pytest

from saggar.cli import instance
from saggar.cli.instance import folder, parser, policy, port, timeout
from saggar.errors import UsageError
from saggar.model.policy import Rung


def read(*words):
    return parser().read(words)


def test_nothing_said_is_the_contracts_instance():
    options = read()
    walls = policy(options, {}, timeout(options, {}))

    assert (3.0, 8432) == (timeout(options, {}), port(options, {}))
    assert (256 << 20, 0.25) == (walls.limits.memory, walls.limits.cpu_share)
    assert (Rung.JAIL, frozenset()) == (walls.isolation, walls.best_effort)


def test_a_container_says_it_with_variables():
    environ = {
        "PORT": "9000",
        "EXECUTION_TIMEOUT": "10",
        "EXECUTION_MEMORY": "1GiB",
        "EXECUTION_CPUS": "2",
        "EXECUTION_ISOLATION": "landlock",
        "EXECUTION_BEST_EFFORT": "cpu_share, disk inodes",
    }
    options = read()
    walls = policy(options, environ, timeout(options, environ))

    assert (10.0, 9000) == (timeout(options, environ), port(options, environ))
    assert (1 << 30, 2.0) == (walls.limits.memory, walls.limits.cpu_share)
    assert Rung.LANDLOCK == walls.isolation
    assert {"cpu_share", "disk", "inodes"} == walls.best_effort


def test_an_empty_variable_says_nothing():
    environ = dict.fromkeys(["PORT", "EXECUTION_TIMEOUT", "EXECUTION_MEMORY", "EXECUTION_CPUS"], "")
    options = read()

    assert (3.0, 8432) == (timeout(options, environ), port(options, environ))
    assert 256 << 20 == policy(options, environ, 3.0).limits.memory


def test_an_option_goes_before_its_variable():
    environ = {"PORT": "9000", "EXECUTION_TIMEOUT": "10", "EXECUTION_BEST_EFFORT": "disk"}
    options = read("--port", "0", "--timeout", "500ms", "--best-effort", "cpu-share")

    assert (0.5, 0) == (timeout(options, environ), port(options, environ))
    assert {"cpu_share"} == policy(options, environ, 0.5).best_effort


@pytest.mark.parametrize("said", ["many", "-1", "65536", "0x50", "80 "])
def test_a_port_is_a_number(said):
    with pytest.raises(UsageError, match="wanted a number up to 65535"):
        port(read(), {"PORT": said})


@pytest.mark.parametrize("said", ["soon", "0", "8d"])
def test_a_timeout_is_a_time(said):
    with pytest.raises(UsageError, match="--timeout, EXECUTION_TIMEOUT: "):
        timeout(read(), {"EXECUTION_TIMEOUT": said})


def test_what_is_loaded_is_in_the_folder_that_was_named_or_in_a_usual_one(tmp_path, monkeypatch):
    named = tmp_path / "named"
    named.mkdir()
    usual = (str(tmp_path / "code"), str(tmp_path / "data"))
    monkeypatch.setattr(instance, "FOLDERS", usual)
    nothing = folder(read(), {})
    for path in reversed(usual):
        Path(path).mkdir()
        found = folder(read(), {})

        assert Path(path) == found

    assert nothing is None
    assert named == folder(read(), {"WORKSPACE_FOLDER": str(named)})
    assert named == folder(read("--workspace", str(named)), {"WORKSPACE_FOLDER": "/nowhere"})


def test_a_folder_that_was_named_and_is_not_there_is_a_mistake():
    with pytest.raises(UsageError, match="WORKSPACE_FOLDER: '/nowhere' is not a folder"):
        folder(read(), {"WORKSPACE_FOLDER": "/nowhere"})
