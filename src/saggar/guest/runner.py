"""
The runner: inside the finished walls, one task from the host's frame to the last one of ours.

It shares a process with code that may do anything to it, so nothing here is a safeguard: the host
judges from outside. What it owes is fidelity: to behave as `python main.py` would.
"""

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import _socket
import fcntl
import gc
import os
import resource

from saggar.boundary import frames
from saggar.boundary import syscalls as sys_
from saggar.boundary.order import Order
from saggar.guest import program

CHANNEL = 3
PIPE_BYTES = 1 << 18
STARTED_WITH = dict(os.environ)
"""What nearly every order asks for: then there is nothing to change."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What a shell exits with."""
_channel = 0
"""The inode behind the channel."""


class Ends:
    """The pipes and the channel of one child: the host's ends, and ours."""

    def __init__(self) -> None:
        self.channel = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.stdin, self.stdout, self.stderr = os.pipe(), os.pipe(), os.pipe()
        try:
            fcntl.fcntl(self.stdout[1], 1031, PIPE_BYTES)  # F_SETPIPE_SZ
        except OSError:
            pass  # this user has all the pipe pages it may have; the default size works too

    def for_host(self) -> tuple[int, int, int, int]:
        """channel, stdin, stdout, stderr, as the host uses them."""
        return self.channel[0].fileno(), self.stdin[1], self.stdout[0], self.stderr[0]

    def keep_only_own(self) -> None:
        """Descriptors 0 to 3 and no others: nothing of the server's reaches user code."""
        ours = (self.stdin[0], self.stdout[1], self.stderr[1], self.channel[1].fileno())
        # Upwards first, so that no end is overwritten before it has been moved.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in ours]
        for number, fd in enumerate(high):
            os.dup2(fd, number, inheritable=number < CHANNEL)
        self.channel[0].detach()
        self.channel[1].detach()
        sys_.close_range(CHANNEL + 1)


def main(words: list[str]) -> None:
    """The way in for a driver that starts one interpreter per task."""
    os.set_inheritable(CHANNEL, False)
    program.furnish()
    know_channel()
    send(frames.STANDING)
    serve()


def know_channel() -> None:
    """Note which one it is, before anybody can put something else in its place."""
    global _channel  # noqa: PLW0603 - there is one
    _channel = os.fstat(CHANNEL).st_ino


def serve() -> None:
    """Take one order, say so, follow it, answer, and wait for the end."""
    know_channel()
    gc.enable()
    order, rights = receive()
    if order is None:
        os._exit(0)  # discarded: the host closed the channel without an order
    send(frames.READY)  # until the host has read this it may give the order to somebody else
    arrange(order)
    if order.stays:
        program.bring("saggar.guest.keeper").main(order)
    if order.argv is not None:
        execute(order.argv)
    signals.signal(signals.SIGINT, signals.default_int_handler)
    if order.body is not None:
        finish(*program.bring(order.body).main(order, rights))
    finish(*program.run(order, tell))


def rehearse() -> None:
    """
    Do, while parked, what every run does: half of a short one is memory touched for the first time.

    Nothing of it stays but pages that are already ours when the order arrives.
    """
    if program.has("saggar.guest.shell"):  # a session's: what rehearses is its interpreter
        program.bring("saggar.guest.keeper").prepare()
        return
    body = "saggar.guest.remote" if program.has("saggar.guest.remote") else None
    order = Order(
        argv=None,
        code=program.REHEARSAL,
        filename="rehearsal.py",
        entry=None,
        input=None,
        want_value=False,
        args=(),
        env=dict(STARTED_WITH),
        cwd=os.getcwd(),
        site=(),
        files=(),
        rlimits=tuple((n, *resource.getrlimit(n)) for n in (0, 1, 3, 6, 7)),
        largest=0,
        body=body,
        stays=False,
    )
    arrange(Order.decode(order.encode()))
    if body is not None:
        program.bring(body).rehearse(order)
        return
    os.unlink("rehearsal.py")
    program.rehearse(order)


