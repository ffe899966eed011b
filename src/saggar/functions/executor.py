"""
`Executor[A, B]`: one call with a type, and a JSON Schema, on each side.

Where it runs is the subclass's business: in this process, behind the walls of a jail, in a
container. What may go in, what may come out and what each failure is called is the same for all.
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, cast, get_args

from typing_extensions import TypeVar

from saggar.errors import ExecutionFailed, InvalidInput, InvalidOutput
from saggar.functions.side import Side

if TYPE_CHECKING:
    from os import PathLike

    from saggar.functions.sandbox import SandboxExecutor
    from saggar.model.schema import Source

A = TypeVar("A", default=Any)
B = TypeVar("B", default=Any)


class Executor(ABC, Generic[A, B]):
    """
    Something to call with an `A`, which answers with a `B`.

    `Executor[A, B]`, with types, derives a schema for each side; a schema that is given wins.
    """

    _types: ClassVar[tuple[Any, Any]] = (Any, Any)

    def __init__(
        self, schema_in: "Source | None" = None, schema_out: "Source | None" = None
    ) -> None:
        kind_in, kind_out = self._types
        self._in: Side[A] = Side(kind_in, schema_in)
        self._out: Side[B] = Side(kind_out, schema_out)

    if not TYPE_CHECKING:

        def __class_getitem__(cls, types: Any) -> Any:
            """The same class, knowing its types: what a plain alias forgets when it is called."""
            if not isinstance(types, tuple) or len(types) != 2:
                raise TypeError(f"{cls.__name__}[A, B] takes two types, found {types!r:.80}")
            if any(isinstance(kind, TypeVar) for kind in types):
                return super().__class_getitem__(types)
            try:
                return _typed(cls, types)
            except TypeError:  # what a type is annotated with may have no hash
                return _typed.__wrapped__(cls, types)

    @abstractmethod
    def execute(self, value: A) -> B:
        """
        The answer to `value`.

        Raises:
            InvalidInput: `value` is not what the input's type or schema says.
            ExecutionTimeout: It took too long.
            ExecutionFailed: It raised, crashed, or met a limit.
            InvalidOutput: What came back is not what the output's type or schema says.
        """

    @abstractmethod
    async def aexecute(self, value: A) -> B:
        """The same for code with an event loop."""

    def __call__(self, value: A) -> B:
        """`execute`."""
        return self.execute(value)

    @classmethod
    def from_source(
        cls, path: "str | PathLike[str]", *, entry: str, **options: Any
    ) -> "SandboxExecutor[A, B]":
        """
        The function `entry` of a source file, behind walls; `options` are `SandboxExecutor`'s.

        The file's ending says its language, unless `language` does.
        """
        from saggar.functions.sandbox import SandboxExecutor

        typed = cast("type[SandboxExecutor[A, B]]", cast("Any", SandboxExecutor)[cls._types])
        return typed.of_file(path, entry=entry, **options)

    def _lower(self, value: A) -> Any:
        """The input in its JSON form, checked."""
        try:
            plain = self._in.lower(value)
        except ValueError as exc:
            raise InvalidInput(str(exc)) from exc
        if problem := self._in.problem(plain):
            raise InvalidInput(problem)
        return plain

    def _argument(self, value: A) -> A:
        """The input as the function gets it: checked, and made anew of its JSON form."""
        try:
            return self._in.lift(self._lower(value))
        except InvalidInput:
            raise
        except ValueError as exc:
            raise InvalidInput(str(exc)) from exc

    def _lift(self, plain: Any, result: Any = None) -> B:
        """The output from its JSON form, checked."""
        if problem := self._out.problem(plain):
            raise InvalidOutput(result, problem)
        try:
            return self._out.lift(plain)
        except ValueError as exc:
            raise InvalidOutput(result, str(exc)) from exc

    def _failed(self, exc: BaseException) -> NoReturn:
        raise ExecutionFailed(None, named(exc)) from exc


def named(exc: BaseException) -> str:
    """An exception in one line, whatever its own idea of text."""
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # noqa: BLE001 - it is somebody else's
        return type(exc).__name__


@lru_cache(maxsize=256)
def _typed(cls: type[Any], types: tuple[Any, Any]) -> Any:
    names = ", ".join(
        str(kind) if get_args(kind) else getattr(kind, "__name__", str(kind)) for kind in types
    )
    return type(f"{cls.__name__}[{names}]", (cls,), {"_types": types, "__module__": cls.__module__})
