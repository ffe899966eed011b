"""
A runner without walls: the interpreter that runs the tests, the bundle, one task, and its answer.

What a program prints goes to files in memory, so that nothing has to be read while it runs.
"""

import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from saggar.boundary import frames
from saggar.boundary.order import Order
from saggar.drivers.interpreter import OPTIONS, bootstrap, bundle, find, memory_file

LARGEST = 1 << 16
PATIENCE = 20.0
"""Seconds after which a runner that says nothing counts as hung."""
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"}


@dataclass
class Answer:
    """Everything that came of one task."""

    stdout: str
    stderr: str
    said: list[tuple[int, dict[str, Any], bytes]] = field(default_factory=list)
    """Every frame after `ready`: its kind, its head and its blob."""
    ended: int | None = None
    """How the process exited, if it did so before it was told to: a code, or minus a signal."""

    def all(self, kind: int) -> list[tuple[dict[str, Any], bytes]]:
        """Head and blob of the frames of one kind."""
        return [(head, blob) for this, head, blob in self.said if this == kind]

    @property
    def exit(self) -> int:
        """The exit code that it claims."""
        (head, _), *more = self.all(frames.DONE)
        assert [] == more
        return int(head["exit"])

    @property
    def error(self) -> dict[str, str]:
        """The last error that it told of."""
        return self.all(frames.ERROR)[-1][0]

    @property
    def value(self) -> Any:
        """The one value that it answered with."""
        ((head, blob),) = self.all(frames.VALUE)
        return json.loads(blob) if head["media_type"] == "application/json" else blob.decode()


class Runner:
    """A runner that waits for its task; use it as a context manager."""

    def __init__(self, cwd: object) -> None:
        self._cwd = str(cwd)
        ours, theirs = socket.socketpair()
        self.channel = ours
        ours.settimeout(PATIENCE)
        self.streams = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        bundled = memory_file("guest", bundle())
        # Upwards first, so that none is overwritten before it has been moved.
        given = [os.dup(fd) for fd in (*self.streams, theirs.fileno(), bundled)]
        high = [_moved(fd) for fd in given]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high)]
        argv = [find(None).executable, *OPTIONS, "-c", bootstrap(), "saggar.guest.runner", "4"]
        self.pid = os.posix_spawn(argv[0], argv, ENVIRONMENT, file_actions=actions)
        for fd in (*high, bundled):
            os.close(fd)
        theirs.close()
        self._decoder = frames.Decoder(1 << 24)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        for fd in self.streams:
            os.close(fd)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def send(
        self,
        code: str,
        *,
        stdin: bytes = b"",
        sendall: Callable[[bytes], object] | None = None,
        **changes: Any,
    ) -> None:
        """The task."""
        os.write(self.streams[0], stdin)
        os.lseek(self.streams[0], 0, os.SEEK_SET)
        plain: dict[str, Any] = {
            "argv": None,
            "code": code,
            "filename": "main.py",
            "entry": None,
            "input": None,
            "want_value": False,
            "args": (),
            "env": ENVIRONMENT,
            "cwd": self._cwd,
            "site": (),
            "files": (),
            "rlimits": (),
            "largest": LARGEST,
            "body": None,
            "stays": False,
        }
        order = Order(**plain | changes)
        (sendall or self.channel.sendall)(frames.pack(frames.TASK, order.encode()))

    def answer(self) -> Answer:
        """Until it says that it is done, or closes the channel."""
        said: list[frames.Frame] = []
        while data := self.channel.recv(1 << 16):
            said += self._decoder.feed(data)
            if said and said[-1].kind == frames.DONE:
                break
        ended = None
        if not data:
            ended = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.pid = 0
        kinds = [frame.kind for frame in said]
        first = kinds.index(frames.READY) + 1
        assert [frames.STANDING, frames.READY] == kinds[:first]
        heard = [(kind, json.loads(head), blob) for kind, head, blob in said[first:]]
        return Answer(self._read(1), self._read(2), heard, ended)

    def _read(self, stream: int) -> str:
        fd = self.streams[stream]
        return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "surrogateescape")


def run(cwd: object, code: str, **order: Any) -> Answer:
    """What comes of one task."""
    with Runner(cwd) as runner:
        runner.send(code, **order)
        return runner.answer()


def _moved(fd: int) -> int:
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(fd)
    return moved
