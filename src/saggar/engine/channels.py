"""
Where a Jupyter kernel is reached: its five sockets, which the host makes, and its start on them.

The listening ends are handed over; no path leads out of the sandbox or into it.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from saggar.engine import zmtp
from saggar.engine.keeper import Started
from saggar.engine.sandbox import Sandbox
from saggar.engine.streams import drop

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
PIECE = 1 << 18
AT_ONCE = 16
"""Pieces of one channel that are read before the others have their turn."""
BACKLOG = 16


@dataclass(frozen=True, slots=True)
class Spec:
    """A kernel that is a program: what a kernelspec says, as the inside calls it."""

    name: str
    argv: tuple[str, ...]
    """With `{connection_file}` where the path of that file is to stand."""
    env: Mapping[str, str]
    language: str
    by_message: bool = False
    """Whether it is interrupted by a message, and not by a signal."""
    folder: str = ""
    """Where the kernelspec lies, for `{resource_dir}`."""


class Listeners:
    """The five sockets of a kernel, listening in a folder that only we may enter."""

    def __init__(self) -> None:
        # Short: the name of a socket has 108 bytes. Private: who can connect can run code.
        self.folder = Path(tempfile.mkdtemp(prefix="saggar-", dir="/tmp"))
        self.sockets: list[socket.socket] = []
        try:
            self.listen()
        except BaseException:
            self.close()
            raise

    def listen(self) -> None:
        """Begin; or begin anew under the same names, which a client of Jupyter's removes."""
        for one in self.sockets:
            one.close()
        self.sockets.clear()
        for number, _ in enumerate(CHANNELS, 1):
            with suppress(FileNotFoundError):
                os.unlink(self.path(number))
            listening = socket.socket(socket.AF_UNIX)
            self.sockets.append(listening)
            listening.bind(self.path(number))
            listening.listen(BACKLOG)

    def path(self, number: int) -> str:
        """Of a channel, by what Jupyter calls its port."""
        return f"{self.prefix}-{number}"

    @property
    def prefix(self) -> str:
        """What Jupyter calls the ip."""
        return str(self.folder / "k")

    def descriptors(self) -> tuple[int, ...]:
        """To be handed over, in the order of the channels."""
        return tuple(one.fileno() for one in self.sockets)

    def connect(self, name: str) -> socket.socket:
        """Our end of a channel; whoever listens need not have begun to."""
        made = socket.socket(socket.AF_UNIX)
        try:
            made.setblocking(False)
            made.connect(self.path(CHANNELS.index(name) + 1))
        except BaseException:
            made.close()
            raise
        return made

    def close(self) -> None:
        """Close our copies, and remove the names."""
        for one in self.sockets:
            one.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Channel:
    """Our end of one: bytes to and from messages."""

    def __init__(self, ours: socket.socket, kind: str, longest: int) -> None:
        self.socket = ours
        self._decoder = zmtp.Decoder(longest)
        self._unsent = memoryview(zmtp.opening(kind))
        self._later = zmtp.packed([zmtp.SUBSCRIBE_ALL]) if kind == "SUB" else b""
        """What is to be sent when the other end is ready."""
        self.write()

    def send(self, parts: list[bytes]) -> None:
        """As much as it takes now; the rest follows in `write`."""
        self._later += zmtp.packed(parts)
        self.write()

    def write(self) -> bool:
        """Whether something is left to be sent. OSError when the other end is gone."""
        if self._decoder.ready and self._later:
            self._unsent, self._later = memoryview(bytes(self._unsent) + self._later), b""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            return True
        return False

    def read(self) -> Iterator[zmtp.Message | zmtp.TooLong]:
        """Some of what there is. EOFError at its end; NotSpoken if it is nothing."""
        for _ in range(AT_ONCE):  # whoever never stops is not to keep us from all others
            try:
                data = self.socket.recv(PIECE)
            except BlockingIOError:
                return
            except OSError as exc:
                raise EOFError from exc
            if not data:
                raise EOFError
            yield from self._decoder.feed(data)
            if self._later:
                self.write()
            if len(data) < PIECE:
                return


async def placed(  # noqa: PLR0913 - what a kernel is started with
    sandbox: Sandbox,
    listeners: Listeners,
    key: str,
    spec: Spec | None,
    *,
    network: bool,
    session: bool,
    env: Mapping[str, str] | None = None,
) -> tuple[Started, tuple[int, int]]:
    """
    Start a kernel on `listeners` in a live sandbox: ours, or behind a bridge the one of `spec`.

    Where it is a session's, what it writes to 1 and 2 is read; else it must not wait for that.

    Returns it, and what it writes to 1 and 2.
    """
    stdout, stderr = os.pipe(), os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        for fd in (stdout[0], stderr[0]):
            os.set_blocking(fd, False)
        for fd in (stdout[1], stderr[1]):
            sandbox.give(fd)
            os.set_blocking(fd, session)
        started = await sandbox.keeper.start(
            (nothing, stdout[1], stderr[1], *listeners.descriptors()),
            body="saggar.guest.kernel" if spec is None else "saggar.guest.bridge",
            env={**({} if spec is None else spec.env), **(env or {})},
            key=key,
            network=network,
            session=session,
            command=() if spec is None else spec.argv,
            resources="" if spec is None else spec.folder,
        )
    except BaseException:
        drop(stdout[0], stderr[0])
        raise
    finally:
        drop(stdout[1], stderr[1], nothing)
    return started, (stdout[0], stderr[0])
