"""The socket that languages plug into, and what those that run a file of source have in common."""

import math
from typing import Final, Protocol

from saggar.errors import InvalidTask
from saggar.model.limits import Limits
from saggar.model.plan import Plan
from saggar.model.program import Inline
from saggar.model.quantity import MiB
from saggar.model.task import File, Task

USUAL: Final = Limits()


class Language(Protocol):
    """How programs of one language are run. Pure: it plans, and does nothing."""

    name: str

    def plan(self, task: Task, limits: Limits = USUAL) -> Plan:
        """
        What has to happen for `task` to run.

        `limits` are those it will meet: a runtime may have to be told what the walls only enforce.

        Raises:
            InvalidTask: The language cannot run this form of code, or not in this way.
        """


def source(language: str, task: Task, ending: str) -> File:
    """
    The program as a file; one that was given no name is called main with the usual ending.

    Raises:
        InvalidTask: It is no source text, or asks for what only some languages have.
    """
    code = task.program.code
    if not isinstance(code, Inline):
        raise InvalidTask(f"{language} cannot run {code.kind} code; wanted inline source text")
    if task.want_value:
        raise InvalidTask(
            f"{language} has no value of a last expression; name a function with entry,"
            " whose answer is the value"
        )
    default: str = Inline.model_fields["filename"].default
    name = f"main{ending}" if code.filename == default else code.filename
    if any(file.path == name for file in task.files):
        raise InvalidTask(f"the program is called {name!r}, and so is an input file")
    return File(path=name, content=code.text.encode())


def refuse_stdin(language: str, task: Task) -> None:
    """InvalidTask where stdin is not the program's to read."""
    if task.stdin:
        raise InvalidTask(
            f"an entry of {language} finds its request on stdin; put other input into a file"
        )


def mebibytes(size: int) -> int:
    """Whole mebibytes, at least one."""
    return max(1, size // MiB)


def cores(limits: Limits) -> int:
    """How many threads can be at work at once."""
    return max(1, math.ceil(limits.cpu_share))
