"""Baking: what is marked, what is copied, what is written about it."""

import json
import sys
from textwrap import dedent

import pytest

from saggar.errors import Conflict, InvalidTask, NotFound
from saggar.functions import bake
from saggar.functions.manifest import Registry

APP = """
    from typing import TypedDict

    from glazes import GLAZE
    from saggar.functions.remote import remote
    from saggar.model.environment import Environment

    class Pot(TypedDict):
        size: int

    @remote
    def throw(size: int, *, name: str = "bowl") -> Pot:
        return {"size": size}

    @remote
    class Kiln:
        def fire(self): ...

    async def listed(*anything): return GLAZE
    def unmarked(): ...
    __baked__ = ["listed"]
"""


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pottery.py").write_text(dedent(APP))
    (folder / "glazes.py").write_text("GLAZE = 'celadon'\n")
    return folder / "pottery.py"


def baked(app, output):
    found, beside = bake.collect(app)
    bake.write(app, output, found, beside)
    return bake.register(output, found, {})


def test_what_is_decorated_and_what_is_listed_is_baked(app, tmp_path):
    found = baked(app, tmp_path / "out")

    assert {"throw": "function", "Kiln": "class", "listed": "function"} == {
        name: entry["type"] for name, entry in found.items()
    }
    assert [False, True] == [found["throw"]["is_async"], found["listed"]["is_async"]]
    assert "baked_code.pottery" == found["throw"]["module"]


def test_schemas_come_from_annotations(app, tmp_path):
    schemas = baked(app, tmp_path / "out")["throw"]["schemas"]

    assert ["size"] == schemas["input"]["required"]
    assert {"size": {"type": "integer"}, "name": {"type": "string"}} == schemas["input"][
        "properties"
    ]
    assert "object" == schemas["output"]["type"]


def test_the_modules_that_a_file_imports_go_along_and_nothing_else(app, tmp_path):
    (app.parent / "secret.py").write_text("KEY = 1")
    (app.parent / ".env").write_text("KEY=1")
    baked(app, tmp_path / "out")

    assert ["__init__.py", "glazes.py", "pottery.py"] == sorted(
        path.name for path in (tmp_path / "out").glob("*.py")
    )
    assert not list((tmp_path / "out").glob(".*"))


def test_what_is_written_is_a_registry_that_holds(app, tmp_path):
    baked(app, tmp_path / "out")

    found = Registry.load(tmp_path / "out" / "registry.json")

    assert {"Kiln", "listed", "throw"} == set(found.entries)


def test_the_same_application_is_the_same_twice(app, tmp_path):
    baked(app, tmp_path / "one")
    baked(app, tmp_path / "other")

    assert bake.name_of(tmp_path / "one") == bake.name_of(tmp_path / "other")


def test_importing_an_application_leaves_nothing_behind(app, tmp_path):
    before = set(sys.path)
    baked(app, tmp_path / "out")

    assert "pottery" not in sys.modules
    assert before == set(sys.path)


def test_a_folder_is_baked_whole_but_for_what_is_hidden(app, tmp_path):
    (app.parent / "data.csv").write_text("1,2\n")
    (app.parent / ".env").write_text("KEY=1")
    baked(app.parent, tmp_path / "out")

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"pottery.py", "glazes.py", "data.csv"} <= names
    assert ".env" not in names


def test_a_package_keeps_its_name(tmp_path):
    package = tmp_path / "kilns"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "heat.py").write_text("__baked__ = ['warm']\ndef warm(): return 1\n")
    (package / "main.py").write_text("from kilns.heat import warm\nfrom . import heat\n")
    found = baked(package, tmp_path / "out")

    assert "baked_code.kilns.heat" == found["warm"]["module"]
    assert (tmp_path / "out" / "kilns" / "main.py").is_file()


def test_nothing_marked_is_nothing_to_bake(tmp_path):
    app = tmp_path / "nothing.py"
    app.write_text("def f(): ...\n")

    with pytest.raises(NotFound, match="__baked__"):
        bake.collect(app)


def test_an_application_that_does_not_import_says_what_it_lacks(tmp_path):
    app = tmp_path / "broken.py"
    app.write_text("import a_package_that_nobody_has\n")

    with pytest.raises(InvalidTask, match="No module named 'a_package_that_nobody_has'"):
        bake.collect(app)


