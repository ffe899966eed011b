"""`saggar kernelspec`: what it writes, and where."""

import json
import subprocess

import pytest

from saggar.cli import kernelspec
from saggar.errors import InvalidTask


def installed(tmp_path, *words):
    assert 0 == kernelspec.main(["install", "--prefix", str(tmp_path), *words])
    (found,) = tmp_path.glob("share/jupyter/kernels/*/kernel.json")
    return found.parent.name, json.loads(found.read_text())


def test_it_names_its_provisioner_and_nothing_that_is_as_ever(tmp_path, capsys):
    name, spec = installed(tmp_path)

    assert "saggar" == name
    assert str(tmp_path) in capsys.readouterr().out
    assert {"provisioner_name": "saggar", "config": {"kernel": "python", "network": "none"}} == (
        spec["metadata"]["kernel_provisioner"]
    )


def test_what_was_asked_for_stands_in_it(tmp_path):
    words = ["--name", "Data", "--package", "numpy", "--memory", "1GiB", "--folder", "."]
    name, spec = installed(tmp_path, *words, "--display-name", "Data behind walls")
    config = spec["metadata"]["kernel_provisioner"]["config"]

    assert ("data", "Data behind walls") == (name, spec["display_name"])
    assert (["numpy"], {"memory": "1GiB"}) == (config["packages"], config["limits"])
    assert config["folder"].startswith("/")


def test_who_knows_no_provisioner_starts_nothing(tmp_path):
    """Its command would run without walls."""
    _, spec = installed(tmp_path)
    ended = subprocess.run(spec["argv"], capture_output=True, check=False)

    assert 1 == ended.returncode
    assert b"provisioner" in ended.stderr


@pytest.mark.parametrize("name", ["", "a/b", "../x", "ä"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(InvalidTask, match="--name"):
        kernelspec.main(["install", "--prefix", str(tmp_path), "--name", name])


def test_for_the_user_it_goes_where_jupyter_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    kernelspec.main(["install", "--user"])

    assert (tmp_path / "kernels" / "saggar" / "kernel.json").is_file()
