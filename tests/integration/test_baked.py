"""Baked mode as in production: its ceiling, what it refuses, what a program is told."""

import json
import os
import py_compile
import subprocess
import sys
from textwrap import dedent

import pytest

from saggar.compat.runpod import FunctionRequest
from saggar.compat.runpod_baked import BakedExecutor
from saggar.functions import bake
from saggar.functions.kept import Terms
from saggar.model.policy import Policy

PATIENCE = 60
APP = """
    import dataclasses, datetime, enum, os, time
    import saggar

    class Glaze(enum.Enum):
        CELADON = "celadon"

    @dataclasses.dataclass
    class Pot:
        size: int

    @saggar.remote
    def grow(pots: list[Pot], day: datetime.date, glaze: Glaze, by: float = 1) -> dict[str, Pot]:
        assert (day.year, glaze, type(by)) == (2024, Glaze.CELADON, float)
        return {"pot": Pot(pots[0].size + int(by))}

    @saggar.remote
    def twice(z: int, a: str) -> set[str]: return {z * a}

    @saggar.remote(timeout=0.5, env={"KILN": "7"})
    def slow(seconds: float) -> str:
        time.sleep(seconds)
        return os.environ["KILN"]

    @saggar.remote(network="host")
    def connected(): ...

    @saggar.remote(secrets=["TOKEN"])
    def told() -> str: return os.environ["TOKEN"]

    @saggar.remote
    class Kiln:
        def __init__(self, pot: Pot): self.pot, self._hot = pot, False
        @saggar.enter
        def light(self): self._hot = True
        def fire(self, pot: Pot) -> Pot: return Pot(self.pot.size + pot.size)
        def is_hot(self) -> bool: return self._hot
        def _private(self): return 1
        @property
        def told(self): return 1
        def __call__(self, x): return x
        def __len__(self): return 1
"""


