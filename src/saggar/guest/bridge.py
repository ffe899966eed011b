"""
A bridge: from the sockets that the host made to a kernel that knows nothing of them.

The kernel is any program that a kernelspec names. It gets a connection file with sockets of its
own, in a folder beside it; bytes are passed on both ways as they come. As it ends, so do we.
"""

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import _socket
import json
import os
import select
import sys

from saggar.guest import program

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
FIRST = 3
"""The descriptors from here on listen, one for each channel in this order."""
PIECE = 1 << 16
TRY = 5
"""Milliseconds between two tries to reach a kernel that is not up yet."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Head = dict[str, Any]


class Flow:
    """One direction of a connection: what came from one end and goes to the other."""

    __slots__ = ("_held", "_sink", "_source")

    def __init__(self, source: _socket.socket, sink: _socket.socket) -> None:
        self._source, self._sink = source, sink
        self._held = b""

    @property
    def waits_for(self) -> tuple[int, int]:
        """For what, of which descriptor."""
        if self._held:
            return self._sink.fileno(), select.POLLOUT
        return self._source.fileno(), select.POLLIN

    def step(self) -> bool:
        """Take what there is and pass it on; False when an end is gone."""
        try:
            if not self._held:
                self._held = self._source.recv(PIECE)
                if not self._held:
                    return False
            while self._held:
                self._held = self._held[self._sink.send(self._held) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


class Bridge:
    """What listens, and what is connected by now."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._listening = []
        for number in range(FIRST, FIRST + len(CHANNELS)):
            one = _socket.socket(fileno=number)
            one.setblocking(False)
            self._listening.append(one)
        self._pairs: list[tuple[_socket.socket, _socket.socket]] = []
        self._flows: dict[_socket.socket, Flow] = {}
        """By the end that they read from."""

    def serve(self, woken: int) -> None:
        """Pass on, until something is to be read from `woken`."""
        while True:
            waited: dict[int, int] = {woken: select.POLLIN}
            for flow in self._flows.values():
                fd, what = flow.waits_for
                waited[fd] = waited.get(fd, 0) | what
            if up := self._is_up():
                waited |= {one.fileno(): select.POLLIN for one in self._listening}
            poll = select.poll()
            for fd, what in waited.items():
                poll.register(fd, what)
            ready = {fd for fd, _ in poll.poll(None if up else TRY)}
            if woken in ready:
                return
            self._pass(ready)
            for number, one in enumerate(self._listening, 1):
                if one.fileno() in ready:
                    self._accept(number, one)

    def _pass(self, ready: "set[int]") -> None:
        for pair in list(self._pairs):
            flows = [self._flows[end] for end in pair]
            lives = [flow.step() for flow in flows if flow.waits_for[0] in ready]
            if not all(lives):
                self._pairs.remove(pair)
                for end in pair:
                    del self._flows[end]
                    end.close()

    def _is_up(self) -> bool:
        """Whether the kernel listens everywhere; what is not connected before that waits."""
        return bool(self._pairs) or all(map(self._address, range(1, len(CHANNELS) + 1)))

    def _address(self, number: int) -> str:
        """What a kernel makes of a port: libraries are not of one mind about the sign."""
        for sign in "-:":
            if os.path.exists(path := f"{self._prefix}{sign}{number}"):
                return path
        return ""

    def _accept(self, number: int, listening: _socket.socket) -> None:
        near = _socket.socket(fileno=listening._accept()[0])  # type: ignore[attr-defined]  # noqa: SLF001 - the C type's
        far = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            far.connect(self._address(number))
        except OSError:
            near.close()
            far.close()
            return
        for end in (near, far):
            end.setblocking(False)
        self._pairs.append((near, far))
        self._flows |= {near: Flow(near, far), far: Flow(far, near)}


def begin(head: "Head", folder: str) -> int:
    """Start the kernel, with a file that tells it where to listen; its process."""
    path = f"{folder}/connection.json"
    said: Head = {f"{name}_port": number for number, name in enumerate(CHANNELS, 1)}
    said |= {
        "transport": "ipc",
        "ip": f"{folder}/k",
        "key": head["key"],
        "signature_scheme": "hmac-sha256",
        "kernel_name": "",
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(said, file)
    names = {"{connection_file}": path, "{resource_dir}": head["resources"]}
    argv = [replaced(word, names) for word in head["command"]]
    added = [entry for entry in sys.path if entry not in program.LIBRARY]
    os.environ["PYTHONPATH"] = ":".join([*added, *filter(None, [os.environ.get("PYTHONPATH")])])
    pid = os.fork()
    if pid == 0:
        try:
            os.closerange(FIRST, FIRST + len(CHANNELS))
            for number in (signals.SIGINT, signals.SIGCHLD):
                signals.signal(number, signals.SIG_DFL)
            os.execvp(argv[0], argv)
        except OSError as exc:
            os.write(2, f"{argv[0]}: {exc.strerror}\n".encode())
        finally:
            os._exit(127)
    return pid


def replaced(word: str, names: dict[str, str]) -> str:
    """A word of its command, with the paths in it."""
    for name, path in names.items():
        word = word.replace(name, path)
    return word


def main(head: "Head") -> None:
    """In a process of our own, which the keeper has forked: stand between host and kernel."""
    folder = f"{os.environ.get('TMPDIR', '/tmp')}/.kernel-{os.getpid()}"
    os.mkdir(folder, 0o700)
    woken, waker = os.pipe()
    for end in (woken, waker):
        os.set_blocking(end, False)
    signals.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signals.signal(signals.SIGINT, signals.SIG_IGN)  # the group's: it is meant for the kernel
    signals.signal(signals.SIGPIPE, signals.SIG_IGN)
    signals.signal(signals.SIGCHLD, lambda *_: None)
    bridge = Bridge(f"{folder}/k")
    pid = begin(head, folder)
    bridge.serve(woken)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):  # we end as it did: whoever looks at us means it
        signals.signal(number := os.WTERMSIG(status), signals.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
