"""Attacks on the end of a run: what outlives it, what pretends, what never comes."""

import atexit
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from saggar.model.policy import Rung
from saggar.model.result import Result, Status
from saggar.testing.attacks.attack import Facts, attack, everywhere
from saggar.testing.attacks.checks import either, every, exits, held, survived
from saggar.testing.attacks.inside import escaped, flush, scene, tries

SURVIVORS = frozenset({"processes"})
"""Where a driver can count a tree's processes it can also end every one of them."""


def quick(result: Result[Any], facts: Facts) -> str | None:
    """It was over when the program was, not at the deadline."""
    return f"took {facts.elapsed:.1f} s: {result.status}" if facts.elapsed > 1.5 else None


def leave_a_daemon() -> None:
    """Fork twice into a session of its own, and mark the host for as long as it lives."""
    flush()
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGALRM}:
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(8)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, 256)
    while True:
        time.sleep(0.05)
        try:
            with open(f"{scene['folder']}/mark", "w") as file:
                file.write("alive")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
                one.sendto(b"alive", scene["datagrams"])
        except OSError:
            pass


@attack(every(held, quick), needs=SURVIVORS)
def outlive_the_run() -> None:
    """Leave a daemon behind that ignores every signal and writes to the host."""
    tries.append("daemon")
    leave_a_daemon()


@attack(every(survived, exits(Status.ERROR, Status.KILLED, Status.OK)), needs=SURVIVORS)
def outlive_a_sudden_end() -> None:
    """The same, with a parent that is killed at once."""
    leave_a_daemon()
    os.kill(os.getpid(), signal.SIGKILL)


@attack(every(survived, exits(Status.TIMEOUT, limit="wall")), needs=SURVIVORS, limits={"wall": 0.5})
def outlive_the_deadline() -> None:
    """The same, with a parent that has to be stopped."""
    for _ in range(8):
        leave_a_daemon()
    time.sleep(60)


@everywhere(every(held, quick))
def keep_the_streams_open() -> None:
    """A child that holds stdout, so that its end never comes."""
    tries.append("child")
    flush()
    if os.fork() == 0:
        signal.alarm(8)
        os.setsid()
        while True:
            time.sleep(0.2)
            try:
                os.write(1, b"late\n")
            except OSError:
                os._exit(0)


@everywhere(every(survived, exits(Status.TIMEOUT, limit="wall")), limits={"wall": 0.5})
def never_end_its_threads() -> None:
    """A thread that the interpreter waits for."""
    threading.Thread(target=time.sleep, args=(60,)).start()


@everywhere(every(survived, exits(Status.TIMEOUT, limit="wall")), limits={"wall": 0.5})
def never_end_its_exit_handlers() -> None:
    """An exit handler that sleeps for ever."""

    def never() -> None:
        while True:
            time.sleep(60)

    atexit.register(never)


@everywhere(every(survived, exits(Status.ERROR, code=7)))
def exit_without_a_word() -> None:
    """os._exit past the runner."""
    os._exit(7)


@everywhere(every(survived, exits(Status.OK, Status.ERROR)))
def exit_well_without_a_word() -> None:
    """os._exit(0) past the runner."""
    os._exit(0)


@everywhere(every(survived, exits(Status.KILLED, signal="SIGKILL")))
def kill_itself() -> None:
    """SIGKILL from within."""
    os.kill(os.getpid(), signal.SIGKILL)


@everywhere(every(survived, exits(Status.KILLED, signal="SIGSEGV")))
def crash_by_a_bad_address() -> None:
    """Read address zero."""
    ctypes.string_at(0)


@everywhere(every(survived, exits(Status.KILLED, Status.ERROR, Status.MEMORY)))
def crash_by_recursion() -> None:
    """Recurse until the stack is gone."""
    sys.setrecursionlimit(1 << 30)
    recurse()


def recurse() -> None:
    """Call itself."""
    recurse()


@everywhere(every(survived, exits(Status.ERROR)))
def raise_what_cannot_be_shown() -> None:
    """An exception whose every method raises."""

    def leave(_: object, *__: object) -> str:
        sys.exit(0)

    class Awkward(Exception):
        __str__ = __repr__ = leave
        __getattribute__ = leave

    raise Awkward


@everywhere(every(survived, exits(Status.TIMEOUT, Status.ERROR)), limits={"wall": 0.5})
def raise_what_takes_for_ever() -> None:
    """An exception that is never done describing itself."""

    class Endless(Exception):
        def __str__(self) -> str:
            time.sleep(60)
            return ""

    raise Endless


@everywhere(every(survived, exits(Status.ERROR, Status.OUTPUT, Status.MEMORY)), limits={"wall": 3})
def raise_a_very_long_message() -> None:
    """Thirty megabytes of message, in a chain of exceptions."""
    try:
        raise ValueError("x" * 10_000_000)
    except ValueError as error:
        raise TypeError("y" * 10_000_000) from error


@everywhere(every(survived, exits(Status.ERROR, code=1)))
def be_the_exit_of_another_kind() -> None:
    """SystemExit with an object whose text never comes."""

    class Code:
        def __str__(self) -> str:
            raise RuntimeError

    raise SystemExit(Code())


@everywhere(either(held, every(survived, exits(Status.KILLED, Status.ERROR))))
def die_in_every_thread_at_once() -> None:
    """Threads that exit, kill and raise while the main one ends."""
    tries.append("threads")
    for _ in range(8):
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR2)).start()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


@attack(every(survived, exits(Status.OK, Status.ERROR)), stopped_from=Rung.JAIL)
def be_adopted() -> None:
    """Become the reaper of orphans, and collect those of others."""
    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)
    for _ in range(4):
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.05)
            os._exit(0)
    seen = set()
    try:
        while True:
            seen.add(os.wait()[0])
    except ChildProcessError:
        pass
    if len(seen) > 8:
        escaped(f"reaped {len(seen)} processes")
