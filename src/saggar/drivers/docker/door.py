"""
The door: a socket that one container finds mounted, through which its pid 1 comes in once.

Only the container can reach it, as its folder is in one that nobody but us can enter. When pid 1
is in, the socket is closed and the folder removed; what the container still sees is empty.
"""

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio

from saggar.drivers.docker.spec import SOCKET


class Door:
    """A socket that waits for one pid 1."""

    def __init__(self, folder: str, listener: socket.socket) -> None:
        self.folder = folder
        self._listener = listener

    async def admit(self, greeting: bytes, descriptors: Sequence[int]) -> socket.socket:
        """The socket to the one who came in, who has been given all this."""
        await anyio.wait_readable(self._listener)
        control, _ = self._listener.accept()
        try:
            socket.send_fds(control, [greeting], list(descriptors))
            control.setblocking(False)
        except BaseException:
            control.close()
            raise
        return control


@contextmanager
def door(below: Path, name: str) -> Iterator[Door]:
    """A door in a folder of its own, for the length of a block."""
    below.mkdir(mode=0o700, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f"{name}-", dir=below)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            # Through the descriptor: the path itself may be longer than such an address can be.
            listener.bind(f"/proc/self/fd/{handle}/{SOCKET}")
            # Inside it is another user who knocks; outside the folder around it is shut.
            os.chmod(f"{folder}/{SOCKET}", 0o666)  # noqa: S103
            os.chmod(folder, 0o711)  # noqa: S103
            listener.listen(1)
            listener.setblocking(False)
            yield Door(folder, listener)
    finally:
        os.close(handle)
        with suppress(OSError):  # somebody else may have swept, and the engine may have added
            os.unlink(f"{folder}/{SOCKET}")
        with suppress(OSError):
            os.rmdir(folder)