def receive() -> tuple[Order | None, list[int]]:
    """The one order, or nothing when the host has gone; and what descriptors come with it."""
    channel = _socket.socket(fileno=CHANNEL)
    try:
        header, carried, _, _ = channel.recvmsg(frames.HEADER.size, 64)
    finally:
        channel.detach()
    if not header:
        return None, []
    rights = [int(fd) for _, _, packed in carried for fd in memoryview(packed).cast("i")]
    for fd in rights:
        os.set_inheritable(fd, False)
    header += read(frames.HEADER.size - len(header))
    _, _, head, _ = frames.HEADER.unpack(header)
    return Order.decode(read(head)), rights


def read(size: int) -> bytes:
    """Exactly `size` bytes of the channel, or what there was when it ended."""
    data = bytearray()
    while len(data) < size:
        chunk = os.read(CHANNEL, size - len(data))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def send(kind: int, head: bytes = b"{}", blob: bytes = b"") -> bool:
    """One frame to the host; whether the program has left us the way to it."""
    data = memoryview(frames.pack(kind, head, blob))
    try:
        # Programs close what they have not opened, and the number may be a file of theirs by now.
        if os.fstat(CHANNEL).st_ino != _channel:
            return False
        while data:
            data = data[os.write(CHANNEL, data) :]
    except OSError:
        return False
    return True


def tell(kind: int, blob: bytes = b"", **head: object) -> None:
    """One frame whose head is JSON."""
    import json

    send(kind, json.dumps(head, default=repr).encode(), blob)


def arrange(order: Order) -> None:
    """Limits, environment, files: all that was not known when we parked."""
    if order.env != STARTED_WITH:
        os.environ.clear()
        os.environ.update(order.env)
    try:
        os.chdir(order.cwd)
    except OSError as exc:
        fail(exc, f"cannot work in {order.cwd}")
    path = ""
    os.umask(0o022)
    try:
        for path, content, mode in order.files:
            place(path, content, mode)
        if order.argv is None and order.body is None and not order.stays:
            path = order.filename
            place(path, order.code.encode("utf-8", "surrogatepass"), 0o644)
    except OSError as exc:
        fail(exc, f"cannot place {path}")
    limit(order.rlimits)


def limit(rlimits: tuple[tuple[int, int, int], ...]) -> None:
    """Set resource limits; where we were given less than that, less it is."""
    for number, soft, hard in rlimits:
        try:
            resource.setrlimit(number, (soft, hard))
        except ValueError:
            most = resource.getrlimit(number)[1]
            resource.setrlimit(number, (min(soft, most), most))


def place(path: str, content: bytes, mode: int) -> None:
    """Write one input file below the work folder; nobody else is here yet."""
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, 0o755, exist_ok=True)
    os.umask(0)  # made with its mode: without namespaces the filter refuses chmod
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    os.umask(0o022)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)


def fail(exc: OSError, what: str) -> None:
    """An end before any user code ran."""
    tell(frames.ERROR, type=type(exc).__name__, message=f"{what}: {exc}", traceback="")
    finish(1, program.refused(exc))


def finish(code: int, refused: str = "") -> None:
    """The last frame. Then wait to be killed, so that the host can read what we used first."""
    if not send(frames.DONE, b'{"exit": %d, "refused": "%s"}' % (code, refused.encode())):
        os._exit(code)
    while True:
        signals.pause()


def execute(argv: tuple[str, ...]) -> None:
    """Become another program; the channel closes with the exec, which is how the host knows."""
    signals.signal(signals.SIGINT, signals.SIG_DFL)
    signals.signal(signals.SIGPIPE, signals.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, os.environ)
    except OSError as exc:
        message = f"{argv[0]}: {exc.strerror}"
        tell(frames.ERROR, type=type(exc).__name__, message=message, traceback="")
        finish(NOT_FOUND if isinstance(exc, FileNotFoundError) else NOT_EXECUTABLE)
