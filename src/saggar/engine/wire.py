"""
The wire: one descriptor to wait on, and behind it all that a running tree can say.

A selector holds the channel, the pipes and the tree's end, so that a run costs its event loop a
single registration however many of them speak.
"""

import array
import os
import selectors
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

from saggar.boundary.frames import TASK, Decoder, Frame, FrameError, pack
from saggar.drivers.base import Process

CHUNK = 1 << 18
MOST_RIGHTS = 4
"""Descriptors that a guest may have sent before the frames they belong to were read."""
FRAMES = 1 << 14
"""Bytes of the channel taken at once: a thousand small frames take milliseconds to look at."""
Stream = Literal["stdout", "stderr"]


class Wire:
    """
    What comes from one tree, and the task and the stdin that go to it.

    Nothing that is read here is believed: a broken or closed channel only means that from then on
    the tree is judged by what it does.
    """

    def __init__(self, process: Process, max_blob: int, *, rights: bool = False) -> None:
        self._process = process
        self._takes_rights = rights
        self._rights: deque[int] = deque()
        self._giving: Sequence[int] = ()
        self._decoder = Decoder(max_blob)
        self._unsent = memoryview(b"")
        self._stdin = memoryview(b"")
        self._wanted = selectors.EVENT_READ
        self._connected = True
        self.garbled = False
        """What came over the channel was no frame: nothing that follows can be one."""
        self.exited = False
        """The first process is dead; what it wrote may still lie in the pipes."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(process.channel, selectors.EVENT_READ, self._from_channel)
        self._selector.register(process.stdout, selectors.EVENT_READ, self._from_stdout)
        self._selector.register(process.stderr, selectors.EVENT_READ, self._from_stderr)
        self._selector.register(process.exited, selectors.EVENT_READ, self._on_exit)

    def fileno(self) -> int:
        """Readable when `read` has something to give."""
        return int(self._selector.fileno())

    def send(self, head: bytes, stdin: bytes, rights: Sequence[int] = ()) -> None:
        """
        The one task, as much of it as the socket takes now; the rest follows in `read`.

        `rights` are descriptors that go along; they are the caller's to close, in the end.
        """
        self._giving = rights
        # The input first: a program that looks without waiting finds all that fits into a pipe.
        self._stdin = memoryview(stdin)
        self._selector.register(self._process.stdin, selectors.EVENT_WRITE, self._to_stdin)
        self._to_stdin()
        self._unsent = memoryview(pack(TASK, head))
        self._write_channel()

    def read(self) -> Iterator[Frame | tuple[Stream, bytes]]:
        """Everything that is there now."""
        for key, mask in self._selector.select(0):
            if mask & selectors.EVENT_WRITE and key.fileobj is self._process.channel:
                self._write_channel()
            if mask & selectors.EVENT_READ or key.fileobj is not self._process.channel:
                yield from key.data()

    def drain(self) -> Iterator[Frame | tuple[Stream, bytes]]:
        """What is left now; what the dead have said and written cannot grow any more."""
        while self.exited and (said := self._receive()):
            yield from self._frames(said)
        for stream, descriptor in (
            ("stdout", self._process.stdout),
            ("stderr", self._process.stderr),
        ):
            while data := _read(descriptor):
                yield stream, data  # type: ignore[misc]

    def right(self) -> int | None:
        """The next descriptor that the guest has sent, to be closed by who takes it."""
        return self._rights.popleft() if self._rights else None

    def close(self) -> None:
        """Stop listening. The descriptors are the process's own to close."""
        self._selector.close()
        while self._rights:
            os.close(self._rights.popleft())

    def _from_stdout(self) -> Iterator[tuple[Stream, bytes]]:
        return self._from_pipe("stdout", self._process.stdout)

    def _from_stderr(self) -> Iterator[tuple[Stream, bytes]]:
        return self._from_pipe("stderr", self._process.stderr)

    def _from_pipe(self, stream: Stream, descriptor: int) -> Iterator[tuple[Stream, bytes]]:
        data = _read(descriptor)
        if data:
            yield stream, data
        elif data is not None:
            self._selector.unregister(descriptor)

    def _from_channel(self) -> Iterator[Frame]:
        return self._frames(self._receive())

    def _receive(self) -> bytes:
        """Some of what the channel has now. When it has come to its end it is not asked again."""
        if not self._connected:
            return b""
        try:
            data = self._with_rights() if self._takes_rights else self._process.channel.recv(FRAMES)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._hang_up()
        return data

    def _with_rights(self) -> bytes:
        """Some of the channel, and what descriptors came with it; more than a few are dropped."""
        data, carried, _, _ = self._process.channel.recvmsg(
            FRAMES, socket.CMSG_SPACE(MOST_RIGHTS * 4), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, packed in carried:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._rights.extend(array.array("i", packed[: len(packed) // 4 * 4]))
        while len(self._rights) > MOST_RIGHTS:
            os.close(self._rights.pop())
        return data

    def _frames(self, data: bytes) -> Iterator[Frame]:
        try:
            yield from self._decoder.feed(data)
        except FrameError:
            self.garbled = True
            self._hang_up()

    def _hang_up(self) -> None:
        self._connected = False
        self._unsent = memoryview(b"")
        self._selector.unregister(self._process.channel)

    def _on_exit(self) -> Iterator[Frame]:
        self.exited = True
        self._selector.unregister(self._process.exited)
        return iter(())

    def _write_channel(self) -> None:
        try:
            if self._giving:
                sent = socket.send_fds(self._process.channel, [self._unsent], list(self._giving))
                self._giving = ()
            else:
                sent = self._process.channel.send(self._unsent)
            self._unsent = self._unsent[sent:]
        except BlockingIOError:
            pass
        except OSError:
            # It closed its end; its exit, or its silence, will be judged.
            self._unsent = memoryview(b"")
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if wanted != self._wanted and self._connected:
            self._selector.modify(self._process.channel, wanted, self._from_channel)
            self._wanted = wanted

    def _to_stdin(self) -> Iterator[Frame]:
        try:
            sent = os.write(self._process.stdin, self._stdin[:CHUNK])
            self._stdin = self._stdin[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._stdin = memoryview(b"")  # nobody reads it any more
        if not self._stdin:
            self._selector.unregister(self._process.stdin)
            self._close_stdin()
        return iter(())

    def _close_stdin(self) -> None:
        self._process.close_stdin()


def _read(descriptor: int) -> bytes | None:
    """What a pipe has; nothing at its end; None when it has nothing now."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return None
