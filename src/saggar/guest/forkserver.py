"""
The fork server: pid 1 of the outer walls, small, single-threaded; it forks children and reaps them.

A child is parked behind finished walls (`walls`) and waits for its one task (`runner`). The server
never sees a task: the child sends its descriptors to the host itself, and from then on host and
child talk alone.
"""

import _signal as signals
import _socket
import gc
import os
import select
import struct
import sys

from saggar.boundary import control as ctl
from saggar.boundary import syscalls as sys_
from saggar.boundary.wallplan import WallPlan
from saggar.guest import runner, survivors, walls
from saggar.guest.tinyinit import TinyInit

INNER = {
    "mnt": sys_.CLONE_NEWNS,
    "ipc": sys_.CLONE_NEWIPC,
    "uts": sys_.CLONE_NEWUTS,
    "cgroup": sys_.CLONE_NEWCGROUP,
    "pid": sys_.CLONE_NEWPID,
}
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Child:
    """One live sandbox: the processes by which it is known here, and what it has on loan."""

    __slots__ = ("end", "folder", "init", "network", "process", "serial", "uid")

    def __init__(self, serial: int, uid: int) -> None:
        self.serial, self.uid = serial, uid
        self.network: int | None = None
        self.init = self.process = 0
        self.folder = ""
        self.end: tuple[int, float, int] = (0, 0.0, 0)


class Home:
    """The server's own namespaces, by descriptor, so that it can leave them and come back."""

    def __init__(self) -> None:
        kinds = INNER | {"net": sys_.CLONE_NEWNET}
        self._doors = [(self._open(name), kind) for name, kind in kinds.items()]

    def _open(self, name: str) -> int:
        return os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)

    def leave(self) -> None:
        """New namespaces around us; children are born in a pid namespace without a pid 1 yet."""
        sys_.unshare(sum(INNER.values()))

    def come_back(self) -> None:
        """Home again, whichever of them we left."""
        for fd, kind in self._doors:
            sys_.setns(fd, kind)


class Networks:
    """Empty network namespaces, made ahead in the outer user namespace; one live sandbox each."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._free: list[int] = []

    def take(self) -> int | None:
        """A namespace to join, or nothing to join where the host's network was asked for."""
        if self._kind == "host":
            return None
        return self._free.pop() if self._free else self._make()

    def give_back(self, fd: int | None) -> None:
        """Everything that lived in it is dead, and nobody had power over it: it is as new."""
        if fd is not None:
            self._free.append(fd)

    def _make(self) -> int:
        sys_.unshare(sys_.CLONE_NEWNET)
        if self._kind == "loopback":
            bring_up_loopback()
        return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def bring_up_loopback() -> None:
    """What `ip link set lo up` does."""
    import fcntl

    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    request = struct.pack("16sH22x", b"lo", 0)
    flags = struct.unpack("16sH22x", fcntl.ioctl(probe.fileno(), SIOCGIFFLAGS, request))[1]
    fcntl.ioctl(probe.fileno(), SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))
    probe.close()


