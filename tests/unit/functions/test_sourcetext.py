"""What is said of a program without running it, and what is made of its text."""

import ast
import importlib.util
import json.decoder
import textwrap
import warnings
from importlib.machinery import ModuleSpec
from inspect import getsource
from types import ModuleType

import pytest

from saggar.errors import InvalidTask, UsageError
from saggar.functions import sourcetext
from saggar.functions.codetools import CodeTools
from saggar.functions.sourcetext import Named

BROKEN = "print("


def test_what_is_wrong_with_it_is_told_with_the_line():
    good, why = CodeTools.validate_syntax(BROKEN)

    assert (True, "the syntax is valid") == CodeTools.validate_syntax("print(1)")
    assert not good
    assert "line 1" in why
    assert not CodeTools.validate_syntax("x = 1\0")[0]


def test_dependencies_are_what_python_does_not_bring_along():
    code = "import os, numpy.linalg\nfrom pandas import x\nfrom . import y\nimport json as j"

    assert ["numpy", "pandas"] == CodeTools.extract_dependencies(code)


@pytest.mark.parametrize(
    "ask", [CodeTools.extract_dependencies, CodeTools.format_code, CodeTools.add_docstrings]
)
def test_what_is_not_python_is_refused(ask):
    with pytest.raises(InvalidTask, match="code: not Python"):
        ask(BROKEN)


def test_code_is_formatted_and_its_imports_are_sorted():
    code = "import sys\nimport json, os\ndef f( a,b ):\n  return {'a':a}\n"

    assert (
        'import json\nimport os\nimport sys\n\n\ndef f(a, b):\n    return {"a": a}\n'
        == CodeTools.format_code(code)
    )


def test_settings_that_lie_around_do_not_change_the_form(tmp_path, monkeypatch):
    (tmp_path / "ruff.toml").write_text("line-length = 20\n")
    monkeypatch.chdir(tmp_path)

    assert "x = [1, 2, 3, 4, 5, 6, 7]\n" == CodeTools.format_code("x=[1,2,3,4,5,6,7]")


def test_without_ruff_it_says_what_to_install(monkeypatch):
    def nowhere(name: str) -> ModuleSpec | None:
        return None if name == "ruff" else importlib.util.find_spec(name)

    monkeypatch.setattr(sourcetext, "find_spec", nowhere)

    with pytest.raises(UsageError, match=r"pip install 'saggar\[codetools\]'"):
        CodeTools.format_code("print(1)")


def test_docstrings_are_added_where_there_are_none():
    code = textwrap.dedent(
        '''\
        # A comment stays.
        class WordCount:
            def __init__(self): self.words = {}; self.total = 0

            @property
            def all_words(self):
                # So does this one.
                return self.words

            def known(self):
                """It has one."""
        '''
    )
    expected = textwrap.dedent(
        '''\
        # A comment stays.
        class WordCount:
            """Word count."""
            def __init__(self):
                """Init."""
                self.words = {}; self.total = 0

            @property
            def all_words(self):
                # So does this one.
                """All words."""
                return self.words

            def known(self):
                """It has one."""
        '''
    )

    assert expected == CodeTools.add_docstrings(code)
    assert expected == CodeTools.add_docstrings(expected)


@pytest.mark.parametrize("module", [ast, textwrap, json.decoder, warnings])
def test_a_program_with_docstrings_is_the_same_program(module: ModuleType):
    code = getsource(module)

    found = CodeTools.add_docstrings(code)

    assert without_docstrings(code) == without_docstrings(found)
    assert [] == [node.name for node in named(found) if ast.get_docstring(node) is None]


def named(code: str) -> list[Named]:
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, Named)]


def without_docstrings(code: str) -> str:
    parsed = ast.parse(code)
    for node in ast.walk(parsed):
        if isinstance(node, Named) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(parsed)


def test_quality_is_what_can_be_counted():
    code = textwrap.dedent(
        '''\
        """A module."""
        class Shop:
            def sell(self, price: float, *, gift: bool = False) -> float:
                if gift and price > 10 or not price:
                    return 0.0
                return max(x for x in (price, 1) if x)
        async def close():
            try:
                return 1
            except ValueError:
                pass
        '''
    )

    assert {
        "valid_syntax": True,
        "line_count": 11,
        "function_count": 2,
        "class_count": 1,
        "has_docstrings": True,
        "has_type_hints": True,
        # itself, if, and, or, for, its if, except
        "complexity_score": 7,
    } == CodeTools.check_code_quality(code)


def test_what_is_not_python_has_lines_and_nothing_else():
    assert {
        "valid_syntax": False,
        "line_count": 2,
        "function_count": 0,
        "class_count": 0,
        "has_docstrings": False,
        "has_type_hints": False,
        "complexity_score": 0,
    } == CodeTools.check_code_quality("def f():\nprint(")


def test_a_program_without_hints_and_docstrings_has_none():
    found = CodeTools.check_code_quality("def f(x):\n    return x")

    assert (False, False, 1) == (
        found["has_docstrings"], found["has_type_hints"], found["complexity_score"],
    )  # fmt: skip
