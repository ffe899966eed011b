"""
The fork server: pid 1 of the outer walls, small, single-threaded; it forks children and reaps them.

A child is parked behind finished walls (`walls`) and waits for its one task (`runner`). The server
never sees a task: the child sends its descriptors to the host itself, and from then on host and
child talk alone.
"""

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import _socket
import fcntl
import gc
import os
import resource
import select
import struct
import sys

from saggar.boundary import control as ctl
from saggar.boundary import syscalls as sys_
from saggar.boundary.wallplan import WallPlan
from saggar.guest import program, runner, survivors
from saggar.guest.confine import confine
from saggar.guest.namespaces import Home, Networks
from saggar.guest.tinyinit import TinyInit
from saggar.guest.walls import CONTROL, ENTRANCES, PROC, SYS, JailWalls

HIGH = 64
"""Above it is what only the server needs."""
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Child:
    """One live sandbox: the processes by which it is known here, and what it has on loan."""

    __slots__ = (
        "dead",
        "end",
        "folder",
        "hurried",
        "init",
        "network",
        "process",
        "released",
        "serial",
        "uid",
    )

    def __init__(self, serial: int, *, hurried: bool) -> None:
        self.serial, self.uid, self.hurried = serial, 0, hurried
        self.network: int | None = None
        self.init = self.process = 0
        self.folder = ""
        self.dead = self.released = False
        self.end: tuple[int, float, int] = (0, 0.0, 0)


class ForkServer:
    """The loop: a request to park, a child to reap, the host's end; one at a time."""

    def __init__(self, plan: WallPlan, control: int, masters: tuple[int, ...]) -> None:
        self._plan = plan
        self._jail = plan.rung == "jail"
        self._pid = os.getpid()
        self._control = _socket.socket(fileno=control)
        self._masters = masters
        self._children: dict[int, Child] = {}
        """Those alive, by their processes."""
        self._borrowers: dict[int, Child] = {}
        """Those that have something on loan, by their serials."""
        # Ids of our own user namespace, or the host's where there is none.
        first = 0 if self._jail else plan.uid
        self._uids = list(range(first + plan.uids - 1, first, -1))
        self._networks = Networks(plan.network)
        if self._jail:
            self._tinyinit = TinyInit()
            self._walls = JailWalls(plan)
            self._home = Home(plan.network)

    def open(self) -> None:
        """Begin to listen."""
        signals.pthread_sigmask(signals.SIG_BLOCK, {signals.SIGCHLD})
        self._deaths = sys_.signal_descriptor(signals.SIGCHLD)
        self._watched = select.poll()
        for fd in (self._control.fileno(), *self._masters, self._deaths):
            self._watched.register(fd, select.POLLIN)

    def serve(self) -> None:
        """Do what is asked next. Ends us when the host, or the guard it left outside, is gone."""
        ready = {fd for fd, _ in self._watched.poll()}
        if ready.intersection(self._masters):
            self._end()
        if self._deaths in ready:
            os.read(self._deaths, 4096)
            self._reap()
        if self._control.fileno() in ready:
            self._obey()

    def _obey(self) -> None:
        data = self._receive()
        record = ctl.unpack(data)
        for serial in record.text.split():
            self._release(int(serial))
        if record.kind == ctl.PARK:
            self._park(record.serial, hurried=bool(record.status))

    def _receive(self) -> bytes:
        """One record; the descriptors that came with it stand where children look for them."""
        try:
            data, ancillary, _, _ = self._control.recvmsg(ctl.MAX_RECORD, 64)
        except OSError:
            data = b""
        if not data:
            self._end()
        for _, _, packed in ancillary:
            for number, fd in enumerate(struct.unpack(f"{len(packed) // 4}i", packed)):
                place(fd, ENTRANCES + number)
        return data

    def _tell(self, record: bytes) -> None:
        try:
            self._control.send(record)
        except OSError:
            self._end()  # nobody listens any more: the host is gone, and we go with it

    def _end(self) -> None:
        """
        Go, and everybody with us.

        What we hold for the host, its lease of user ids, is free the moment we are gone: nobody
        may run under one of them by then.
        """
        if self._jail and os.getpid() == self._pid:
            os.kill(-1, 9)  # from pid 1: everybody in the namespace
            try:
                while True:
                    os.waitpid(-1, 0)
            except ChildProcessError:
                pass
        os._exit(0)

    def _park(self, serial: int, *, hurried: bool) -> None:
        child = Child(serial, hurried=hurried)
        self._borrowers[serial] = child
        try:
            child.uid = self._take_uid()
            if self._jail:
                self._fork_into_namespaces(child)
            else:
                self._make_folder(child)
                child.process = self._fork(child)
            self._children[child.process] = child
        except Exception as exc:  # the edge: the host decides what a failed fork means
            self._tell(ctl.pack(ctl.FAILED, serial, text=ctl.reason(exc)))
            if not child.init:
                self._died(child)

    def _make_folder(self, child: Child) -> None:
        """Where the child works, for want of a mount namespace: one of the host's folders."""
        child.folder = f"{self._plan.staging}/{child.serial}"
        for path in (child.folder, f"{child.folder}/work", f"{child.folder}/tmp"):
            os.mkdir(path, 0o700)
            if child.uid:
                os.chown(path, child.uid, child.uid)

    def _take_uid(self) -> int:
        """An id that no living child has; an ordinary user has one, and all children share it."""
        if self._plan.uids == 1:
            return 0
        if not self._uids:
            raise BlockingIOError("every user id of this block is in use")
        return self._uids.pop()

    def _fork_into_namespaces(self, child: Child) -> None:
        """
        New namespaces around us, pid 1 and the child forked into them, then home again.

        Always home before the next round: a pid namespace cannot be unshared twice.
        """
        try:
            child.network = self._networks.take()
            if child.network is not None:
                sys_.setns(child.network, sys_.CLONE_NEWNET)
            self._home.leave()
            child.init = self._tinyinit.start()
            self._children[child.init] = child
            child.process = self._fork(child)
        finally:
            self._home.come_back()
            if child.init and not child.process:
                os.kill(child.init, 9)

    def _fork(self, child: Child) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                self._become(child)
            except BaseException as exc:  # never unwind into the server's stack
                self._tell(ctl.pack(ctl.FAILED, child.serial, text=ctl.reason(exc)))
            finally:
                os._exit(1)
        return pid

    def _become(self, child: Child) -> None:
        """In the child: walls, the host told, and then the one task."""
        if self._jail:
            self._walls.build(child.serial, child.uid)
        else:
            self._confine(child)
        if not child.hurried:  # somebody waits already: a rehearsal would only make him wait longer
            runner.rehearse()
        runner.serve()

    def _confine(self, child: Child) -> None:
        signals.pthread_sigmask(signals.SIG_UNBLOCK, {signals.SIGCHLD})
        for number in range(self._plan.entrances):
            os.write(ENTRANCES + number, b"0")
        ends, handles = confine(self._plan, child.folder, child.uid, self._pid)
        packed = struct.pack(f"{len(handles)}i", *handles)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
        self._control.sendmsg([ctl.pack(ctl.PARKED, child.serial, text=os.getcwd())], rights)
        ends.keep_only_own()

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            survivors.removers.discard(pid)
            child = self._children.pop(pid, None)
            if child is not None:
                self._bury(child, pid, status, usage)

    def _bury(self, child: Child, pid: int, status: int, usage: resource.struct_rusage) -> None:
        """Told when the whole namespace is gone: only then is nobody left who could write."""
        if pid == child.process:
            child.end = status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
            child.process = 0
            if not self._jail:
                survivors.kill(child.uid, spared=set(self._children))
        else:
            child.init = 0
        if not child.process and not child.init:
            self._died(child)

    def _died(self, child: Child) -> None:
        if child.uid:
            self._uids.append(child.uid)
        child.dead = True
        self._settle(child)
        self._tell(ctl.pack(ctl.GONE, child.serial, *child.end))

    def _release(self, serial: int) -> None:
        """The host holds nothing of this child's any more."""
        child = self._borrowers.get(serial)
        if child is not None:
            child.released = True
            self._settle(child)

    def _settle(self, child: Child) -> None:
        """
        Take back what a child had on loan, once it is dead and the host has let go as well.

        A socket it sent to the host lives in its network as long as the host holds the channel.
        """
        if child.dead and child.released:
            del self._borrowers[child.serial]
            self._networks.give_back(child.network)
            survivors.remove(child.folder)


