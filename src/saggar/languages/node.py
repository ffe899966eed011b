"""JavaScript and TypeScript, by Node.js; it takes the types off, and checks none."""

from functools import cache
from pathlib import Path
from typing import Final

from saggar.languages.base import USUAL, mebibytes, refuse_stdin, source
from saggar.model.limits import Limits
from saggar.model.plan import Plan, Runtime
from saggar.model.protocol import encode_request
from saggar.model.quantity import MiB
from saggar.model.task import File, Task

TYPED: Final = (".ts", ".mts", ".cts")
IMAGE: Final = "saggar/runner-node:latest"
PLAIN: Final = Runtime(name="node", least=(18,), purpose="JavaScript", image=IMAGE)
TYPES: Final = PLAIN.replace(least=(22, 6), purpose="TypeScript")
STRIP: Final = ("--experimental-strip-types", "--disable-warning=ExperimentalWarning")
"""What a version needs that does not do it by itself (before 23.6); the others take no notice."""

RESERVES: Final = 512 * MiB
"""Where compiled code may lie, all of it made writable at once where the processor has keys."""

ASIDE: Final = ("sh", "-c", 'exec 4>&1 1>&2; exec "$0" "$@"')
"""
Descriptor 4 for the answer, and 1 is stderr. Node has no dup2: without this whoever writes to
descriptor 1, and not through `process.stdout`, would write into the answer.
"""


class Node:
    """A script, or a module with an exported function called with JSON."""

    name = "node"

    def plan(self, task: Task, limits: Limits = USUAL) -> Plan:
        """`node main.js ARGUMENT...`, or our runner, which imports the module."""
        script = source(self.name, task, ".js")
        typed = script.path.endswith(TYPED)
        node = ("node", *_heap(limits), *(STRIP if typed else ()))
        plan = Plan(
            files=(script,),
            argv=(*node, script.path, *task.args),
            runtime=TYPES if typed else PLAIN,
            reserves=RESERVES,
            guest={"filename": script.path},
        )
        entry = task.program.entry
        return plan if entry is None else _called(plan, node, script, entry, task)


def _called(plan: Plan, node: tuple[str, ...], script: File, entry: str, task: Task) -> Plan:
    refuse_stdin("node", task)
    words = ("--input-type=module", "--eval", _runner(), "--", entry, script.path, *task.args)
    return plan.replace(
        argv=(*ASIDE, *node, *words), answers=True, stdin=encode_request(task.input)
    )


def _heap(limits: Limits) -> tuple[str, str]:
    """
    What it cannot see from inside: by the machine's memory it would collect too little garbage.

    The heap may grow to the limit, and no less: at a smaller size of its own it would abort, and
    what ended it would not be told as memory. Its young part is kept small instead, which is what
    lets a program live with half its memory in use.
    """
    memory = mebibytes(limits.memory)
    young = min(16, max(1, memory // 64))
    return f"--max-old-space-size={memory}", f"--max-semi-space-size={young}"


@cache
def _runner() -> str:
    return (Path(__file__).parent / "runner.mjs").read_text(encoding="utf-8")
