"""The part of a task that does not vary: code, its language, and what it needs around it."""

from collections.abc import Iterable
from enum import StrEnum
from os import PathLike
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from saggar.errors import InvalidTask
from saggar.model.environment import Environment
from saggar.model.paths import printable, relative, utf8, without_nul
from saggar.model.value import Value

LANGUAGES: Final = {
    **dict.fromkeys((".js", ".mjs", ".cjs", ".ts", ".mts", ".cts"), "node"),
    ".go": "go",
    ".sh": "bash",
    ".bash": "bash",
}
"""What a file is written in, by its ending; any other one is Python."""


class CodeKind(StrEnum):
    """The forms that code can have; a policy says which of them it accepts."""

    INLINE = "inline"
    PICKLED = "pickled"
    NAMED = "named"
    COMMAND = "command"


ALL_KINDS: Final = frozenset(CodeKind)


def _name(name: str) -> str:
    return printable(name, "the name of a program")


def _entry(entry: str) -> str:
    if not all(part.isidentifier() for part in entry.split(".")):
        raise ValueError(f"wanted a function's name such as 'describe', found {entry!r:.80}")
    return entry


class Inline(Value):
    """Source text."""

    kind: Literal[CodeKind.INLINE] = CodeKind.INLINE
    text: Annotated[str, AfterValidator(utf8)]
    filename: Annotated[str, AfterValidator(relative)] = "main.py"
    """What tracebacks call it."""


class Pickled(Value):
    """A function as bytes. They are unpickled inside the sandbox only."""

    kind: Literal[CodeKind.PICKLED] = CodeKind.PICKLED
    payload: bytes


class Named(Value):
    """A program that was baked under a name."""

    kind: Literal[CodeKind.NAMED] = CodeKind.NAMED
    name: Annotated[str, AfterValidator(_name)]


class Command(Value):
    """A program that the environment already has, and its arguments. No shell reads them."""

    kind: Literal[CodeKind.COMMAND] = CodeKind.COMMAND
    argv: tuple[Annotated[str, AfterValidator(without_nul)], ...]
    """Empty: what the image of a container starts by itself."""


Code = Annotated[Inline | Pickled | Named | Command, Field(discriminator="kind")]
"""One of the forms of code, told apart by `kind`."""


class Program(Value):
    """What runs, without what varies from run to run: it can be cached and baked."""

    code: Code
    language: str = "python"
    entry: Annotated[str, AfterValidator(_entry)] | None = None
    """The function to call with the input. None: the code is a script."""
    environment: Environment = Environment.model_construct()

    @classmethod
    def of(
        cls,
        code: "str | bytes | Code | Program",
        *,
        language: str | None = None,
        entry: str | None = None,
        packages: str | Iterable[str] = (),
        environment: Environment | None = None,
    ) -> "Program":
        """
        The program that a caller means by `code` and what he says beside it.

        Raises:
            InvalidTask: Something in it is not well formed.
        """
        program = code if isinstance(code, Program) else cls(code=_code(code))
        changes = {"language": language, "entry": entry, "environment": environment}
        if added := (packages,) if isinstance(packages, str) else tuple(packages):
            around = environment or program.environment
            changes["environment"] = around.replace(packages=(*around.packages, *added))
        changes = {name: change for name, change in changes.items() if change is not None}
        return program.replace(**changes) if changes else program


def _code(code: object) -> Inline | Pickled | Named | Command:
    match code:
        case str():
            return Inline(text=code)
        case bytes():
            try:
                return Inline(text=code.decode())
            except UnicodeDecodeError as exc:
                raise InvalidTask(f"the code is not UTF-8: {exc}") from None
        case Inline() | Pickled() | Named() | Command():
            return code
        case PathLike():
            raise InvalidTask("wanted code as text, found a path; give path.read_text()")
    raise InvalidTask(f"wanted code as text, found {type(code).__name__}")
