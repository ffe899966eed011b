"""Where uv is, what it hears of our surroundings, and how files get out of its cache."""

import os
import sys

import pytest

from saggar.environments import uv
from saggar.environments.uv import find_uv
from saggar.errors import PrepareFailed


def test_uv_is_found_beside_the_interpreter(tmp_path, monkeypatch):
    beside = tmp_path / "bin" / "uv"
    beside.parent.mkdir()
    beside.write_text("#!/bin/sh\n")
    beside.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    assert str(beside) == find_uv()


def test_without_uv_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)

    with pytest.raises(PrepareFailed, match="pip install uv"):
        find_uv()


def test_uv_sees_index_and_proxies_and_nothing_else_of_ours():
    env = uv.surroundings(
        {
            "PATH": "/bin",
            "https_proxy": "http://proxy",
            "SSL_CERT_FILE": "/ca",
            "UV_DEFAULT_INDEX": "https://index",
            "UV_NO_VERIFY_HASHES": "1",
            "UV_NO_BINARY": "1",
            "PIP_INDEX_URL": "https://other",
            "PYTHONPATH": "/evil",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
    )

    assert {
        "PATH": "/bin",
        "https_proxy": "http://proxy",
        "SSL_CERT_FILE": "/ca",
        "UV_DEFAULT_INDEX": "https://index",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "NO_COLOR": "1",
    } == env


def test_an_index_that_only_pip_knows_is_used():
    env = uv.surroundings({"PIP_INDEX_URL": "https://a", "PIP_EXTRA_INDEX_URL": "https://b"})

    assert ("https://a", "https://b") == (env["UV_DEFAULT_INDEX"], env["UV_INDEX"])


def test_files_are_linked_from_a_cache_that_is_ours_alone(tmp_path):
    environ = {"UV_CACHE_DIR": str(tmp_path / "uv")}

    assert "hardlink" == uv.link_mode(tmp_path, environ)

    (tmp_path / "uv").mkdir()

    assert "hardlink" == uv.link_mode(tmp_path, environ)


def test_files_are_copied_from_a_cache_that_others_can_change(tmp_path):
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv").chmod(0o777)

    assert "copy" == uv.link_mode(tmp_path, {"UV_CACHE_DIR": str(tmp_path / "uv")})


def test_files_are_copied_from_another_file_system(tmp_path):
    assert "copy" == uv.link_mode(tmp_path, {"UV_CACHE_DIR": "/proc"})


def test_the_cache_is_where_uv_has_it():
    assert "/x/uv" == str(uv._cache_dir({"XDG_CACHE_HOME": "/x"}))
    assert os.path.expanduser("~/.cache/uv") == str(uv._cache_dir({}))
