"""
What keeps the embedded broker alive, and ends it: a process of its own, on the standard library.

Started as `python keeper.py SERVER STATE` by whoever needs a broker first. It returns once the
server answers, and stays behind it in the background. Each owner holds a shared lock on one file;
the lock of a process ends with the process, however it ended. Whoever gets the lock for himself
alone knows that no owner is left.

Two servers would write one file over each other. So there is one keeper, which holds a lock as long
as it lives, and each server holds another: the next one starts when that is free.
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
KEEPER = "keeper.lock"
SERVER = "server.lock"
LOG = "broker.log"
LONGEST_LOG = 1 << 20
"""Bytes after which the log is begun anew; one before it is kept."""
TAKEN = 3
"""The exit code of a second keeper."""
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
        # One whose disk is full says that to everything, and will until there is room.
        return client.recv(64).startswith((b"+PONG", b"-MISCONF"))
    return False


def locked(path: str) -> int | None:
    """The lock of a file, for oneself alone, as its descriptor. None: somebody has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def kept(state: str) -> bool:
    """Whether a keeper lives."""
    fd = locked(os.path.join(state, KEEPER))
    if fd is not None:
        os.close(fd)
    return fd is None


class Keeper:
    """One server, started again when it dies, until no owner is left."""

    def __init__(self, server: str, state: str) -> None:
        self.argv, self.state = argv(server, state), state
        self.ending = threading.Event()
        self.child: subprocess.Popen[bytes] | None = None
        self.turn = threading.Lock()

    def start(self) -> "subprocess.Popen[bytes] | None":
        """
        Start the server, once the one before it is gone; it does not outlive us.

        None: we are to end, or the one before it stays.
        """
        mine = self._after_the_last()
        if mine is None:
            return None
        try:
            with self.turn, open(_log(self.state), "ab") as log:
                self.child = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(mine,),  # it has the lock as long as it lives
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread of ours has a lock then
                )
                return self.child
        finally:
            os.close(mine)

    def _after_the_last(self) -> int | None:
        # One whose keeper was killed writes out what it has; so may a child that it left behind.
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not self.ending.is_set():
            if (mine := locked(os.path.join(self.state, SERVER))) is not None:
                return mine
            time.sleep(0.002)
        return None

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
            started = self.start()
            if started is None:
                return
            child = started

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


def _log(state: str) -> str:
    path = os.path.join(state, LOG)
    with contextlib.suppress(FileNotFoundError):
        if os.path.getsize(path) > LONGEST_LOG:
            os.replace(path, f"{path}.1")
    return path


def main(server: str, state: str) -> int:
    """Start a server and stay behind it; the caller's process returns when it answers."""
    told, tell = os.pipe()
    if pid := os.fork():
        os.close(tell)
        return 0 if os.read(told, 1) else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.setsid()  # Ctrl-C is for our owners; we follow when they are gone
    os.chdir("/")
    if locked(os.path.join(state, KEEPER)) is None:  # held until we end
        os._exit(TAKEN)
    keeper = Keeper(server, state)
    child = keeper.start()
    if child is None or not keeper.ready(child):
        if child is not None:
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
