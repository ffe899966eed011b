"""
An instance of a remote class, inside: one object that stays, and whose methods are called in turn.

It speaks with the host as a remote function does, over a channel of its own; what it prints goes
through the pipes. Only a call can be interrupted, and nothing of ours.
"""

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import _socket
import asyncio
import fcntl
import marshal
import os
import sys

from saggar.boundary import frames
from saggar.guest import hooks, program, remote, runner

CHANNEL = 3
HIDDEN = 200
"""Where the channel is kept, or as high as it may be: programs close the low numbers."""
PIECE = 1 << 18

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    Head = dict[str, Any]


class Instance:
    """The object, and the way to it."""

    def __init__(self, fd: int, largest: int) -> None:
        self._fd = fd
        self._reply = remote.Reply(fd, largest)
        self._owner = os.getpid()
        self._runner = asyncio.Runner()
        self._object: Any = None
        self._pickles = False

    def serve(self) -> None:
        """Until the host is gone."""
        self._tell(frames.READY)
        while True:
            head, blob, rights = self._request()
            self._obey(head, blob, rights)
            flush()
            self._tell(frames.DONE)

    def _request(self) -> "tuple[Head, bytes, list[int]]":
        """The next thing the host asks; its end is ours."""
        header, rights = self._read(frames.HEADER.size)
        _, _, head, blob = frames.HEADER.unpack(header)
        said = marshal.loads(self._read(head)[0])
        return said, self._read(blob)[0], rights

    def _read(self, size: int) -> "tuple[bytes, list[int]]":
        data, rights = bytearray(), []
        channel = _socket.socket(fileno=self._fd)
        try:
            while len(data) < size:
                chunk, carried, _, _ = channel.recvmsg(min(size - len(data), PIECE), 64)
                if not chunk:
                    os._exit(0)
                data += chunk
                for _, _, packed in carried:
                    rights += [int(fd) for fd in memoryview(packed).cast("i")]
        finally:
            channel.detach()
        for fd in rights:
            os.set_inheritable(fd, False)
        return bytes(data), rights

    def _tell(self, kind: int) -> None:
        left = memoryview(frames.pack(kind, b'{"exit": 0}'))
        while left:
            left = left[os.write(self._fd, left) :]

    def _obey(self, head: "Head", blob: bytes, rights: "list[int]") -> None:
        """Do it, and say what came of it: once, and not in a process that it forked."""
        try:
            signals.signal(signals.SIGINT, signals.default_int_handler)
            try:
                found = getattr(self, "do_" + head["do"])(head, blob, rights)
            finally:
                signals.signal(signals.SIGINT, signals.SIG_IGN)
            self._leave_forked()
            self._reply.value(found, pickles=self._pickles and head["do"] != "make")
        except BaseException as exc:  # the edge: the host is told, and the object lives on
            signals.signal(signals.SIGINT, signals.SIG_IGN)
            self._leave_forked()
            self._reply.raised(exc)

    def _leave_forked(self) -> None:
        if os.getpid() != self._owner:
            flush()
            os._exit(0)

    def do_make(self, head: "Head", blob: bytes, rights: "list[int]") -> None:
        """The class arrives, and its one object is made."""
        media_type, payload, data = marshal.loads(blob)
        code = remote.Code(payload)
        code.show_sources()
        self._pickles = code.pickles
        args, named = self._arguments(media_type, data, rights)
        made = code.thing(*args, **named)
        self._hooks(made, "enter")
        self._object = made

    def do_call(self, head: "Head", blob: bytes, rights: "list[int]") -> object:
        """A method of it."""
        args, named = self._arguments(head["media_type"], blob, rights)
        found: Any = self._done(getattr(self._object, head["name"])(*args, **named))
        if hasattr(found, "__anext__"):
            items: list[object] = []
            self._each(found, items.append)
            return items
        return list(found) if hasattr(found, "__next__") else found

    def do_stream(self, head: "Head", blob: bytes, rights: "list[int]") -> None:
        """What a method of it yields, one by one."""
        args, named = self._arguments(head["media_type"], blob, rights)
        self._each(getattr(self._object, head["name"])(*args, **named), self._give)

    def _give(self, item: object) -> None:
        # An interruption within a frame would leave half of it; it comes when all is sent.
        signals.pthread_sigmask(signals.SIG_BLOCK, (signals.SIGINT,))
        try:
            self._leave_forked()
            self._reply.value(item, pickles=self._pickles, more=True)
        finally:
            signals.pthread_sigmask(signals.SIG_UNBLOCK, (signals.SIGINT,))

    def _each(self, items: "Any", take: "Callable[[Any], object]") -> None:
        """Everything that a generator of either kind yields, on the object's own loop."""
        if not hasattr(items, "__aiter__"):
            for item in items:
                take(item)
            return

        async def walk() -> None:
            async for item in items:
                take(item)
                # An interruption is a cancellation here, and one that never waits would not see it.
                await asyncio.sleep(0)

        self._runner.run(walk())

    def do_get(self, head: "Head", blob: bytes, rights: "list[int]") -> object:
        """An attribute of it."""
        return getattr(self._object, head["name"])

    def do_leave(self, head: "Head", blob: bytes, rights: "list[int]") -> None:
        """What it does at its end."""
        if self._object is not None:
            self._hooks(self._object, "exit")
            self._object = None

    def _arguments(self, media_type: str, data: bytes, rights: "list[int]") -> "Any":
        memory = remote.mapped(rights.pop()) if rights else None
        return remote.arguments(media_type, data, memory)

    def _done(self, found: "Any") -> object:
        """Awaited, if that is to be done: on one loop, for as long as the object lives."""
        if not hasattr(found, "__await__"):
            return found

        async def awaited() -> object:
            return await found

        return self._runner.run(awaited())

    def _hooks(self, made: object, when: "Literal['enter', 'exit']") -> None:
        """The methods that are marked to be called then."""
        for name in hooks.marked(type(made), when):
            hook: Callable[[], Any] = getattr(made, name)
            self._done(hook())


def flush() -> None:
    """What it has printed is the host's to see before it hears of the end."""
    program.flush()


def main(head: "Head") -> None:
    """Take the channel out of the way, and serve."""
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    try:
        fd = fcntl.fcntl(CHANNEL, fcntl.F_DUPFD_CLOEXEC, HIDDEN)
    except OSError:
        fd = fcntl.fcntl(CHANNEL, fcntl.F_DUPFD_CLOEXEC, CHANNEL + 1)
    os.close(CHANNEL)
    order = Order(head)
    program.new_main(order, runner.tell)  # type: ignore[arg-type]
    Instance(fd, head["largest"]).serve()


class Order:
    """What the main module is made of, where there is no program."""

    filename = "instance.py"
    args = ()

    def __init__(self, head: "Head") -> None:
        self.cwd = os.getcwd()
        self.site = tuple(path for path in sys.path if path not in program.LIBRARY)
