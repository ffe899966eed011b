"""
What the text of a Python program says, and the same text made tidier; nothing of it is ever run.

Apart from `codetools`, which runs code: here is nothing but reading, and Ruff for the form.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from typing import Any, Final

from saggar.errors import InvalidTask, UsageError

LINE: Final = 88
"""Characters of a line, as black and isort have it by default."""
PATIENCE: Final = 30.0
"""Seconds for Ruff."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_UNREADABLE: Final = (SyntaxError, ValueError, RecursionError, MemoryError)
_BRANCHES: Final = (
    ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert,
    ast.comprehension, ast.match_case,
)  # fmt: skip


def problem(code: str) -> str:
    """Why it is not Python, and where; empty if it is."""
    try:
        ast.parse(code)
    except _UNREADABLE as exc:
        return str(exc) or type(exc).__name__
    return ""


def tree(code: str) -> ast.Module:
    """Its syntax. InvalidTask if it has none."""
    try:
        return ast.parse(code)
    except _UNREADABLE as exc:
        raise InvalidTask(f"code: not Python: {exc}") from None


def dependencies(code: str) -> list[str]:
    """The packages that it imports and Python does not bring along, sorted."""
    names = set[str]()
    for node in ast.walk(tree(code)):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name.partition(".")[0] for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0):
                names.add(module.partition(".")[0])
    return sorted(names - sys.stdlib_module_names)


def formatted(code: str) -> str:
    """
    The same program as black and isort would write it.

    Raises:
        InvalidTask: It is not Python.
        UsageError: Ruff, which does that, is not installed.
    """
    tree(code)
    if find_spec("ruff") is None:
        raise UsageError("to format code needs ruff: pip install 'saggar[codetools]'")
    inside = ("--isolated", "--quiet", "--line-length", str(LINE), "--stdin-filename", "code.py")
    sorted_ = _ruff(code, "check", "--select=I", "--fix", "--exit-zero", *inside, "-")
    return _ruff(sorted_, "format", *inside, "-")


def _ruff(code: str, *words: str) -> str:
    # It parses and imports nothing; -P: nor is a `ruff.py` of this folder taken for it.
    run = subprocess.run(
        [sys.executable, "-P", "-m", "ruff", *words, "--no-cache"],
        input=code.encode(), capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    if run.returncode:
        said = run.stderr.decode(errors="replace").strip().splitlines()
        raise InvalidTask(f"code: cannot be formatted: {said[0] if said else 'no reason given'}")
    return run.stdout.decode()


def documented(code: str) -> str:
    """
    The program with a docstring, made of its name, for each function and class that has none.

    Put into the text, so that comments and form stay as they are. InvalidTask if it is not Python.
    """
    lines = code.encode().splitlines(keepends=True)
    found = [node for node in ast.walk(tree(code)) if isinstance(node, Named)]
    # From the end, as each one moves what follows.
    for node in sorted(found, key=lambda each: each.lineno, reverse=True):
        if ast.get_docstring(node, clean=False) is None:
            _describe(lines, node)
    return b"".join(lines).decode()


def _describe(lines: list[bytes], node: Named) -> None:
    first = node.body[0]
    decorators = getattr(first, "decorator_list", [])
    row = min([first.lineno, *(each.lineno for each in decorators)]) - 1
    before = lines[row][: _column(lines[row], first)] if row == first.lineno - 1 else b""
    docstring = f'"""{_words(node.name)}."""'.encode()
    continued = row > 0 and lines[row - 1].rstrip(b"\r\n").endswith(b"\\")
    if not before.strip() and not continued:
        indent = lines[row][: len(lines[row]) - len(lines[row].lstrip(b" \t\f"))]
        lines[row : row + 1] = [indent + docstring + b"\n", lines[row]]
        return
    # The body stands on the line of its head: it moves below it.
    head = lines[node.lineno - 1]
    indent = b"\n" + head[: len(head) - len(head.lstrip())] + b"    "
    rest = lines[row][len(before) :]
    lines[row] = before.rstrip() + indent + docstring + indent + rest


def _column(line: bytes, statement: ast.stmt) -> int:
    return min(statement.col_offset, len(line))


def _words(name: str) -> str:
    """`read_all` and `ReadAll` as one says them."""
    parts = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    said = " ".join(parts.replace("_", " ").split())
    return (said[:1].upper() + said[1:]) or name


def quality(code: str) -> dict[str, Any]:
    """
    What can be counted of it.

    `complexity_score` is that of McCabe, of the whole text: 1, and 1 for each way to branch.
    Docstrings and type hints: whether any are there.
    """
    lines = len(code.splitlines())
    if problem(code):
        return _counted(valid_syntax=False, line_count=lines)
    nodes = list(ast.walk(ast.parse(code)))
    places = [node for node in nodes if isinstance(node, ast.Module | Named)]
    return _counted(
        valid_syntax=True,
        line_count=lines,
        function_count=sum(isinstance(node, Function) for node in nodes),
        class_count=sum(isinstance(node, ast.ClassDef) for node in nodes),
        has_docstrings=any(ast.get_docstring(node) for node in places),
        has_type_hints=any(chain.from_iterable(map(_hints, nodes))),
        complexity_score=1 + sum(map(_ways, nodes)),
    )


def _counted(**said: Any) -> dict[str, Any]:
    nothing = {
        "function_count": 0,
        "class_count": 0,
        "has_docstrings": False,
        "has_type_hints": False,
        "complexity_score": 0,
    }
    return {**nothing, **said}


def _hints(node: ast.AST) -> Iterator[bool]:
    match node:
        case ast.AnnAssign():
            yield True
        case ast.arg(annotation=hint) | ast.FunctionDef(returns=hint):
            yield hint is not None
        case ast.AsyncFunctionDef(returns=hint):
            yield hint is not None


def _ways(node: ast.AST) -> int:
    """Ways to branch that it adds."""
    match node:
        case ast.BoolOp(values=values):
            return len(values) - 1
        case ast.comprehension(ifs=conditions):
            return 1 + len(conditions)
    return int(isinstance(node, _BRANCHES))