def written(folder, text, name="app.py"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(dedent(text))
    return folder / name


def made(app, output):
    found, beside = bake.collect(app)
    bake.write(app, output, found, beside)
    bake.register(output, found, {})
    return output


@pytest.fixture(scope="module")
def baked(tmp_path_factory):
    app = written(tmp_path_factory.mktemp("app"), APP)
    return made(app, tmp_path_factory.mktemp("workspace") / "baked_code")


@pytest.fixture(scope="module")
def executor(baked):
    return BakedExecutor(baked.parent)


def function(executor, name, *args, **said):
    said = {"baked": True, "serialization_format": "json", **said}
    return executor.execute(FunctionRequest(function_name=name, args=args, **said))


def method(executor, name, *args, kind="Kiln", **said):
    said = {"baked": True, "serialization_format": "json", "create_new_instance": False, **said}
    about = {"execution_type": "class", "class_name": kind, "method_name": name}
    return executor.execute(FunctionRequest(**about, args=args, **said))


PRODUCTION = """
    import sys
    from saggar import BakedExecutor, errors, is_baked_mode_enabled, run
    from saggar.compat.runpod import FunctionRequest

    assert is_baked_mode_enabled()
    executor = BakedExecutor(sys.argv[1])
    said = {"baked": True, "serialization_format": "json"}
    twice = FunctionRequest(function_name="twice", args=[2, "a"], **said)
    told = FunctionRequest(function_name="told", **said)
    print(executor.execute(twice).json_result, executor.execute(told).json_result)
    try:
        run("print(1)")
    except errors.PolicyDenied as exc:
        print(exc)
"""


def test_in_production_names_are_executed_and_nothing_else(baked, tmp_path):
    script = written(tmp_path, PRODUCTION)
    words = [sys.executable, str(script), str(baked.parent)]
    environ = {**os.environ, "TETRA_BAKED_MODE": "true", "SAGGAR_SECRET_TOKEN": "theirs"}
    ran = subprocess.run(words, env=environ, capture_output=True, timeout=PATIENCE, check=False)
    first, _, second = ran.stdout.decode().partition("\n")

    assert "['aa'] theirs" == first, ran.stderr.decode()
    assert "inline was asked for, the policy allows named" in second


def test_arguments_are_what_their_annotations_say_and_answers_are_json(executor):
    answer = function(executor, "grow", [{"size": 1}], "2024-01-02", "celadon", kwargs={"by": 2})

    assert ({"pot": {"size": 3}}, None) == (answer.json_result, answer.error)
    assert ["aaa"] == function(executor, "twice", 3, "a").json_result, "in the order of the code"


def test_arguments_of_constructors_and_methods_keep_to_their_schemas(executor):
    said = {"instance_id": "checked", "constructor_args": [{"size": 1}]}
    fired = method(executor, "fire", {"size": 2}, **said)
    wrong = method(executor, "fire", {"size": "2"}, **said)
    not_made = method(executor, "fire", {"size": 2}, instance_id="other", constructor_args=[1])

    assert {"size": 3} == fired.json_result
    assert 'Kiln.fire: at /pot/size: "2" is not of type "integer"' == wrong.error
    assert 'Kiln: at /pot: 1 is not of type "object"' == not_made.error


def test_what_a_class_does_at_its_beginning_is_done(executor):
    hot = method(executor, "is_hot", instance_id="hot", constructor_args=[{"size": 1}])

    assert (True, None) == (hot.json_result, hot.error)


@pytest.mark.parametrize(
    "name",
    ["__setattr__", "__init__", "__getattribute__", "__len__", "_private", "light", "told", "none"],
)
def test_only_the_methods_of_the_registry_are_called(executor, name):
    answer = method(executor, name, instance_id="closed", constructor_args=[{"size": 1}])

    assert f"Method '{name}' not found in class 'Kiln'" == answer.error


def by_hand(folder, text, name="f", **entry):
    """A registry of the documented shape, and no more."""
    written(folder, text, "main.py")
    said = {"type": "function", "module": "baked_code.main", "name": name, **entry}
    (folder / "registry.json").write_text(json.dumps({name: said}))
    return folder / "registry.json"


BY_HAND = """
    class Kiln:
        def __call__(self): return "called"
        def fire(self): return "fired"
        def _private(self): return 1
"""


COUNTING = """
    class Kiln:
        n = 0
        async def __call__(self):
            self.n += 1
            return self.n
"""


def test_without_schemas_public_methods_are_called(tmp_path):
    executor = BakedExecutor(None, by_hand(tmp_path / "code", BY_HAND, "Kiln", type="class"))
    answers = [method(executor, name) for name in ("fire", "__call__", "_private", "__dir__")]

    assert ["fired", "called", None, None] == [answer.json_result for answer in answers]
    assert "Method '__dir__' not found in class 'Kiln'" == answers[-1].error


def test_what_its_decorator_says_of_a_function_holds_once_it_is_baked(executor):
    ended = function(executor, "slow", 20)

    assert "7" == function(executor, "slow", 0).json_result
    assert "wall" in ended.error
    assert "it was baked with network='host', and this worker gives 'none'" in (
        function(executor, "connected").error
    )


IMPORTS = "__baked__ = ['f']\ndef f():\n    import kiln\n    return kiln.HEAT\n"


@pytest.fixture
def importing(tmp_path):
    """A baked program that imports a module of it when it is called."""
    app = written(tmp_path / "app", IMPORTS)
    written(tmp_path / "app", "HEAT = 'as baked'\n", "kiln.py")
    return made(app.parent, tmp_path / "out")


def test_a_module_that_is_changed_after_the_start_is_not_loaded(importing):
    before = BakedExecutor(None, importing / "registry.json")
    assert "as baked" == function(before, "f").json_result

    late = BakedExecutor(None, importing / "registry.json")
    (importing / "kiln.py").write_text("HEAT = 'changed'\n")

    assert "hashes.json: 'kiln.py' is not what was baked" == function(late, "f").error


def test_a_module_is_compared_when_it_is_imported(importing):
    # Of another length than before: within a second Python takes it for the same file.
    text = "__baked__ = ['f']\n\n\ndef f(load):\n    if load:\n        import kiln\n"
    output = made(written(importing.parent / "app", text).parent, importing)
    executor = BakedExecutor(None, output / "registry.json")
    assert function(executor, "f", False).success, "its sandbox is there from now on"
    (output / "kiln.py").write_text("HEAT = 'changed'\n")

    assert "kiln.py is not what was baked" in (function(executor, "f", True).error or "")


def test_byte_code_that_lies_beside_a_module_is_not_executed(importing, tmp_path):
    evil = written(tmp_path, "HEAT = 'planted'\n", "evil.py")
    tag = f"kiln.cpython-{sys.version_info[0]}{sys.version_info[1]}.pyc"
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    place = importing / "__pycache__" / tag
    py_compile.compile(str(evil), cfile=str(place), invalidation_mode=unchecked)
    executor = BakedExecutor(None, importing / "registry.json")

    assert "as baked" == function(executor, "f").json_result


def test_an_instance_that_ends_does_what_its_class_says(tmp_path):
    ashes = tmp_path / "ashes"
    ashes.mkdir()
    ashes.chmod(0o777)
    text = """
        import pathlib
        import saggar
        from saggar.model.environment import Environment, Mount

        there = Mount(source={ashes!r}, target="/ashes", read_only=False)

        @saggar.remote(environment=Environment(mounts=(there,)))
        class Kiln:
            @saggar.exit
            async def put_out(self): pathlib.Path("/ashes/out").write_text("out")
            def fire(self): return 1
    """
    app = written(tmp_path / "app", text.replace("{ashes!r}", repr(str(ashes))))
    output = made(app, tmp_path / "out")
    shared = Policy(mounts=(str(ashes),), shares=(str(ashes),))
    kiln = BakedExecutor(None, output / "registry.json", terms=Terms(policy=shared))

    assert (1, None) == ((first := method(kiln, "fire")).json_result, first.error)
    assert method(kiln, "fire", create_new_instance=True).success, "the first one ends"
    assert "out" == (ashes / "out").read_text()


def test_what_a_request_for_a_class_leaves_out_is_as_documented(tmp_path):
    executor = BakedExecutor(None, by_hand(tmp_path / "code", COUNTING, "Kiln", type="class"))
    said = {"execution_type": "class", "class_name": "Kiln", "serialization_format": "json"}
    bare = FunctionRequest(**said, baked=True)
    same = FunctionRequest(**said, baked=True, create_new_instance=False)
    answers = [executor.execute(request) for request in (bare, same, same, bare)]

    assert [1, 2, 3, 1] == [answer.json_result for answer in answers], "a new one, unless told so"
    assert {"Kiln"} == {answer.instance_id for answer in answers}
    calls = [(answer.instance_info or {})["method_calls"] for answer in answers]
    assert [1, 2, 3, 1] == calls
