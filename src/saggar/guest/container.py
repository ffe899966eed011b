"""
Pid 1 of a container: forks the child that will hold the task, reaps, and tells how it ended.

The wall is the engine's; behind it stands the same runner as in a jail. The child sends the host
the same descriptors, so that from then on host and child talk alone, and the engine sees nothing.
Nobody inside can end this process: it is the init of its namespace, and cannot be traced.
"""

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import _socket
import gc
import marshal
import os
import select
import struct
import sys

from saggar.boundary import control as ctl
from saggar.boundary import syscalls as sys_
from saggar.guest import program, runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PACKAGES = (
    "/usr/local/lib/python{0}.{1}/dist-packages",
    "/usr/lib/python3/dist-packages",
    "/usr/local/lib/python{0}.{1}/site-packages",
    "{2}/lib/python{0}.{1}/site-packages",
)
"""Where images keep the packages that they bring along: Debian's places, and upstream's."""
FIRST_TO_DIE = b"900"


def main(words: "list[str]") -> None:
    """Fork the child, then watch over it. What we were given came over the socket, as did words."""
    control = _socket.socket(fileno=int(words[0]))
    host = int(words[1])
    try:
        if os.getpid() != 1:
            raise RuntimeError("whoever is not pid 1 would end the whole machine with the task")
        greeting = marshal.loads(bytes.fromhex(words[2]))
        folders(greeting["work"])
        preload(greeting["preload"], greeting["site"])
        program.furnish()
        signals.pthread_sigmask(signals.SIG_BLOCK, {signals.SIGCHLD})
        deaths = sys_.signal_descriptor(signals.SIGCHLD)
        # Before there is anybody who could trace us, or open our memory.
        sys_.prctl(sys_.PR_SET_DUMPABLE, 0)
        gc.disable()
        gc.freeze()
        first = os.fork()
    except BaseException as exc:  # the edge: the host reports it
        complain(control, exc)
        os._exit(1)
    if first == 0:
        become(control, greeting)
    watch(control, host, deaths, first)


def folders(work: str) -> None:
    """The folder to work in, on the one file system that can be written to."""
    os.umask(0)
    os.makedirs(work, 0o700, exist_ok=True)
    os.umask(0o022)


def preload(modules: "tuple[str, ...]", site: "tuple[str, ...]") -> None:
    """Import what was asked for, before there is a program."""
    if modules:
        before = list(sys.path)
        sys.path[:0] = [*site, *packages()]
        for name in modules:
            __import__(name)
        sys.path[:] = before


def become(control: _socket.socket, greeting: "dict[str, Any]") -> None:
    """In the child: the rest of the walls, the host told, and then the one task."""
    try:
        signals.pthread_sigmask(signals.SIG_UNBLOCK, {signals.SIGCHLD})
        rather_than_init()
        os.setsid()
        ends = runner.Ends()
        work = os.open(greeting["work"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        handles = [*ends.for_host(), work, os.pidfd_open(os.getpid()), os.pidfd_open(1)]
        # What the engine mounted, for the host to see whether it is what was meant.
        handles += [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in greeting["mounts"]]
        sys_.prctl(sys_.PR_SET_NO_NEW_PRIVS, 1)
        confine(greeting)
        os.chdir(greeting["work"])
        packed = struct.pack(f"{len(handles)}i", *handles)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
        told = ctl.pack(ctl.PARKED, 0, text="\n".join(packages()))
        control.sendmsg([told], rights)
        ends.keep_only_own()
        control.detach()
        if not greeting["hurried"]:
            runner.rehearse()
        runner.serve()
    except BaseException as exc:  # never unwind into the stack of pid 1
        complain(control, exc)
    finally:
        os._exit(1)


class Unconfined(RuntimeError):
    """A wall that was promised is refused here: by an engine's filter, say, that is older."""


def confine(greeting: "dict[str, Any]") -> None:
    """
    What we take from ourselves: the engine's walls stand already, and allow more.

    All of it or nothing: whether Landlock can be had here the host knew before it asked for it.
    """
    try:
        if greeting["landlock"] is not None:
            sys_.landlock(*greeting["landlock"])
    except OSError as exc:
        raise Unconfined(exc) from exc
    sys_.seccomp(greeting["filter"])


def rather_than_init() -> None:
    """When the container has no memory left, pid 1 must live to tell."""
    sys_.prctl(sys_.PR_SET_DUMPABLE, 1)  # or our own files in /proc are not ours
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, FIRST_TO_DIE)
        os.close(fd)
    except OSError:
        pass  # masked: then the largest goes first, which is hardly ever pid 1
    sys_.prctl(sys_.PR_SET_DUMPABLE, 0)


def packages() -> "list[str]":
    """The folders with packages of this image's own interpreter."""
    version = (*sys.version_info[:2], sys.prefix)
    found = dict.fromkeys(path.format(*version) for path in PACKAGES)
    return [path for path in found if os.path.isdir(path)]


def complain(control: _socket.socket, exc: BaseException) -> None:
    """Say why to the host, if there still is one."""
    try:
        control.send(ctl.pack(ctl.FAILED, 0, text=ctl.reason(exc)))
    except OSError:
        pass


def watch(control: _socket.socket, host: int, deaths: int, first: int) -> None:
    """Until the first process is dead, or the host is. Our own end is everybody's."""
    watched = select.poll()
    for fd in (control.fileno(), host, deaths):
        watched.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in watched.poll()}
        if host in ready:
            os._exit(0)
        if control.fileno() in ready:
            obey(control, first)
        if deaths in ready:
            os.read(deaths, 4096)
            reap(control, first)


def obey(control: _socket.socket, first: int) -> None:
    """Pass a signal on to the first process, for hosts that may not send one themselves."""
    try:
        numbers = control.recv(64)
    except OSError:
        numbers = b""
    if not numbers:
        os._exit(0)
    for number in numbers:
        try:
            os.kill(first, number)
        except OSError:
            pass  # dead, and reaped: what is sent is for nobody


def reap(control: _socket.socket, first: int) -> None:
    """Bury who is dead. With the first one everybody else goes, and then the host is told."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == first:
            end_all()
            spent = usage.ru_utime + usage.ru_stime
            record = ctl.pack(ctl.GONE, 0, status, spent, usage.ru_maxrss * 1024)
            try:
                control.send(record)
            except OSError:
                os._exit(0)
            return


def end_all() -> None:
    """Nobody but us is left. Once is enough: the kernel lets no fork past it."""
    try:
        os.kill(-1, signals.SIGKILL)
    except OSError:
        pass  # nobody was left
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