def test_one_name_stands_for_one_thing(tmp_path):
    for name in ("one_half.py", "other_half.py"):
        (tmp_path / name).write_text("__baked__ = ['f']\ndef f(): ...\n")

    with pytest.raises(InvalidTask, match="a baked name stands for one thing"):
        bake.collect(tmp_path)


def test_a_folder_of_somebody_elses_is_not_written_over(app, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("finished")
    found, beside = bake.collect(app)

    with pytest.raises(Conflict, match="was not baked"):
        bake.write(app, tmp_path / "theirs", found, beside)


def test_what_a_lock_names_is_what_is_registered(app, tmp_path):
    from saggar.model.digest import digest

    found, beside = bake.collect(app, ["tinycss2"])
    bake.write(app, tmp_path / "out", found, beside)
    lock = (
        "tinycss2==1.5.1 \\\n    --hash=sha256:00\nwebencodings==0.6.1 \\\n    --hash=sha256:11\n"
    )
    registry = bake.register(tmp_path / "out", found, {digest(found[0].environment): lock})

    pins = ["tinycss2==1.5.1", "webencodings==0.6.1"]
    assert pins == registry["throw"]["environment"]["packages"]
    assert "saggar bake --prepare /app/baked_code" in (tmp_path / "out/Dockerfile").read_text()
    assert json.loads((tmp_path / "out/hashes.json").read_text())["files"]["registry.json"]


TERMS = """
    from saggar.functions.classes import enter
    from saggar.functions.remote import remote
    from saggar.model.policy import Policy

    @remote(timeout="2s", limits={"memory": "64MiB"}, network="host", env={"A": "1"})
    def fire(z: int, a: int): ...

    @remote(policy=Policy(network="loopback", limits={"processes": 3}), secrets=["TOKEN"])
    class Kiln:
        def __init__(self, size: int): ...
        @enter
        def light(self): ...
        def heat(self, degrees: int) -> int: ...
        @staticmethod
        def told(word: str): ...
        @classmethod
        def made(cls, word: str): ...
        def each(self): yield 1
        def _private(self): ...
        def __call__(self): ...
        part = str
"""


def test_what_a_decorator_says_of_where_it_runs_is_written(tmp_path):
    (tmp_path / "kilns.py").write_text(dedent(TERMS))
    found = baked(tmp_path / "kilns.py", tmp_path / "out")

    assert ({"memory": 64 << 20, "wall": 2.0}, "host", {"A": "1"}) == (
        found["fire"]["limits"],
        found["fire"]["network"],
        found["fire"]["env"],
    )
    assert ({"processes": 3}, "loopback", ["TOKEN"]) == (
        found["Kiln"]["limits"],
        found["Kiln"]["network"],
        found["Kiln"]["secrets"],
    )
    assert found == json.loads((tmp_path / "out" / "registry.json").read_text())


def test_of_a_class_the_methods_for_others_are_written(tmp_path):
    (tmp_path / "kilns.py").write_text(dedent(TERMS))
    schemas = baked(tmp_path / "kilns.py", tmp_path / "out")["Kiln"]["schemas"]

    assert ["__call__", "heat", "made", "told"] == list(schemas["methods"])
    assert {"size": {"type": "integer"}} == schemas["input"]["properties"]
    assert {"degrees": {"type": "integer"}} == schemas["methods"]["heat"]["input"]["properties"]
    assert ["word"] == schemas["methods"]["made"]["input"]["required"]
    assert ["word"] == schemas["methods"]["told"]["input"]["required"]


def test_positional_arguments_keep_the_order_of_the_code(tmp_path):
    (tmp_path / "kilns.py").write_text(dedent(TERMS))
    baked(tmp_path / "kilns.py", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "registry.json").read_text())

    assert ["z", "a"] == list(said["fire"]["schemas"]["input"]["properties"])


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_generator_has_no_one_answer(tmp_path, kind):
    (tmp_path / "kilns.py").write_text(f"__baked__ = ['f']\n{kind} f():\n    yield 1\n")

    with pytest.raises(InvalidTask, match=r"kilns\.f is a generator"):
        bake.collect(tmp_path / "kilns.py")


def test_the_values_of_secrets_are_not_baked(tmp_path):
    text = "from saggar.functions.remote import remote\n@remote(secrets={'A': 'b'})\ndef f(): ...\n"
    (tmp_path / "kilns.py").write_text(text)

    with pytest.raises(InvalidTask, match=r"kilns.f: secrets: .* give names"):
        bake.collect(tmp_path / "kilns.py")
