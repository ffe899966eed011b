"""
What stands on the host while an attack runs, and what is found there afterwards.

Everything is planted by the caller's own user: files, a process that holds a secret, sockets that
hear. So an attack that gets past the walls meets something, and is seen from outside.
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import anyio

from saggar.testing.attacks.attack import Seen

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
PATIENCE = 2.0
"""Seconds within which everything of a run must be gone after its end."""

# It tells of each signal that reaches it, and lives until its input ends.
BYSTANDER = """
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, lambda number, frame: os.write(1, b"signal %d\\n" % number))
print("ready", flush=True)
sys.stdin.read()
"""


class Scene:
    """One attack's surroundings. Use it as a context manager, around the run."""

    def __init__(self) -> None:
        self.token = f"sgr-{secrets.token_hex(5)}"
        """The name that the attack's processes bear; the kernel keeps 15 characters."""
        self.secret = f"saggar-secret-{secrets.token_hex(16)}"
        self._owned = ExitStack()
        self._listeners: dict[str, socket.socket] = {}

    def __enter__(self) -> Self:
        with ExitStack() as building:
            self._owned = building
            self._plant_files()
            self._plant_mounts()
            self._place_bystander()
            self._listen()
            self._clock = time.time() - time.monotonic()
            self._before = self._host()
            self._open = len(os.listdir("/proc/self/fd"))
            _forget_peak()
            self._small = _memory("VmRSS")
            self._owned = building.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    def described(self) -> dict[str, Any]:
        """What the attack is told. Never the secret itself."""
        return {
            "token": self.token,
            "secrets": self._secrets,
            "folder": str(self._folder),
            "bystander": self._bystander.pid,
            "host": os.getpid(),
            "uid": os.getuid(),
            "address": _own_address(),
            "tcp": self._listeners["tcp"].getsockname()[1],
            "udp": self._listeners["udp"].getsockname()[1],
            "abstract": self.token,
            "socket": str(self._folder / "stream"),
            "datagrams": str(self._folder / "datagram"),
            "key": self._key,
            "shared": self.shared,
            "fixed": self.fixed,
        }

    def _plant_files(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="saggar-scene-"))
        self._owned.callback(_remove, self._folder)
        self._folder.chmod(0o777)
        hidden = Path.home() / f".{self.token}"
        self._secrets = [str(self._folder / "secret"), str(hidden)]
        self._owned.callback(hidden.unlink, missing_ok=True)
        for path in self._secrets:
            Path(path).write_text(self.secret)
        hidden.chmod(0o600)
        self._key = secrets.randbits(30)

    def _plant_mounts(self) -> None:
        """Folders of the host for guests to find, and in one of them a fifo that hears."""
        self.shared, self.fixed = (str(self._folder / name) for name in ("shared", "fixed"))
        for folder in (self.shared, self.fixed):
            os.mkdir(folder)
            os.chmod(folder, 0o777)
        Path(self.fixed, "file").write_text("as it was")
        os.mkfifo(f"{self.fixed}/fifo")
        for name in ("file", "fifo"):
            os.chmod(f"{self.fixed}/{name}", 0o666)
        self._fifo = os.open(f"{self.fixed}/fifo", os.O_RDONLY | os.O_NONBLOCK)
        self._owned.callback(os.close, self._fifo)

    def _place_bystander(self) -> None:
        self._bystander = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BYSTANDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"SAGGAR_ESCAPE_SECRET": self.secret},
        )
        self._owned.callback(self._dismiss_bystander)
        if self._bystander.stdout is None or self._bystander.stdout.readline() != b"ready\n":
            raise RuntimeError("the bystander did not start")
        self._owned.enter_context(_environment("SAGGAR_ESCAPE_SECRET", self.secret))

    def _dismiss_bystander(self) -> None:
        try:
            self._bystander.communicate(timeout=5)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._bystander.kill()
            self._bystander.communicate()

    def _listen(self) -> None:
        inet, unix = socket.AF_INET, socket.AF_UNIX
        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        for name, family, kind, address in (
            ("tcp", inet, stream, ("", 0)),
            ("udp", inet, datagram, ("", 0)),
            ("abstract", unix, stream, f"\0{self.token}"),
            ("stream", unix, stream, str(self._folder / "stream")),
            ("datagram", unix, datagram, str(self._folder / "datagram")),
        ):
            listener = self._owned.enter_context(socket.socket(family, kind))
            listener.bind(address)
            listener.setblocking(False)
            if kind is stream:
                listener.listen(64)
            if isinstance(address, str) and address[0] == "/":
                Path(address).chmod(0o777)
            self._listeners[name] = listener

    def visits(self) -> tuple[str, ...]:
        """Which of the host's sockets heard something."""
        heard = [name for name, listener in self._listeners.items() if _heard(listener)]
        if os.read(self._fifo, 1):
            heard.append("fifo")
        return tuple(heard)

    def harm(self) -> tuple[str, ...]:
        """What was done to the process that stood by."""
        status = self._bystander.poll()
        if status is not None:
            return (f"ended with {status}",)
        shown = _status(self._bystander.pid)
        found = [f"traced by {shown['TracerPid']}"] if shown.get("TracerPid") != "0" else []
        if shown.get("State", "").startswith("T"):
            found.append("stopped")
            self._bystander.send_signal(signal.SIGCONT)
        assert self._bystander.stdout is not None
        os.set_blocking(self._bystander.stdout.fileno(), False)
        with suppress(BlockingIOError):
            found.append(os.read(self._bystander.stdout.fileno(), 200).decode().strip())
        return tuple(found)

    def marks(self) -> tuple[str, ...]:
        """Files of the attack's that appeared on the host."""
        mine = {"secret", "stream", "datagram", "shared", "fixed"}
        found = [path for path in self._folder.iterdir() if path.name not in mine]
        for place in {"/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/work", os.getcwd(), "/"}:
            with suppress(OSError):
                found += [path for path in Path(place).iterdir() if self.token in path.name]
        return tuple(str(path) for path in found if str(path) not in self._secrets)

    def changes(self) -> tuple[str, ...]:
        """What is different about the host since the beginning."""
        now = self._host()
        names = {name for name in now if now[name] != self._before[name]}
        return tuple(f"{name}: {self._before[name]} -> {now[name]}" for name in sorted(names))

    def _host(self) -> dict[str, object]:
        """What attacks like to change, where they must not reach."""
        looked = {path: _text(path) for path in ("/proc/swaps", "/proc/sys/kernel/core_pattern")}
        uname = os.uname()
        return looked | {
            "hostname": uname.nodename,
            "clock set": abs(time.time() - time.monotonic() - self._clock) > 1,
            "scheduling": os.getpriority(os.PRIO_PROCESS, self._bystander.pid),
            "processors": sorted(os.sched_getaffinity(self._bystander.pid)),
            "oom_score_adj": _text(f"/proc/{self._bystander.pid}/oom_score_adj"),
            "open files": _text(f"/proc/{self._bystander.pid}/limits"),
            "ipc": [name for name in ("shm", "sem", "msg") if self._has_key(name)],
            "planted files": [path for path in self._secrets if _text(path) != self.secret],
            "keyring": self.token in _text("/proc/keys"),
            "what is mounted read-only": _described(self.fixed),
        }

    def _has_key(self, kind: str) -> bool:
        return str(self._key) in _text(f"/proc/sysvipc/{kind}").split()

    def descriptors(self) -> int:
        """How many more descriptors this process has open than before."""
        return len(os.listdir("/proc/self/fd")) - self._open

    def growth(self) -> int:
        """Bytes by which this process's memory had grown at its peak."""
        return max(0, _memory("VmHWM") - self._small)

    async def survivors(self) -> tuple[str, ...]:
        """Processes of the attack that do not end within `PATIENCE`."""
        # On a thread: the event loop may have something to do with their end.
        return await anyio.to_thread.run_sync(self._survivors)

    def _survivors(self) -> tuple[str, ...]:
        end = time.monotonic() + PATIENCE
        left = set(self._own())
        while left and time.monotonic() < end:
            _wait_for_any(left, end)
            left = set(self._own())
        return tuple(f"{pid} ({_status(pid).get('State', 'gone')})" for pid in sorted(left))

    def seen(self) -> tuple[Seen, ...]:
        """The attack's processes, as they are now."""
        return tuple(Seen(_status(pid), _shared_namespaces(pid)) for pid in self._own())

    def _own(self) -> Iterator[int]:
        for name in os.listdir("/proc"):
            if name.isdigit() and _text(f"/proc/{name}/comm").strip() == self.token:
                yield int(name)


