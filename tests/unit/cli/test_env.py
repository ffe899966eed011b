"""`saggar env`, on a store of its own."""

import json
import sys

import pytest
from tests.unit.environments.conftest import Shelf

from saggar.cli import env
from saggar.cli.main import USAGE, main
from saggar.cli.progress import with_bar


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch):
    shelf = Shelf(tmp_path / "shelf")
    for name, value in {
        "UV_FIND_LINKS": shelf.folder,
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": tmp_path / "uv",
        "SAGGAR_CACHE_DIR": tmp_path / "cache",
        "SAGGAR_RUNTIME_DIR": tmp_path / "runtime",
    }.items():
        monkeypatch.setenv(name, str(value))
    return shelf


def said(capsys, *words: str) -> tuple[int, str, str]:
    code = main(["env", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def document(capsys, *words: str):
    code, out, err = said(capsys, *words, "--json")
    assert (0, "") == (code, err)
    return json.loads(out)


def test_an_environment_is_built_ahead(capsys, shelf):
    shelf.add("clay")
    code, out, err = said(capsys, "prepare", "--package", "clay")
    (layer,) = document(capsys, "ls")
    built = document(capsys, "prepare", "--package", "clay")

    assert (0, "saggar: resolving clay\nsaggar: installing clay 1.0\n") == (code, err)
    assert [out.strip()] == [one["path"] for one in built]
    assert (["clay"], "python") == (layer["requirements"], layer["kind"])


def test_who_wants_quiet_gets_it(capsys, shelf):
    shelf.add("clay")
    _, out, err = said(capsys, "prepare", "--package", "clay", "-q")

    assert "" == err
    assert out.endswith("/site\n")


def test_layers_are_listed_with_what_they_are(capsys, shelf):
    shelf.add("clay")
    said(capsys, "prepare", "--package", "clay")
    _, out, _ = said(capsys, "ls")
    head, row = out.splitlines()

    assert ["digest", "kind", "size", "used", "what"] == head.split()
    assert "clay" == row.split()[-1]


def test_one_is_shown_with_its_lock(capsys, shelf):
    shelf.add("clay")
    said(capsys, "prepare", "--package", "clay")
    (layer,) = document(capsys, "ls")
    shown = document(capsys, "show", layer["digest"][7:17])
    _, out, _ = said(capsys, "show", layer["digest"])

    assert shown["lock"].startswith("clay==1.0 \\\n    --hash=sha256:")
    assert shown["folder"] in out


def test_named_layers_are_removed(capsys, shelf):
    shelf.add("clay")
    said(capsys, "prepare", "--package", "clay")
    (layer,) = document(capsys, "ls")

    assert {"removed": [layer["digest"]]} == document(capsys, "prune", layer["digest"][:19])
    assert "no layers\n" == said(capsys, "ls")[1]


def test_what_is_in_use_lately_is_not_pruned(capsys, shelf):
    shelf.add("clay")
    said(capsys, "prepare", "--package", "clay")

    assert "nothing to remove\n" == said(capsys, "prune")[1]
    assert "nothing to remove\n" == said(capsys, "prune", "--unused", "1d", "--size", "0")[1]
    assert 1 == len(document(capsys, "prune", "--unused", "0")["removed"])


def test_what_is_installed_already_needs_no_layer(capsys):
    pytest.importorskip("pytest")
    if not sys.platform.startswith("linux"):
        pytest.skip("there is no dpkg")
    code, out, _ = said(capsys, "prepare", "--system-package", "dpkg")

    assert (0, "all of it is on this machine\n") == (code, out)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "takes one of ls, show, prune, prepare"),
        (("shw",), "did you mean 'show'"),
        (("prepare",), "nothing to build"),
        (("prepare", "--python", "3.12"), "nothing to build"),
        (("prepare", "--package", "-r x"), "wanted a package"),
        (("prepare", "--system-package", "x-"), "wanted a system package"),
        (("prepare", "--model", "../x"), "wanted a model"),
        (("show", "0123456789"), "no layer named"),
        (("prune", "ab", "--size", "1"), "not both"),
        (("prune", "--unused", "soon"), "wanted a time"),
        (("prune", "--size", "much"), "wanted a size"),
    ],
)
def test_mistakes_are_named(capsys, words, complaint):
    code, _, err = said(capsys, *words)

    assert USAGE == code
    assert complaint in err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["env", "--help"])
    out = capsys.readouterr().out

    assert all(f"  {verb:<9}" in out for verb in env.VERBS)


def test_a_part_of_the_whole_is_drawn():
    assert "[##########----------] downloading a: 50 % of 3 MB" == with_bar(
        "downloading a: 50 % of 3 MB"
    )
    assert "resolving clay" == with_bar("resolving clay")
