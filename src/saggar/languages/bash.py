"""Bash: a script in a file, so that its stdin is its own."""

from saggar.errors import InvalidTask
from saggar.languages.base import USUAL, source
from saggar.model.limits import Limits
from saggar.model.plan import Plan, Runtime
from saggar.model.task import Task


class Bash:
    """A script; bash has functions, but none with a typed input and output."""

    name = "bash"

    def plan(self, task: Task, limits: Limits = USUAL) -> Plan:  # noqa: ARG002 - nobody to tell
        """The script and its arguments, as `bash main.sh ARGUMENT...` runs them."""
        if task.program.entry is not None:
            raise InvalidTask("bash has no typed functions; leave entry out, and print the answer")
        script = source(self.name, task, ".sh")
        return Plan(
            files=(script,),
            argv=("bash", script.path, *task.args),
            runtime=Runtime(name="bash"),
            guest={"filename": script.path},
        )
