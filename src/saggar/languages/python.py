"""Python: run by the guest's own runner, in the interpreter that was forked for it."""

from typing import Any

from saggar.errors import InvalidTask
from saggar.languages.base import USUAL
from saggar.model.limits import Limits
from saggar.model.plan import Plan
from saggar.model.program import Inline
from saggar.model.task import Task


class Python:
    """A script, a script with a value, or a function called with JSON."""

    name = "python"

    def plan(self, task: Task, limits: Limits = USUAL) -> Plan:  # noqa: ARG002 - nobody to tell
        """The runner puts the script in a file, so that `__file__` and `inspect` find it."""
        code = task.program.code
        if not isinstance(code, Inline):
            raise InvalidTask(f"python cannot run {code.kind} code; wanted inline source text")
        if task.want_value and task.program.entry:
            raise InvalidTask("an entry function has a value of its own; leave want_value out")
        if any(file.path == code.filename for file in task.files):
            raise InvalidTask(f"the program is called {code.filename!r}, and so is an input file")
        guest: dict[str, Any] = {
            "code": code.text,
            "filename": code.filename,
            "entry": task.program.entry,
            "want_value": task.want_value,
        }
        return Plan(guest=guest)
