"""
The keeper: the first process of a live sandbox. It starts others and tells how they ended.

Single-threaded, and never waits for any of them. What it starts gets descriptors that the host made
and sent along; from then on host and process talk alone. Whoever ends the keeper ends the sandbox.
"""

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import _socket
import fcntl
import marshal
import os
import resource
import select
import struct
import sys

from saggar.boundary import frames
from saggar.boundary import syscalls as sys_
from saggar.boundary.order import Order
from saggar.guest import program, runner

LINUX = sys.platform == "linux"
IGNORED = (signals.SIGHUP, signals.SIGINT, signals.SIGQUIT, signals.SIGTERM, signals.SIGPIPE)
PIECE = 1 << 16
MOST_RIGHTS = 64
HIGH = 20
"""Above all that a process is started with, and within the least number of open files there is."""
TIOCSCTTY = 0x540E if LINUX else 0x20007461
FIRST_TO_DIE = b"500"
LIMITS = {"cpu": resource.RLIMIT_CPU}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Head = dict[str, Any]


def main(order: Order) -> None:
    """Serve the host until it is gone, or we are ended."""
    for number in IGNORED:
        signals.signal(number, signals.SIG_IGN)
    if LINUX:
        sys_.prctl(sys_.PR_SET_CHILD_SUBREAPER, 1)
    try:
        Keeper(order).serve()
    except BaseException as exc:  # the edge: the host is told why, and then we are gone
        runner.tell(frames.ERROR, type=type(exc).__name__, message=str(exc), traceback="")
    finally:
        os._exit(1)


class Spare:
    """
    A process of one of our bodies, forked while nobody waited: it has rehearsed, and wants only
    what is its own. Half of what a new interpreter costs is memory touched for the first time.
    """

    def __init__(self, body: str) -> None:
        self.body = body
        self._ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._wait(theirs)
            finally:
                os._exit(127)
        theirs.close()

    def _wait(self, ours: _socket.socket) -> None:
        if LINUX:
            sys_.prctl(sys_.PR_SET_PDEATHSIG, signals.SIGKILL)
        low = ours.fileno()
        os.dup2(low, runner.CHANNEL, inheritable=False)  # in place of the keeper's own
        ours.detach()
        sys_.close_range(runner.CHANNEL + 1)
        os.setsid()
        body = program.bring(self.body)
        body.rehearse()
        data, ancillary, _, _ = _socket.socket(fileno=runner.CHANNEL).recvmsg(PIECE, 64)
        if not data:
            os._exit(0)  # it was never needed
        rights = [
            fd for _, _, packed in ancillary for fd in struct.unpack(f"{len(packed) // 4}i", packed)
        ]
        size = struct.unpack_from("I", data)[0]
        while len(data) < size + 4:
            data += os.read(runner.CHANNEL, size + 4 - len(data))
        head, env, cwd, site, rlimits = marshal.loads(data[4:])
        runner.limit(rlimits)
        settle(rights, -1)
        enter(head, env, cwd, site)
        body.main(head)

    def use(self, head: "Head", order: Order, rights: "list[int]") -> int:
        """Give it what is its own; the process that it is."""
        packed = struct.pack(f"{len(rights)}i", *rights)
        said = marshal.dumps((head, order.env, order.cwd, order.site, order.rlimits), 2)
        message = memoryview(struct.pack("I", len(said)) + said)
        carried = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
        message = message[self._ours.sendmsg([message], carried) :]
        while message:
            message = message[self._ours.send(message) :]
        self._ours.close()
        return self.pid


spare: "Spare | None" = None


def prepare() -> None:
    """In a parked child that will be a session's: fork its interpreter ahead."""
    global spare  # noqa: PLW0603 - there is one
    spare = Spare("saggar.guest.shell")


