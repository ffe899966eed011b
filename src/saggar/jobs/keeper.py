"""
What keeps the embedded broker alive, and ends it: a process of its own, on the standard library.

Started as `python keeper.py SERVER STATE` by whoever needs a broker first. It returns once the
server answers, and stays behind it in the background. Each owner holds a shared lock on one file;
the lock of a process ends with the process, however it ended. Whoever gets the lock for himself
alone knows that no owner is left.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time

SOCKET = "redis.sock"
OWNERS = "owners.lock"
LOG = "broker.log"
PR_SET_PDEATHSIG = 1
PATIENCE = 20.0
"""Seconds for a server to read its data and answer."""
_LIBC = ctypes.CDLL(None, use_errno=True)


def argv(server: str, state: str) -> list[str]:
    """The server's command line: on a private socket only, and losing a second's work at most."""
    options = {
        "port": "0",
        "unixsocket": os.path.join(state, SOCKET),
        "unixsocketperm": "700",
        "dir": state,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": "",
    }
    return [server, *(word for name, value in options.items() for word in (f"--{name}", value))]


def answers(path: str) -> bool:
    """Whether a server there takes commands; one that still loads its data does not."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        client.connect(path)
        client.sendall(b"PING\r\n")
        return client.recv(64).startswith(b"+PONG")
    return False


class Keeper:
    """One server, started again when it dies, until no owner is left."""

    def __init__(self, server: str, state: str) -> None:
        self.argv, self.state = argv(server, state), state
        self.ending = threading.Event()
        self.child: subprocess.Popen[bytes] | None = None
        self.turn = threading.Lock()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server; it does not outlive us."""
        with self.turn, open(os.path.join(self.state, LOG), "ab") as log:
            self.child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread of ours holds a lock then
            )
            return self.child

    def ready(self, child: "subprocess.Popen[bytes]") -> bool:
        """Wait until it answers. False: it ended instead, or takes too long."""
        end = time.monotonic() + PATIENCE
        while child.poll() is None and time.monotonic() < end:
            if answers(os.path.join(self.state, SOCKET)):
                return True
            time.sleep(0.002)
        return False

    def keep(self, child: "subprocess.Popen[bytes]") -> None:
        """Start it again each time it dies, until the end."""
        signal.signal(signal.SIGTERM, lambda *_: self.end())
        threading.Thread(target=self._await_last_owner, daemon=True).start()
        while True:
            began = time.monotonic()
            child.wait()
            if self.ending.is_set():
                return
            if time.monotonic() - began < 1:
                self.ending.wait(1)  # it dies as soon as it stands: a full disk, say
            child = self.start()

    def end(self) -> None:
        """Let the server write what it has, and end."""
        self.ending.set()
        with self.turn:
            if self.child is not None:
                self.child.terminate()

    def _await_last_owner(self) -> None:
        with open(os.path.join(self.state, OWNERS), "ab") as owners:
            fcntl.flock(owners, fcntl.LOCK_EX)
            # Kept until the server is gone: a new owner waits for that before it looks.
            self.end()
            while self.child is not None and self.child.poll() is None:
                time.sleep(0.002)
            os._exit(0)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        # Terminated, not killed: it then writes out what it has.
        _LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def main(server: str, state: str) -> int:
    """Start a server and stay behind it; the caller's process returns when it answers."""
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        return 0 if os.read(told, 1) else 1
    os.setsid()  # Ctrl-C is for our owners; we follow when they are gone
    os.chdir("/")
    keeper = Keeper(server, state)
    child = keeper.start()
    if not keeper.ready(child):
        child.kill()
        os._exit(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.write(tell, b".")
    os.close(tell)
    keeper.keep(child)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
