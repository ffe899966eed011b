"""
From an attack, written as a function, to the program that is sent inside.

The program is the function and everything it names: imports, constants and other functions of its
module or of `inside`. So an attack reads, lints and type-checks like any other code, and needs
nothing of ours behind the wall.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import ModuleType

HERE = __package__
BEFORE = "from __future__ import annotations"
INSIDE = f"{HERE}.inside"


def program(attack: Callable[[], None]) -> str:
    """The source of a script that runs `attack` between `begin()` and `end()`."""
    gathered = _Gathered()
    for name in ("begin", "end"):
        gathered.take(_module(INSIDE), name)
    gathered.take(_module(attack.__module__), attack.__name__)
    calls = ["begin()", f"{attack.__name__}()", "end()"]
    return "\n".join([BEFORE, *gathered.imports, *gathered.definitions, *calls]) + "\n"


class _Gathered:
    """What a program needs, found by following names; a thing comes after what it names."""

    def __init__(self) -> None:
        self.imports: dict[str, None] = {}
        self.definitions: dict[str, None] = {}
        self._seen: set[tuple[str, str]] = set()

    def take(self, module: ModuleType, name: str) -> None:
        """Take what `name` stands for in `module`, and what that needs in turn."""
        if (module.__name__, name) in self._seen:
            return
        self._seen.add((module.__name__, name))
        match _bindings(module).get(name):
            case ast.ImportFrom(module=str(origin)) if origin.startswith(f"{HERE}."):
                self.take(_module(origin), name)
            case ast.Import() | ast.ImportFrom() as statement:
                self.imports[ast.unparse(statement)] = None
            case ast.stmt() as statement:
                for used in _names(statement):
                    self.take(module, used)
                self.definitions[_source(module, statement)] = None


def _module(name: str) -> ModuleType:
    __import__(name)
    return sys.modules[name]


@lru_cache
def _lines(module: ModuleType) -> list[str]:
    return inspect.getsource(module).splitlines()


@lru_cache
def _bindings(module: ModuleType) -> dict[str, ast.stmt]:
    """Every name at the top of a module, with the statement that binds it."""
    tree = ast.parse(inspect.getsource(module))
    return {name: statement for statement in tree.body for name in _bound(statement)}


def _bound(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
        case ast.Assign(targets=targets):
            for target in targets:
                yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def _names(statement: ast.stmt) -> Iterator[str]:
    """The names a statement uses when it runs; annotations and decorators do not."""
    roots: list[ast.AST] = [statement]
    match statement:
        case ast.FunctionDef(body=body, args=arguments):
            roots = [*body, *arguments.defaults, *filter(None, arguments.kw_defaults)]
        case ast.AnnAssign(value=ast.expr() as value):
            roots = [value]
    for root in roots:
        yield from (node.id for node in ast.walk(root) if isinstance(node, ast.Name))


def _source(module: ModuleType, statement: ast.stmt) -> str:
    # From the `def` line on: a decorator belongs to this side of the wall.
    return "\n".join(_lines(module)[statement.lineno - 1 : statement.end_lineno])
