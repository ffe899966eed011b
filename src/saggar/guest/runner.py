"""
The runner: inside the finished walls, one task from the host's frame to the last one of ours.

It shares a process with code that may do anything to it, so nothing here is a safeguard: the host
judges from outside. What it owes is fidelity: to behave as `python main.py` would.
"""

import _signal as signals
import _socket
import fcntl
import marshal
import os
import resource

from saggar.boundary import frames
from saggar.boundary import syscalls as sys_
from saggar.guest import program

CHANNEL = 3
PIPE_BYTES = 1 << 18


class Ends:
    """The pipes and the channel of one child: the host's ends, and ours."""

    def __init__(self) -> None:
        self.channel = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.stdin, self.stdout, self.stderr = os.pipe(), os.pipe(), os.pipe()
        try:
            fcntl.fcntl(self.stdout[1], 1031, PIPE_BYTES)  # F_SETPIPE_SZ
        except OSError:
            pass  # this user's pipes have used up what the kernel allows; the default size works too

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
    serve()


def serve(preload: "tuple[str, ...]" = (), site: "tuple[str, ...]" = ()) -> None:
    """Say that we stand, take one task, run it, answer, and wait for the end."""
    program.rehearse()
    program.preload(preload, site)
    send(frames.READY)
    task = receive()
    if task is None:
        os._exit(0)  # discarded: the host closed the channel without a task
    arrange(task)
    if task["argv"] is not None:
        execute(task)
    run(task)


def receive() -> "dict | None":
    """The one task, or nothing when the host has gone."""
    header = read(frames.HEADER.size)
    if not header:
        return None
    _, _, head, _ = frames.HEADER.unpack(header)
    return marshal.loads(read(head))


def read(size: int) -> bytes:
    """Exactly `size` bytes of the channel, or what there was when it ended."""
    data = bytearray()
    while len(data) < size:
        chunk = os.read(CHANNEL, size - len(data))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def send(kind: int, head: bytes = b"{}", blob: bytes = b"") -> None:
    """One frame to the host."""
    data = memoryview(frames.pack(kind, head, blob))
    while data:
        data = data[os.write(CHANNEL, data) :]


def tell(kind: int, blob: bytes = b"", **head: object) -> None:
    """One frame whose head is JSON."""
    import json

    send(kind, json.dumps(head, default=repr).encode(), blob)


def arrange(task: dict) -> None:
    """Limits, environment, files: all that is the task's own and was not known when we parked."""
    os.umask(0o022)
    os.environ.clear()
    os.environ.update(task["env"])
    os.chdir(task["cwd"])
    files = list(task["files"])
    if task["code"] is not None:
        files.append((task["filename"], task["code"].encode("utf-8", "surrogatepass"), 0o644))
    try:
        for path, content, mode in files:
            place(path, content, mode)
    except OSError as exc:
        refused = program.refused(exc)
        fail(exc, f"cannot place {path}", refused)
    for number, soft, hard in task["rlimits"]:
        most = resource.getrlimit(number)[1]
        ceiling = hard if most == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(number, (min(soft, ceiling), ceiling))


def place(path: str, content: bytes, mode: int) -> None:
    """Write one input file below the work folder; nobody else is here yet."""
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    # Made with its mode: without namespaces the filter refuses every chmod.
    os.umask(0)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    os.umask(0o022)
    with open(fd, "wb") as file:
        file.write(content)


def fail(exc: BaseException, what: str, refused: str = "") -> None:
    """An end before any user code ran."""
    tell(frames.ERROR, type=type(exc).__name__, message=f"{what}: {exc}", traceback="")
    finish(1, refused)


def finish(code: int, refused: str = "") -> None:
    """The last frame. Then wait to be killed, so that the host can read what we used first."""
    send(frames.DONE, b'{"exit": %d, "refused": "%s"}' % (code, refused.encode()))
    while True:
        signals.pause()


def execute(task: dict) -> None:
    """Become another program; the channel closes with the exec, which is how the host knows."""
    signals.signal(signals.SIGINT, signals.SIG_DFL)
    signals.signal(signals.SIGPIPE, signals.SIG_DFL)
    argv = task["argv"]
    try:
        os.execvpe(argv[0], argv, os.environ)
    except OSError as exc:
        reason = {2: 127, 13: 126}.get(exc.errno or 0, 126)
        tell(
            frames.ERROR,
            type=type(exc).__name__,
            message=f"{argv[0]}: {exc.strerror}",
            traceback="",
        )
        finish(reason)


def run(task: dict) -> None:
    """Run Python code as the main program, and say how it ended."""
    signals.signal(signals.SIGINT, signals.default_int_handler)
    finish(*program.run(task, tell))
