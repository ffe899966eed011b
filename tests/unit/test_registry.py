import subprocess
import sys

import pytest

from saggar import registry
from saggar.errors import NotFound, PlatformError

PLUG = """
class Toaster:
    name = "toaster"
"""


@pytest.fixture
def plugs(tmp_path, monkeypatch):
    """Another package on the path, with the plugs that its metadata names."""

    def install(**drivers):
        (tmp_path / "some_plug.py").write_text(PLUG)
        folder = tmp_path / "some_plug-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plug\nVersion: 1.0\n")
        lines = [f"{name} = {target}" for name, target in drivers.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[saggar.drivers]", *lines]))
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_our_own_plugs_are_always_there():
    assert {"jail", "process"} <= set(registry.drivers())
    assert {"python", "command"} <= set(registry.languages())


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (registry.driver, r"^no driver named 'jial'; there are: .*; did you mean 'jail'\?$"),
        (registry.language, r"^no language named 'jial'; there are: bash, command, .*python"),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(find, message):
    with pytest.raises(NotFound, match=message):
        find("jial")


def test_a_plug_of_another_package_is_found_by_its_entry_point(plugs):
    plugs(toaster="some_plug:Toaster")

    assert "toaster" in registry.drivers()
    assert "toaster" == registry.driver("toaster").name


def test_no_other_package_can_take_the_name_of_one_of_ours(plugs):
    plugs(process="some_plug:Toaster", toaster="some_plug:Toaster")

    assert "toaster" == registry.driver("toaster").name
    assert "process" == registry.driver("process").name


@pytest.mark.parametrize("target", ["no_such_module:Toaster", "some_plug:Kettle"])
def test_a_plug_that_does_not_load_is_named(plugs, target):
    plugs(broken=target)

    with pytest.raises(PlatformError, match=f"driver 'broken' \\({target}\\) does not load"):
        registry.driver("broken")


def test_finding_one_of_ours_looks_at_no_entry_points():
    code = """
import importlib.metadata as metadata
from saggar import registry
asked = []
metadata.entry_points = lambda **of: asked.append(of["group"]) or ()
registry.language("python")
assert "saggar.languages" not in asked
registry.languages()
assert "saggar.languages" in asked
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (0, "") == (run.returncode, run.stderr)
