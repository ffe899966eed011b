"""Commands: a program the environment already has, executed as it is."""

from saggar.errors import InvalidTask
from saggar.languages.base import USUAL
from saggar.model.limits import Limits
from saggar.model.plan import Plan
from saggar.model.program import Command
from saggar.model.task import Task


class CommandLanguage:
    """An argument vector; no shell reads it."""

    name = "command"

    def plan(self, task: Task, limits: Limits = USUAL) -> Plan:  # noqa: ARG002 - nobody to tell
        """The vector, with the task's own arguments behind it."""
        code = task.program.code
        if not isinstance(code, Command):
            raise InvalidTask(f"command cannot run {code.kind} code; wanted an argument vector")
        if task.want_value or task.program.entry:
            raise InvalidTask("a command has an exit code and output, but no value")
        # With nothing to execute the arguments are for what starts by itself, and stay in the task.
        return Plan(argv=(*code.argv, *task.args) if code.argv else ())
