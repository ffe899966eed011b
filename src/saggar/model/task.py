"""A program and everything that varies from run to run."""

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from saggar.errors import InvalidTask
from saggar.model.codec import Payload, encode_input
from saggar.model.environment import Environment
from saggar.model.paths import printable, relative, utf8, without_nul
from saggar.model.program import Code, Command, Inline, Named, Pickled, Program
from saggar.model.quantity import MiB, format_bytes
from saggar.model.secrets import Secrets, check_name
from saggar.model.value import Value

LARGEST_TASK: Final = 64 * MiB
"""
What the code and the files of one task may weigh together.

A task is held in memory, hashed and sent through a channel as one piece; what is larger
belongs in a mount.
"""

_WANTED_FILES: Final = "wanted contents by name such as {'data.csv': b'1,2'}"


def _variable(name: str) -> str:
    if "=" in name:
        raise ValueError(f"the name of a variable cannot hold '=': {name!r:.60}")
    return printable(name, "the name of a variable")


def _secret(name: str) -> str:
    try:
        check_name(name)
    except InvalidTask as exc:
        raise ValueError(str(exc).removeprefix("secrets: ")) from None
    return name


def _content(content: object, info: ValidationInfo) -> object:
    # Pydantic reads text in a field of bytes as base64: right in JSON, a trap in Python.
    if isinstance(content, str) and info.mode == "python":
        return utf8(content).encode()
    return content


Content = Annotated[bytes, BeforeValidator(_content)]
Argument = Annotated[str, AfterValidator(without_nul)]
Variable = Annotated[str, AfterValidator(_variable)]


class File(Value):
    """A file by its path inside the work folder. Text given as content becomes UTF-8."""

    path: Annotated[str, AfterValidator(relative)]
    content: Content
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644


class Task(Value):
    """What is to run, with what input; what it may touch is the policy's to say."""

    program: Program
    input: Payload = Payload.model_construct()
    args: tuple[Argument, ...] = ()
    env: Mapping[Variable, Argument] = {}
    secrets: tuple[Annotated[str, AfterValidator(_secret)], ...] = ()
    """Names of secrets; their values never travel with a task."""
    files: tuple[File, ...] = ()
    """What is placed in the work folder before the run."""
    collect: tuple[Annotated[str, AfterValidator(relative)], ...] = ()
    """Which files of the work folder come back, as glob patterns."""
    stdin: Content = b""
    want_value: bool = False
    """Whether the value of the last expression is wanted."""

    @classmethod
    def of(  # noqa: PLR0913  (one for each thing that can be said of a task)
        cls,
        code: "str | bytes | Code | Program | Task",
        *,
        language: str | None = None,
        entry: str | None = None,
        input: object = None,
        args: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
        files: Mapping[str, bytes | str] | Iterable[File] = (),
        collect: str | Iterable[str] = (),
        stdin: bytes | str = b"",
        packages: str | Iterable[str] = (),
        environment: Environment | None = None,
        want_value: bool = False,
    ) -> "Task":
        """
        The task that a caller means by `code` and whatever he says beside it.

        `code` may be a whole program or task; what is said beside it goes first.

        Raises:
            InvalidTask: Something in it is not well formed.
        """
        program = Program.of(
            code.program if isinstance(code, Task) else code,
            language=language,
            entry=entry,
            packages=packages,
            environment=environment,
        )
        said = {
            "program": program,
            "input": None if input is None else encode_input(input),
            "args": _texts("args", args),
            "env": env,
            "secrets": _named(secrets),
            "files": _files(files),
            "collect": _texts("collect", collect),
            "stdin": stdin,
            "want_value": want_value,
        }
        said = {name: value for name, value in said.items() if value}
        return code.replace(**said) if isinstance(code, Task) else cls(**said)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        weight = _weight(self.program.code) + sum(len(file.content) for file in self.files)
        if weight > LARGEST_TASK:
            raise ValueError(
                f"code and files weigh {format_bytes(weight)}, more than the"
                f" {format_bytes(LARGEST_TASK)} that a task may carry; mount what is larger"
            )
        if self.files:
            _refuse_clashes([file.path for file in self.files])
        return self


def _weight(code: Code) -> int:
    match code:
        case Inline(text=text):
            # At least one byte a character; the exact number matters near the cap only.
            return len(text) if len(text) * 4 <= LARGEST_TASK else len(text.encode())
        case Pickled(payload=payload):
            return len(payload)
        case Named() | Command():
            return 0


def _refuse_clashes(paths: list[str]) -> None:
    """Two files of one path, or a file where another one needs a folder."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise ValueError(f"two files have the path {path!r}")
        seen.add(path)
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in seen:
                raise ValueError(f"{folder!r} cannot be a file and the folder of {path!r}")


def _files(files: Mapping[str, Any] | Iterable[File]) -> tuple[File, ...]:
    if isinstance(files, Mapping):
        return tuple(File(path=path, content=content) for path, content in files.items())
    # A lone name would be taken letter by letter, and nothing on the host is read by its name.
    if isinstance(files, str | bytes | PathLike):
        raise InvalidTask(f"task.files: {_WANTED_FILES}, found {files!r:.60}")
    found = tuple(files)
    for each in found:
        if isinstance(each, str | PathLike):
            raise InvalidTask(f"task.files: {_WANTED_FILES}, found {each!r:.60} among them")
    return found


def _named(secrets: Any) -> tuple[str, ...]:
    if isinstance(secrets, Mapping | Secrets):
        raise InvalidTask(
            "task.secrets: a task has names only, and so has a job; the operator of its workers"
            " keeps the values as SAGGAR_SECRET_<NAME>, or a run is given them:"
            " run(..., secrets={...})"
        )
    return _texts("secrets", secrets)


def _texts(field: str, texts: str | Iterable[str]) -> tuple[str, ...]:
    """A lone string is one text, not as many as it has characters."""
    if isinstance(texts, str):
        return (texts,)
    try:
        return tuple(texts)
    except TypeError:
        raise InvalidTask(f"task.{field}: wanted texts, found {texts!r:.60}") from None
