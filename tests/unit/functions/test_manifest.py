"""The registry of baked programs, and what it does not believe."""

import hashlib
import json

import pytest

from saggar.errors import InvalidTask, NotFound
from saggar.functions.manifest import Registry

ENTRY = {"type": "function", "module": "baked_code.main", "name": "f"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text("def f(): return 1\n")
    return tmp_path


def registry(folder, entries):
    path = folder / "registry.json"
    path.write_text(json.dumps(entries))
    return Registry.load(path)


def hashed(folder, **changes):
    found = {
        path.name: "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "hashes.json"
    }
    (folder / "hashes.json").write_text(json.dumps({"files": {**found, **changes}}))


def test_the_documented_shape_is_enough(folder):
    found = registry(folder, {"f": ENTRY, "g": {"type": "class", "module": "baked_code.main"}})

    assert "f" == found.find("f").name
    assert "g" == found.find("g").name, "a name that is left out is that of the entry"


def test_a_name_that_is_not_there_is_named(folder):
    with pytest.raises(NotFound, match=r"no baked program named 'ff'.*did you mean 'f'"):
        registry(folder, {"f": ENTRY}).find("ff")


@pytest.mark.parametrize(
    "module",
    [
        "os",
        "baked_code..main",
        "baked_code/../main",
        "../main",
        "baked_code.main\n",
        "baked_codes.x",
    ],
)
def test_a_module_that_leaves_the_folder_is_refused(folder, module):
    with pytest.raises(InvalidTask, match=r"registry.json"):
        registry(folder, {"f": {**ENTRY, "module": module}})


@pytest.mark.parametrize("name", ["../f", "f()", "f;g", "f\n"])
def test_a_callable_is_a_name(folder, name):
    with pytest.raises(InvalidTask, match=r"registry.json"):
        registry(folder, {"f": {**ENTRY, "name": name}})


def test_a_module_that_is_not_there_is_refused(folder):
    with pytest.raises(InvalidTask, match=r"no module 'baked_code.other'"):
        registry(folder, {"f": {**ENTRY, "module": "baked_code.other"}})


def test_a_module_that_is_a_link_to_elsewhere_is_refused(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "evil.py"
    outside.write_text("def f(): ...\n")
    (folder / "evil.py").symlink_to(outside)

    with pytest.raises(InvalidTask, match=r"no module"):
        registry(folder, {"f": {**ENTRY, "module": "baked_code.evil"}})


def test_a_file_of_another_digest_is_refused(folder):
    with pytest.raises(InvalidTask, match=r"digest differs"):
        registry(folder, {"f": {**ENTRY, "digest": "sha256:" + "0" * 64}})


def test_a_file_that_was_changed_is_refused(folder):
    hashed(folder, **{"main.py": "sha256:" + "0" * 64})

    with pytest.raises(InvalidTask, match=r"'main.py' is not what was baked"):
        registry(folder, {"f": ENTRY})


def test_a_file_that_was_removed_is_missed(folder):
    hashed(folder, **{"gone.py": "sha256:" + "0" * 64})

    with pytest.raises(InvalidTask, match=r"'gone.py' is missing"):
        registry(folder, {"f": ENTRY})


def test_code_that_was_added_is_refused(folder):
    hashed(folder)
    (folder / "added.py").write_text("")

    with pytest.raises(InvalidTask, match=r"'added.py' was not there"):
        registry(folder, {"f": ENTRY})


@pytest.mark.parametrize("text", ["", "[]", "{", '{"f": []}', '{"f": {"type": "script"}}'])
def test_what_is_no_registry_is_refused(folder, text):
    (folder / "registry.json").write_text(text)

    with pytest.raises(InvalidTask):
        Registry.load(folder / "registry.json")


def test_a_registry_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InvalidTask, match=r"it cannot be read: No such file"):
        Registry.load(tmp_path / "registry.json")


def test_a_schema_has_a_say_about_arguments(folder):
    schema = {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {}},
        "required": ["x"],
        "additionalProperties": False,
    }
    found = registry(folder, {"f": {**ENTRY, "schemas": {"input": schema}}})

    assert None is found.problem("f", [1], {"y": "anything"})
    assert 'at /x: "1" is not of type "integer"' == found.problem("f", ["1"], {})
    assert "'x' was given twice" == found.problem("f", [1], {"x": 1})
    assert "wanted at most 2 positional arguments, found 3" == found.problem("f", [1, 2, 3], {})
    assert found.problem("f", [], {}) is not None


@pytest.mark.parametrize(
    ("text", "name", "origin"),
    [
        ("import os\n", "os.system", "os"),
        ("from os import system\n", "system", "os"),
        ("import subprocess as f\n", "f.run", "subprocess"),
    ],
)
def test_what_a_module_imports_from_elsewhere_is_not_baked(folder, text, name, origin):
    (folder / "main.py").write_text(text)

    with pytest.raises(InvalidTask, match=rf"imports .* from '{origin}', which was not baked"):
        registry(folder, {"f": {**ENTRY, "name": name}})


def test_what_a_module_imports_from_its_folder_is_baked(folder):
    (folder / "inner.py").write_text("def g(): return 1\n")
    (folder / "main.py").write_text("from inner import g\nfrom . import inner\n")

    assert "g" == registry(folder, {"f": {**ENTRY, "name": "g"}}).find("f").name


def test_pythons_own_names_are_nobodys(folder):
    with pytest.raises(InvalidTask, match="'__builtins__' is Python's own"):
        registry(folder, {"f": {**ENTRY, "name": "__builtins__"}})


@pytest.mark.parametrize(
    "schemas", [{"input": {"type": "nonsense"}}, {"methods": {"fire": {"output": {"type": 5}}}}]
)
def test_a_schema_that_is_none_is_refused(folder, schemas):
    with pytest.raises(InvalidTask, match=r"registry.json: f(\.fire)?: schemas"):
        registry(folder, {"f": {**ENTRY, "schemas": schemas}})


def test_a_limit_that_is_none_is_refused(folder):
    with pytest.raises(InvalidTask, match=r"registry\.json: f: "):
        registry(folder, {"f": {**ENTRY, "limits": {"memory": "much"}}})


def test_hashes_are_those_of_the_start(folder):
    (folder / "notes.txt").write_text("kept")
    path = folder / "registry.json"
    path.write_text(json.dumps({"f": ENTRY}))
    hashed(folder)
    found = Registry.load(path)
    (folder / "notes.txt").write_text("changed")
    hashed(folder)

    with pytest.raises(InvalidTask, match=r"'notes.txt' is not what was baked"):
        found.verify_hashes()
