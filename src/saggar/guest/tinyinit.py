"""
Pid 1 of a sandbox, as machine code: see tinyinit.S for what it says.

User code must not be pid 1 (signals without a handler would be ignored, orphans never reaped), and
a second Python process for the post would cost as much as the first. A few instructions run in the
fork server's own memory instead.
"""

import os

from saggar.boundary import syscalls

CODE = {
    "x86_64": bytes.fromhex(
        "b8b401000031ffbeffffffff31d20f05b89d000000bf0f000000488d35570000000f05b80d000000"
        "bf11000000488d352400000031d241ba080000000f05b80f01000031ff31f631d24531d241b80800"
        "00000f05ebe866900100000000000000000000000000000000000000000000000000000000000000"
        "7361676761722d696e697400"
    ),
    "aarch64": bytes.fromhex(
        "883680d2000080d201008012020080d2010000d4e81480d2e00180d221030010010000d4c81080d2"
        "200280d2a1010010020080d2030180d2010000d4280980d2000080d2010080d2020080d2030080d2"
        "040180d2010000d4f9ffff171f2003d5010000000000000000000000000000000000000000000000"
        "00000000000000007361676761722d696e697400"
    ),
}
SIGCHLD = 17


class TinyInit:
    """The code in executable memory, ready to be started any number of times."""

    def __init__(self) -> None:
        self._address = syscalls.executable_memory(CODE[os.uname().machine], room=syscalls.PAGE)
        # The call pushes one word, always the same one: every init can share the page.
        self._stack = self._address + 2 * syscalls.PAGE

    def start(self) -> int:
        """A process that runs the code; pid 1 if our children's pid namespace is a new one."""
        return syscalls.clone_into(self._address, self._stack, syscalls.CLONE_VM | SIGCHLD)
