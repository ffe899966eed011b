"""
The process driver: a child with resource limits and no walls, for code one trusts.

What it keeps: a folder of its own, nothing of the host's environment, a deadline, and an end that
takes the program's children along (`guest/guardian.py`). What it cannot keep is in its
capabilities, and whoever uses it says in his policy that he does without.
"""

from saggar.drivers.process.driver import ProcessDriver

__all__ = ["ProcessDriver"]
