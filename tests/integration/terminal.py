"""A terminal that a test types at: a real one, whose other end a program has."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager

from tests.conftest import require

SAGGAR = (sys.executable, "-m", "saggar")
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")


class Terminal:
    """What was written to it so far, and what is typed."""

    def __init__(self, master, process):
        self._master, self.process = master, process
        self.raw = b""
        self._seen = 0

    @property
    def text(self):
        """Without what moves the cursor."""
        return CONTROLS.sub("", self.raw.decode(errors="replace"))

    def type(self, text):
        os.write(self._master, text.encode())

    def resize(self, rows, columns):
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def until(self, wanted, seconds=20):
        """Read until the text after what was found last holds `wanted`."""
        deadline = time.monotonic() + seconds
        while wanted not in self.text[self._seen :]:
            left = deadline - time.monotonic()
            assert left > 0, f"no {wanted!r} in {self.text[self._seen :]!r}"
            assert self._read(left), f"it ended without {wanted!r}: {self.text[self._seen :]!r}"
        self._seen = self.text.index(wanted, self._seen) + len(wanted)

    def end(self, seconds=20):
        """Its exit code, when it has ended and all was read."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, seconds):
        if not select.select([self._master], [], [], max(0, seconds))[0]:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:
            return False
        self.raw += data
        return bool(data)


@contextmanager
def terminal(*words, program=SAGGAR, env=None, rows=24, columns=100):
    """`saggar WORDS`, or another program, on one."""
    require("setsid")
    master, slave = os.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    # Who asks a terminal where its cursor is waits for the answer, and nobody here gives one.
    surroundings = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **(env or {})}
    argv = ["setsid", "--ctty", *program, *map(str, words)]
    with subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=surroundings
    ) as process:
        os.close(slave)
        try:
            yield Terminal(master, process)
        finally:
            process.kill()
            os.close(master)
