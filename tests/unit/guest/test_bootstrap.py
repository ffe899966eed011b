"""The first lines inside: a program out of a memory file, on whatever interpreter reads it."""

import marshal
import subprocess
from importlib.util import MAGIC_NUMBER

import pytest

from saggar.drivers.interpreter import OPTIONS, bootstrap, bundle, find, memory_file

MAIN = """
from ours import part
def main(words):
    print(part.NAME, words, __name__, part.__package__, part.__spec__.origin)
"""
SOURCES = {"ours": "", "ours.part": "NAME = __name__", "ours.main": MAIN}


def packed(magic=MAGIC_NUMBER, code=None):
    """A bundle of `SOURCES`, in which each module's compiled code may be something else."""
    modules = {}
    for name, source in SOURCES.items():
        compiled = marshal.dumps(compile(source, name, "exec")) if code is None else code
        modules[name] = (name == "ours", compiled, source)
    return marshal.dumps((magic, modules))


def start(content, module, *words):
    fd = memory_file("bundle", content)
    argv = [find(None).executable, *OPTIONS, "-c", bootstrap(), module, str(fd), *words]
    return subprocess.run(argv, pass_fds=[fd], capture_output=True, text=True, check=False)


def test_a_module_is_imported_from_memory_and_its_main_gets_the_words():
    ran = start(packed(), "ours.main", "a", "b c")

    assert ("ours.part ['a', 'b c'] ours.main ours None\n", "") == (ran.stdout, ran.stderr)


def test_what_another_pythons_byte_code_is_compiled_anew():
    """Its magic number differs; nobody looks at the code then."""
    ran = start(packed(magic=b"\0\0\0\0", code=b"nonsense"), "ours.main", "a")

    assert ("ours.part ['a'] ours.main ours None\n", "") == (ran.stdout, ran.stderr)


def test_what_is_not_in_the_bundle_is_looked_for_elsewhere():
    ran = start(packed(), "ours.missing")

    assert "No module named 'ours.missing'" in ran.stderr


@pytest.mark.parametrize("module", ["runner", "forkserver", "init", "guardian"])
def test_everything_that_is_started_inside_is_in_the_bundle(module):
    """Each imports all that it needs; without words it can only complain."""
    code = f"""
import marshal, sys
magic, modules = marshal.loads(open(0, "rb").read())
assert {{name.split(".")[0] for name in modules}} == {{"saggar", "cloudpickle"}}
assert {f"saggar.guest.{module}"!r} in modules
"""
    argv = [find(None).executable, "-I", "-c", code]

    assert 0 == subprocess.run(argv, input=bundle(), check=False).returncode