class ForkServer:
    """The loop: a request to park, a child to reap, the host's end; one at a time."""

    def __init__(self, plan: WallPlan, control: int, masters: tuple[int, ...]) -> None:
        self._plan = plan
        self._jail = plan.rung == "jail"
        self._pid = os.getpid()
        self._folders: dict[int, str] = {}
        self._control = _socket.socket(fileno=control)
        self._masters = masters
        self._children: dict[int, Child] = {}
        # Ids of our own user namespace, or the host's where there is none.
        first = 0 if self._jail else plan.uid
        self._uids = list(range(first + plan.uids - 1, first, -1))
        self._networks = Networks(plan.network)
        if self._jail:
            self._tinyinit = TinyInit()
            self._outside = walls.Outside()
            self._home = Home()

    def serve(self) -> None:
        """Until the host, or the guard it left outside, is gone."""
        signals.pthread_sigmask(signals.SIG_BLOCK, {signals.SIGCHLD})
        deaths = sys_.signal_descriptor(signals.SIGCHLD)
        watched = select.poll()
        for fd in (self._control.fileno(), *self._masters, deaths):
            watched.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in watched.poll()}
            if ready.intersection(self._masters):
                os._exit(0)
            if deaths in ready:
                os.read(deaths, 4096)
                self._reap()
            if self._control.fileno() in ready:
                self._obey()

    def _obey(self) -> None:
        try:
            data = self._control.recv(ctl.MAX_RECORD)
        except OSError:
            data = b""
        if not data:
            os._exit(0)
        record = ctl.unpack(data)
        if record.kind == ctl.REMOVE:
            survivors.remove(self._folders.pop(record.serial, ""))
            return
        try:
            self._park(record.serial)
        except Exception as exc:  # the edge: the host decides what a failed fork means
            self._tell(ctl.pack(ctl.FAILED, record.serial, text=ctl.reason(exc)))

    def _tell(self, record: bytes) -> None:
        try:
            self._control.send(record)
        except OSError:
            os._exit(0)  # nobody listens any more: the host is gone, and we go with it

    def _park(self, serial: int) -> None:
        child = Child(serial, self._take_uid())
        try:
            if self._jail:
                self._fork_into_namespaces(child)
            else:
                self._make_folder(child)
                child.process = self._fork(child)
        finally:
            if not child.process and not child.init:
                self._recycle(child)
        self._children[child.process] = child

    def _make_folder(self, child: Child) -> None:
        """Where the child works, for want of a mount namespace: one of the host's folders."""
        child.folder = f"{self._plan.staging}/{child.serial}"
        self._folders[child.serial] = child.folder
        for path in (child.folder, f"{child.folder}/work", f"{child.folder}/tmp"):
            os.mkdir(path, 0o700)
            if child.uid:
                os.chown(path, child.uid, child.uid)

    def _take_uid(self) -> int:
        """An id that no living child has; an ordinary user's children share the only one there is."""
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
        """In the child: walls, descriptors, hand-over, and then the one task."""
        signals.pthread_sigmask(signals.SIG_UNBLOCK, {signals.SIGCHLD})
        if self._jail:
            ends, handles = self._behind_namespaces(child)
        else:
            ends, handles = self._behind_landlock(child)
        packed = struct.pack(f"{len(handles)}i", *handles)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
        self._control.sendmsg([ctl.pack(ctl.PARKED, child.serial, text=os.getcwd())], rights)
        ends.keep_only_own()
        runner.serve(self._plan.parked, self._plan.site)

    def _behind_namespaces(self, child: Child) -> "tuple[runner.Ends, list[int]]":
        work, space = walls.mount_space(self._plan, child.uid)
        walls.mount_proc()
        walls.take_uid(child.uid)
        ends = runner.Ends()  # pipes belong to the guest's id, or it could not reopen /dev/stdout
        walls.own_user_namespace(self._outside, child.uid)
        walls.drop_power()
        walls.bind_to(0)  # as seen from a pid namespace that it is not in
        os.chdir("/work")
        own, init = os.pidfd_open(os.getpid()), os.pidfd_open(1)
        walls.seal(self._plan)
        return ends, [*ends.for_host(), work, own, space, init]

    def _behind_landlock(self, child: Child) -> "tuple[runner.Ends, list[int]]":
        if child.uid:
            walls.become_another(child.uid)
        os.stat(os.__file__)  # a library under a private home would fail later, and be a puzzle
        ends = runner.Ends()
        os.setsid()
        walls.bind_to(self._pid)
        os.chdir(child.folder)  # the rules say "." for it
        work = os.open("work", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        walls.seal(self._plan)
        os.chdir("work")
        return ends, [*ends.for_host(), work, os.pidfd_open(os.getpid())]

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                self._bury(child, pid, status, usage)

    def _bury(self, child: Child, pid: int, status: int, usage) -> None:
        """Told when the whole namespace is gone: only then is nobody left who could write."""
        if pid == child.process:
            child.end = status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
            child.process = 0
            if not self._jail:
                survivors.kill(child.uid, spared=set(self._children))
        else:
            child.init = 0
        if not child.process and not child.init:
            self._recycle(child)
            self._tell(ctl.pack(ctl.GONE, child.serial, *child.end))

    def _recycle(self, child: Child) -> None:
        if child.uid:
            self._uids.append(child.uid)
        self._networks.give_back(child.network)


def preload(plan: WallPlan) -> None:
    """Import what the operator lists, once, for every child; threads do not survive a fork."""
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    sys.path[:0] = plan.site
    for name in plan.preload:
        __import__(name)
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            raise RuntimeError(f"preloading {name} left {threads} threads behind; fork needs one")
    del sys.path[: len(plan.site)]


def main(words: list[str]) -> None:
    """Settle behind the outer walls, then serve."""
    control, supervisor, guard, plan_fd, bundle, *held = map(int, words)
    try:
        plan = WallPlan.decode(os.pread(plan_fd, 1 << 24, 0))
        for fd in (control, supervisor, guard, *held):
            os.set_inheritable(fd, False)
        os.close(plan_fd)
        sys_.seccomp(plan.outer_filter)
        preload(plan)
        server = ForkServer(plan, control, (supervisor, guard))
        sys_.prctl(sys_.PR_SET_DUMPABLE, 0)  # after it has opened its own namespaces
        os.close(bundle)
    except BaseException as exc:  # the edge: the host reports it
        os.write(control, ctl.pack(ctl.FAILED, 0, text=ctl.reason(exc)))
        os._exit(1)
    gc.collect()
    gc.freeze()
    gc.disable()
    server.serve()
