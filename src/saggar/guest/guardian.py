"""
The guardian: the parent of a program without walls, so that nothing of it is left behind.

It ends the program when the host says so or is gone, and then everything that came of it: on Linux
orphans are handed to it, so that even a daemon stays in the family. It is no wall: a program runs
as the same user, and may kill its guardian, with which it dies itself.
"""

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import os
import resource
import select
import sys

from saggar.boundary import control as ctl
from saggar.boundary import syscalls as sys_
from saggar.guest import runner

LINUX = sys.platform == "linux"
IGNORED = (signals.SIGHUP, signals.SIGINT, signals.SIGQUIT, signals.SIGTERM, signals.SIGPIPE)


def main(words: list[str]) -> None:
    """Fork the program's process, which waits for its task, and watch over it."""
    control, channel, bundle, *host = map(int, words)
    # Inherited from a thread of the host's; a blocked SIGCHLD would never wake us.
    signals.pthread_sigmask(signals.SIG_SETMASK, ())
    signals.signal(signals.SIGCHLD, signals.SIG_DFL)
    if LINUX:
        sys_.prctl(sys_.PR_SET_CHILD_SUBREAPER, 1)
    guardian = os.getpid()
    first = os.fork()
    if first == 0:
        become(guardian, channel, (control, bundle, *host))
    step_aside(channel, bundle)
    family = Family(first)
    watch(family, control, host)
    family.end()
    tell(control, family.status)
    os._exit(0)


def become(guardian: int, channel: int, others: "tuple[int, ...]") -> None:
    """In the child: a session of its own, no descriptor but its own, and then the one task."""
    try:
        os.setsid()
        if LINUX:
            sys_.prctl(sys_.PR_SET_PDEATHSIG, signals.SIGKILL)
        if os.getppid() != guardian:
            os._exit(1)
        for fd in others:
            os.close(fd)
        if channel != runner.CHANNEL:
            os.dup2(channel, runner.CHANNEL)
            os.close(channel)
        runner.main([])
    finally:
        os._exit(1)  # never unwind into the guardian's stack


def step_aside(channel: int, bundle: int) -> None:
    """In the guardian: hold none of the program's streams open, and none of its signals dear."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for fd in (null, channel, bundle):
        os.close(fd)
    for number in IGNORED:
        signals.signal(number, signals.SIG_IGN)


class Family:
    """The first process and all that came of it, as their parent or adoptive parent knows them."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.status: int | None = None
        """The first one's wait status, once it is dead."""
        # Some kernels do not list children, and a /proc of another namespace lists strangers.
        self._listed = first in children()

    def signal(self, number: int) -> None:
        """To the first process."""
        if self.status is None:
            os.kill(self.first, number)

    def reap(self, options: int = os.WNOHANG) -> bool:
        """Take note of one dead child; whether there was one."""
        try:
            pid, status = os.waitpid(-1, options)
        except ChildProcessError:
            return False
        if pid == self.first:
            self.status = status
        return pid > 0

    def end(self) -> None:
        """Kill until nobody is left: whoever dies hands us its children."""
        try:
            os.killpg(self.first, signals.SIGKILL)  # at once, so that a bomb cannot outrun us
        except OSError:
            pass  # it never had a group, or nobody is left in it
        while left := self._left():
            killed = [pid for pid in left if kill(pid)]
            # What is left may be another user's, by a set-uid program: we can only wait for it,
            # and do so for the first process only.
            if not killed and self.status is not None:
                break
            self.reap(0)
            while self.reap():
                pass

    def _left(self) -> "set[int]":
        if self._listed:
            return children()
        return {self.first} if self.status is None else set()


def children() -> "set[int]":
    """Ours, adopted ones included; none where the kernel does not say."""
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:
            return set(map(int, file.read().split()))
    except OSError:
        return set()


def kill(pid: int) -> bool:
    """End a child of ours; whether we may. Not reaped yet, its number is nobody else's."""
    try:
        os.kill(pid, signals.SIGKILL)
    except PermissionError:
        return False
    return True


def watch(family: Family, control: int, host: "list[int]") -> None:
    """Until the first process is dead, or the host is, or wants it to be."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signals.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signals.signal(signals.SIGCHLD, lambda *_: None)
    watched = select.poll()
    for fd in (woken, control, *host):
        watched.register(fd, select.POLLIN)
    while True:
        while family.reap():
            pass
        if family.status is not None:
            return
        ready = {fd for fd, _ in watched.poll()}
        if ready.intersection(host) or (control in ready and not obey(family, control)):
            return
        if woken in ready:
            os.read(woken, 4096)


def obey(family: Family, control: int) -> bool:
    """
    Pass on the signals whose numbers the host has sent; False when the program is to end.

    The end of the socket is the end of the host, except where its forked children hold it open.
    """
    try:
        numbers = os.read(control, 64)
    except OSError:
        return False
    if not numbers or signals.SIGKILL in numbers:
        return False
    for number in numbers:
        family.signal(number)
    return True


def tell(control: int, status: "int | None") -> None:
    """How the first process ended, and what it and its children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = used.ru_maxrss * (1024 if LINUX else 1)
    record = ctl.pack(ctl.GONE, 0, status or 0, used.ru_utime + used.ru_stime, memory)
    try:
        os.write(control, record)
    except OSError:
        pass  # the host is gone
