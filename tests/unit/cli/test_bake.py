"""What `saggar bake` makes of its words, and writes."""

import pytest

from saggar.cli import bake
from saggar.errors import NotFound, UsageError
from saggar.functions.manifest import Registry


def test_an_application_has_to_be_named():
    with pytest.raises(UsageError, match="saggar bake APP"):
        bake.main([])


def test_an_application_has_to_be_there(tmp_path):
    with pytest.raises(NotFound, match=r"wanted a \.py file or a folder"):
        bake.main([str(tmp_path / "nowhere.py")])


def test_what_was_baked_is_listed(tmp_path, capsys):
    (tmp_path / "app.py").write_text("__baked__ = ['f']\ndef f(): ...\n")
    code = bake.main([str(tmp_path / "app.py"), "-o", str(tmp_path / "out")])
    first, last = capsys.readouterr().out.splitlines()

    assert 0 == code
    assert "function f  baked_code.app" == first
    assert last.startswith(f"{tmp_path / 'out'}: 1 baked, sha256:")
    assert ["f"] == list(Registry.load(tmp_path / "out" / "registry.json").entries)
    assert 0 == bake.main(["--prepare", str(tmp_path / "out")])


def test_a_baked_folder_that_was_changed_is_not_prepared(tmp_path):
    (tmp_path / "app.py").write_text("__baked__ = ['f']\ndef f(): ...\n")
    bake.main([str(tmp_path / "app.py"), "-o", str(tmp_path / "out")])
    (tmp_path / "out" / "app.py").write_text("evil = 1\n")

    with pytest.raises(UsageError, match="is not what was baked"):
        bake.main(["--prepare", str(tmp_path / "out")])
