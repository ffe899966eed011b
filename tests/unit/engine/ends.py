"""Both ends of a tree that is not there: what the engine holds of one, and what the one would."""

import os
import socket
from contextlib import suppress
from typing import Self


class Ends:
    """
    A process as the wire knows it, made of pipes and a socket pair; the test plays the inside.

    Use it as a context manager.
    """

    def __init__(self) -> None:
        self.channel, self.inside = socket.socketpair()
        self.channel.setblocking(False)
        self.inside.settimeout(5)
        self.reads_stdin, self.stdin = os.pipe()
        self.stdout, self.writes_stdout = os.pipe()
        self.stderr, self.writes_stderr = os.pipe()
        self.exited, self.lives = os.pipe()
        for fd in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)

    def close_stdin(self) -> None:
        """The end of the input."""
        self.close("stdin")

    def say(self, data: bytes) -> None:
        """As the inside, over the channel."""
        self.inside.sendall(data)

    def hear(self, size: int) -> bytes:
        """As the inside, exactly so many bytes of the channel."""
        return self.inside.recv(size, socket.MSG_WAITALL)

    def close(self, name: str) -> None:
        """One of the numbers; it may be closed already."""
        fd, number = getattr(self, name), -1
        setattr(self, name, number)
        if fd >= 0:
            os.close(fd)

    def die(self) -> None:
        """The inside is no more; what it wrote still is."""
        self.inside.close()
        for name in ("writes_stdout", "writes_stderr", "reads_stdin", "lives"):
            self.close(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        self.channel.close()
        for name in ("stdin", "stdout", "stderr", "exited"):
            with suppress(OSError):
                self.close(name)