class Keeper:
    """The loop: what the host asks, and who has died; one at a time."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._channel = _socket.socket(fileno=runner.CHANNEL)
        self._said = bytearray()
        self._rights: list[int] = []
        self._started: dict[int, int] = {}
        """The host's numbers of what is alive, by its process."""

    def serve(self) -> None:
        """Until the host is gone."""
        woken, waker = os.pipe()
        for end in (woken, waker):
            os.set_blocking(end, False)
            os.set_inheritable(end, False)
        signals.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signals.signal(signals.SIGCHLD, lambda *_: None)
        watched = select.poll()
        watched.register(woken, select.POLLIN)
        watched.register(self._channel, select.POLLIN)
        while True:
            ready = {fd for fd, _ in watched.poll()}
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if self._channel.fileno() in ready:
                self._hear()

    def _hear(self) -> None:
        """Whatever has come now; the end of the channel is the end of the host."""
        try:
            data, ancillary, _, _ = self._channel.recvmsg(PIECE, 4 * MOST_RIGHTS)
        except OSError:
            data, ancillary = b"", []
        if not data:
            os._exit(0)
        for _, _, packed in ancillary:
            for fd in struct.unpack(f"{len(packed) // 4}i", packed):
                os.set_inheritable(fd, False)
                self._rights.append(fd)
        self._said += data
        while len(self._said) >= frames.HEADER.size:
            _, _, head, _ = frames.HEADER.unpack_from(self._said)
            end = frames.HEADER.size + head
            if len(self._said) < end:
                return
            asked = marshal.loads(bytes(self._said[frames.HEADER.size : end]))
            del self._said[:end]
            self._obey(asked)

    def _obey(self, head: "Head") -> None:
        if head["do"] == "start":
            rights, self._rights = self._rights[: head["rights"]], self._rights[head["rights"] :]
            try:
                self._start(head, rights)
            except OSError as exc:  # no process to be had: the host is told why
                self._fail(head, exc)
            finally:
                for fd in rights:
                    os.close(fd)
        elif head["do"] == "signal":
            self._signal(head)
            runner.tell(frames.TOLD, id=head["token"], now="signalled")

    def _start(self, head: "Head", rights: "list[int]") -> None:
        """Fork, if nobody was forked ahead; tell what came of it."""
        global spare  # noqa: PLW0603 - there is one
        if spare is not None and head["body"] == spare.body:
            pid = spare.use(head, self._order, rights)
            spare = None
            self._begun(head, pid)
        else:
            self._fork(head, rights)

    def _begun(self, head: "Head", pid: int) -> None:
        self._started[pid] = head["id"]
        runner.tell(frames.TOLD, id=head["id"], now="started", pid=pid)

    def _fork(self, head: "Head", rights: "list[int]") -> None:
        """What cannot be executed says so through a pipe that an exec closes."""
        told, tell = os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                os.close(told)
                self._become(head, rights, tell)
            os.close(tell)
            tell = -1
            complaint = os.read(told, 4096)
        finally:
            os.close(told)
            if tell >= 0:
                os.close(tell)
        if complaint:
            os.waitpid(pid, 0)
            number, _, text = complaint.decode(errors="replace").partition(" ")
            runner.tell(frames.TOLD, id=head["id"], now="failed", errno=int(number), message=text)
            return
        self._begun(head, pid)

    def _fail(self, head: "Head", exc: OSError) -> None:
        text = exc.strerror or str(exc)
        runner.tell(frames.TOLD, id=head["id"], now="failed", errno=exc.errno or 0, message=text)

    def _become(self, head: "Head", rights: "list[int]", tell: int) -> None:
        """In the child: a session and a group of its own, nothing but its own descriptors."""
        try:
            os.setsid()
            tell = settle(rights, tell)
            enter(head, self._order.env, self._order.cwd, self._order.site)
            if head["body"] is None:
                execute(head["argv"])
            os.close(tell)
            program.bring(head["body"]).main(head)
        except OSError as exc:
            os.write(tell, f"{exc.errno or 0} {exc.strerror or exc}".encode())
        except BaseException:  # a body of ours: its last words are all that is known of it
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(127)

    def _signal(self, head: "Head") -> None:
        """To one we started, which is not reaped yet, so its number is nobody else's."""
        for pid, number in self._started.items():
            if number == head["id"]:
                try:
                    (os.killpg if head["group"] else os.kill)(pid, head["signal"])
                except OSError:
                    pass  # dead, and about to be reaped; or another user's by now

    def _reap(self) -> None:
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._started:
                self._bury(pid, status, used)

    def _bury(self, pid: int, status: int, used: resource.struct_rusage) -> None:
        """Its group goes with it; and when nobody is left, so do those that nobody knows."""
        number = self._started.pop(pid)
        try:
            os.killpg(pid, signals.SIGKILL)
        except OSError:
            pass  # nobody was left in it
        if not self._started:
            end_orphans()
        cpu = used.ru_utime + used.ru_stime
        runner.tell(frames.TOLD, id=number, now="exited", status=status, cpu=cpu)


def settle(rights: "list[int]", tell: int) -> int:
    """
    Our descriptors as 0, 1, 2 and on, all others closed.

    Returns where the pipe to the keeper is now, if there is one.
    """
    for number in (*IGNORED, signals.SIGCHLD):
        signals.signal(number, signals.SIG_DFL)
    signals.set_wakeup_fd(-1)
    # Upwards first, so that none is overwritten before it has been moved.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH) for fd in rights]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number < 3)
    if tell >= 0:
        tell = fcntl.fcntl(tell, fcntl.F_DUPFD_CLOEXEC, HIGH - 1)
        sys_.close_range(len(high), tell - 1)
        sys_.close_range(tell + 1)
    else:
        sys_.close_range(len(high))
    rather_than_keeper()
    return tell


def enter(head: "Head", env: "dict[str, str]", cwd: str, site: "tuple[str, ...]") -> None:
    """The folder, the terminal, the variables and the limits that it is to have."""
    os.chdir(head["cwd"] or cwd)
    if head["terminal"]:
        fcntl.ioctl(0, TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update({**env, **head["env"]})
    for name, value in head["limits"].items():
        runner.limit(((LIMITS[name], value, value + 1),))
    sys.argv[:] = [""]
    sys.path[:] = [*program.LIBRARY, *site]


def execute(argv: "tuple[str, ...]") -> None:
    """Become another program, which ignores nothing that Python does."""
    signals.signal(signals.SIGXFSZ, signals.SIG_DFL)
    os.execvpe(argv[0], argv, os.environ)


def rather_than_keeper() -> None:
    """When there is no memory left, the keeper must live to tell."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, FIRST_TO_DIE)
        os.close(fd)
    except OSError:
        pass  # read-only here: then the largest goes first, which is hardly ever the keeper


def end_orphans() -> None:
    """Kill what was handed to us until nobody is left: whoever dies hands us its children."""
    while left := adopted():
        killed = 0
        for pid in left:
            try:
                os.kill(pid, signals.SIGKILL)
                killed += 1
            except OSError:
                pass  # another user's, by a set-uid program: there is nothing we could do
        if not killed:
            return
        for _ in range(killed):
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


def adopted() -> "list[int]":
    """Our children; none where the kernel does not list them."""
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:
            return list(map(int, file.read().split()))
    except OSError:
        return []
