"""Python: run by the guest's own runner, in the interpreter that was forked for it."""

from marshal import dumps
from typing import Any, Final

from saggar.errors import InvalidTask
from saggar.languages.base import USUAL
from saggar.model.limits import Limits
from saggar.model.plan import Plan
from saggar.model.program import Inline, Pickled
from saggar.model.quantity import MiB
from saggar.model.task import Task

_CALLS: Final = "saggar.guest.remote"
_LARGEST: Final = 256 * MiB
"""Bytes of an answer that cannot go through shared memory: they are read by us piece by piece."""


class Python:
    """A script, a script with a value, or a function called with JSON."""

    name = "python"

    def plan(self, task: Task, limits: Limits = USUAL) -> Plan:
        """The runner puts the script in a file, so that `__file__` and `inspect` find it."""
        code = task.program.code
        if isinstance(code, Pickled):
            return _call(code, task, limits)
        if not isinstance(code, Inline):
            raise InvalidTask(f"python cannot run {code.kind} code; wanted inline or pickled code")
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


def _call(code: Pickled, task: Task, limits: Limits) -> Plan:
    """A function that was captured: it is unpickled inside, by a body of ours."""
    if task.program.entry is not None or task.want_value:
        raise InvalidTask("pickled code is a function already; leave entry and want_value out")
    said = dumps((task.input.media_type, code.payload, task.input.data), 2)
    return Plan(
        guest={"body": _CALLS, "input": said},
        # Not the arguments, which it has already: `input()` would read them as words of somebody's.
        stdin=task.stdin,
        preload=(_CALLS,),
        largest=min(limits.memory, _LARGEST),
    )
