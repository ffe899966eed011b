"""The socket that languages plug into."""

from typing import Protocol

from saggar.model.plan import Plan
from saggar.model.task import Task


class Language(Protocol):
    """How programs of one language are run. Pure: it plans, and does nothing."""

    name: str

    def plan(self, task: Task) -> Plan:
        """
        What has to happen for `task` to run.

        Raises:
            InvalidTask: The language cannot run this form of code, or not in this way.
        """