def _wait_for_any(left: set[int], end: float) -> None:
    """Until one of these processes is dead, or the time is over."""
    import select

    watched = select.poll()
    with ExitStack() as opened:
        for pid in left:
            with suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                opened.callback(os.close, fd)
                watched.register(fd, select.POLLIN)
        watched.poll(min(100, max(0, 1000 * (end - time.monotonic()))))


def _heard(listener: socket.socket) -> bool:
    try:
        if listener.type == socket.SOCK_DGRAM:
            listener.recv(1)
        else:
            listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _own_address() -> str:
    """The address the host would use towards others; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _environment(name: str, value: str) -> ExitStack:
    """A variable of this process's environment, for a while."""
    undo = ExitStack()
    os.environ[name] = value
    undo.callback(os.environ.pop, name, None)
    return undo


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _described(folder: str) -> list[object]:
    """All that a writer can change about a folder and about what is in it."""
    found: list[object] = []
    for path in (folder, *(os.path.join(folder, name) for name in sorted(os.listdir(folder)))):
        seen = os.lstat(path)
        said = (seen.st_mode, seen.st_uid, seen.st_nlink, seen.st_size, seen.st_mtime_ns)
        found.append((path, *said, os.listxattr(path, follow_symlinks=False)))
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _status(pid: int) -> dict[str, str]:
    lines = _text(f"/proc/{pid}/status").splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def _shared_namespaces(pid: int) -> frozenset[str]:
    """Empty as well where the process does not let itself be looked at."""
    found = set()
    for name in NAMESPACES:
        with suppress(OSError):
            theirs, ours = (os.readlink(f"/proc/{who}/ns/{name}") for who in (pid, "self"))
            if theirs == ours:
                found.add(name)
    return frozenset(found)


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    """Bytes, from this process's own status."""
    kilobytes = re.match(r"\d+", _status(os.getpid()).get(name, "0"))
    return int(kilobytes[0]) * 1024 if kilobytes else 0
