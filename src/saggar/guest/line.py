"""
The line: an interpreter's side of its channel, from which an interrupt never breaks a frame.

Where something lies in the pipes when a frame is sent, it marks the place there, so that what C
code and children print stands where it was printed, between what Python printed.
"""

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import _thread
import fcntl
import io
import json
import marshal
import os
import select

from saggar.boundary import frames

FIONREAD = 0x541B if os.uname().sysname == "Linux" else 0x4004667F
NOTHING = bytes(4)
PIECE = 1 << 17
"""Bytes of text in one frame; an interrupt comes between two of them."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


IDLE, ASKED, RUNNING, OVER = range(4)


ENCODER = json.JSONEncoder(default=repr)


def as_json(head: "dict[str, Any]") -> bytes:
    """What the host reads without believing it."""
    return ENCODER.encode(head).encode()


class Line:
    """Frames over one descriptor; a forked child of the interpreter's has no part in it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._owner = os.getpid()
        self._lock = _thread.allocate_lock()
        self._pipes = {fd: os.fstat(fd).st_ino for fd in (1, 2)}
        self._waiting, self._looking = select.poll(), select.poll()
        for one in (self._waiting, self._looking):
            one.register(fd, select.POLLIN)
        self._main = _thread.get_ident()
        self._holder = 0
        """The thread that is in the middle of a frame."""
        self._busy = self._pending = False
        self._kept = self._late = b""
        self._marks = 0
        self._marked: set[int] = set()
        self._state = IDLE

    @property
    def ours(self) -> bool:
        """Whether this process is the interpreter, and no child that it forked."""
        return os.getpid() == self._owner

    def listen(self) -> None:
        """Take interrupts from now on."""
        signals.signal(signals.SIGINT, self._interrupted)

    def _interrupted(self, *_: object) -> None:
        __tracebackhide__ = True
        if self._state == RUNNING and not self._busy:
            raise KeyboardInterrupt
        # One may overtake what it is meant for, which then lies on the channel already.
        # A poll of its own: the other one may be the one that was interrupted.
        asked = self._state == IDLE and bool(self._looking.poll(0))
        self._pending = asked or self._state in {ASKED, RUNNING}

    def begin(self) -> None:
        """From here on an interrupt has something to interrupt; one that came early does now."""
        self._state = RUNNING
        self._heed()

    def end(self) -> None:
        """From here on it has not."""
        self._state, self._pending = OVER, False

    def _heed(self) -> None:
        __tracebackhide__ = True
        # In another state it may be meant for what we are asked next.
        if self._pending and self._state == RUNNING:
            self._pending = False
            raise KeyboardInterrupt

    def request(self) -> "tuple[dict[str, Any], bytes]":
        """The next thing the host asks. EOFError when it is gone."""
        self._waiting.poll()  # nothing is taken before we are known to have been asked
        self._state = ASKED
        self._marked.clear()
        _, _, size, blob = frames.HEADER.unpack(self._read(frames.HEADER.size))
        head = marshal.loads(self._read(size))
        if head["late"]:
            self._pending = False  # it was meant for what we have answered already
        return head, self._read(blob)

    def answer(self, **head: object) -> None:
        """The last frame of a request."""
        self._state, self._pending = IDLE, False
        self.send(frames.DONE, json.dumps(head, default=repr).encode())

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = os.read(self._fd, size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def keep(self, kind: int, blob: bytes = b"", **head: object) -> None:
        """A frame that goes with the next one, which will come soon."""
        self._kept += frames.pack(kind, as_json(head), blob)

    def tell(self, kind: int, blob: bytes = b"", **head: object) -> None:
        """One frame whose head is JSON."""
        self.send(kind, as_json(head) if head else b"{}", blob)

    def send(self, kind: int, head: bytes, blob: bytes = b"") -> None:
        """One frame, whole, whatever signal comes; before it, what lies in the pipes."""
        if not self.ours:
            return
        said, thread = frames.pack(kind, head, blob), _thread.get_ident()
        if self._holder == thread:
            # A finalizer or a signal handler that prints, in the middle of a frame of this thread.
            self._late += said
            return
        if thread != self._main:
            self._send(said, thread)
            return
        self._busy = True
        try:
            self._send(said, thread)
        finally:
            self._busy = False
            self._heed()

    def _send(self, said: bytes, thread: int) -> None:
        with self._lock:
            self._holder = thread
            try:
                before, self._kept = self._kept, b""
                if any(marks := [self._mark(fd) for fd in (1, 2)]):
                    before = frames.pack(frames.WRITTEN, json.dumps(marks).encode()) + before
                self._write(before + said)
                while self._late:
                    said, self._late = self._late, b""
                    self._write(said)
            finally:
                self._holder = 0

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]

    def _mark(self, fd: int) -> int:
        """
        Mark the place in a pipe, if something lies there that the host has not read yet.

        And from then on with each frame of this request: to find a mark the host reads further, and
        what it has read is to be seen no more.
        """
        try:
            if os.fstat(fd).st_ino != self._pipes[fd]:
                return 0  # the program has put something else there
            if fd not in self._marked and not any(fcntl.ioctl(fd, FIONREAD, NOTHING)):
                return 0
            self._marked.add(fd)
            self._marks += 1
            os.write(fd, frames.mark(self._marks))
        except OSError:
            return 0  # or closed it
        return self._marks


class Raw(io.RawIOBase):
    """What Python writes to stdout or stderr: frames, in the order in which it was written."""

    def __init__(self, line: Line, fd: int) -> None:
        self._line, self._fd = line, fd
        self._head = b'{"stream": "%s"}' % (b"stdout", b"stderr")[fd - 1]

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """For children that get it as theirs."""
        return self._fd

    def write(self, data: "Any") -> int:
        """All of it, in pieces: the host takes no frame of any length; a forked child writes."""
        whole = memoryview(data).cast("B")
        if not self._line.ours:
            return os.write(self._fd, whole)
        for start in range(0, len(whole), PIECE):
            self._line.send(frames.TEXT, self._head, bytes(whole[start : start + PIECE]))
        return len(whole)


def stream(line: Line, fd: int) -> "io.TextIOWrapper[Any]":
    """A `sys.stdout` or `sys.stderr` that speaks over the line."""
    raw: Any = Raw(line, fd)
    raw.name = "<stdout>" if fd == 1 else "<stderr>"
    made = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)
    made.mode = "w"  # type: ignore[misc]
    return made