def preload(plan: WallPlan) -> None:
    """Import what the operator lists, once, for every child; threads do not survive a fork."""
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    sys.path[:0] = plan.site
    for name in plan.preload:
        try:
            __import__(name)
        except Exception as exc:  # whatever a module raises, it is one the task asked for
            raise RuntimeError(f"cannot preload {name}: {type(exc).__name__}: {exc}") from exc
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            raise RuntimeError(f"preloading {name} left {threads} threads behind; fork needs one")
    del sys.path[: len(plan.site)]


def settle(words: list[str]) -> tuple[int, ...]:
    """
    Move the descriptors we were given out of the way, and those that children need into place.

    Returns the supervisor, the guard, the plan and the bundle; whatever else there is, is held.
    """
    high = [fcntl.fcntl(int(word), fcntl.F_DUPFD_CLOEXEC, HIGH) for word in words]
    os.closerange(CONTROL, HIGH)
    place(high[0], CONTROL)
    for path, number in (("/proc", PROC), ("/proc/sys", SYS)):
        place(os.open(path, os.O_PATH | os.O_CLOEXEC), number)
    return tuple(high[1:5])


def place(fd: int, number: int) -> None:
    """Give a descriptor the number it is known by."""
    if fd != number:
        os.dup2(fd, number, inheritable=False)
        os.close(fd)


def main(words: list[str]) -> None:
    """Settle behind the outer walls, then serve."""
    supervisor, guard, plan_fd, bundle = settle(words)
    try:
        plan = WallPlan.decode(os.pread(plan_fd, 1 << 24, 0))
        os.close(plan_fd)
        runner.limit(plan.rlimits)
        sys_.seccomp(plan.outer_filter)
        preload(plan)
        server = ForkServer(plan, CONTROL, (supervisor, guard))
        if plan.rung == "jail":
            # Children change their ids and keep what they build with; they drop it themselves.
            sys_.prctl(sys_.PR_SET_SECUREBITS, sys_.SECBIT_NO_SETUID_FIXUP)
        sys_.prctl(sys_.PR_SET_DUMPABLE, 0)  # after it has opened its own namespaces
        os.close(bundle)
        program.furnish()
    except BaseException as exc:  # the edge: the host reports it
        os.write(CONTROL, ctl.pack(ctl.FAILED, 0, text=ctl.reason(exc)))
        os._exit(1)
    gc.disable()
    gc.freeze()
    server.open()
    server.serve()  # somebody waits for the first child; what the others are to find comes after it
    program.fill()
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    while True:
        server.serve()
