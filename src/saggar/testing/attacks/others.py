"""Attacks on other processes: tracing them, signalling them, taking their descriptors."""

import ctypes
import fcntl
import os
import signal
import struct
import time
from typing import Any

from saggar.model.policy import Network, Rung
from saggar.model.result import Status
from saggar.testing.attacks.attack import attack, everywhere
from saggar.testing.attacks.checks import every, exits, held, survived
from saggar.testing.attacks.endings import quick
from saggar.testing.attacks.inside import (
    attempt,
    denied,
    descriptors,
    escaped,
    flush,
    outsiders,
    pids,
    scene,
    syscall,
    tries,
    watch,
)


@attack(held)
def trace_processes() -> None:
    """Attach to every process in sight, to its parent, to itself."""
    for who in {*outsiders(), *pids(), 1, os.getpid()}:
        denied("ptrace", 16, who, None, None)
        denied("ptrace", 0x4206, who, None, None)
    denied("ptrace", 0, 0, None, None)


@attack(held)
def copy_the_memory_of_processes() -> None:
    """Read and write memory across processes, and advise on it."""
    vector = (ctypes.c_uint64 * 2)()
    for who in {*outsiders(), *pids(), 1}:
        for name in ("process_vm_readv", "process_vm_writev"):
            denied(name, who, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0)
        denied("kcmp", os.getpid(), who, 0, 0, 0)


@attack(held)
def take_descriptors_of_processes() -> None:
    """Duplicate what pid 1 and the host have open."""
    for who in {*outsiders(), *pids(), 1}:
        try:
            fd = os.pidfd_open(who)
        except OSError:
            fd = -1
        for number in range(4):
            denied("pidfd_getfd", fd, number, 0)


@attack(held)
def open_what_processes_have_open() -> None:
    """Reopen the descriptors of others through /proc."""
    for who in {*outsiders(), *pids(), 1}:
        attempt(f"descriptors of {who}", reopen_any, who)


def reopen_any(who: int) -> list[str]:
    """What of a process's open files can be opened here."""
    found = []
    for name in os.listdir(f"/proc/{who}/fd"):
        try:
            os.close(os.open(f"/proc/{who}/fd/{name}", os.O_RDWR | os.O_NONBLOCK))
        except OSError:
            continue
        found.append(name)
    if not found:
        raise PermissionError(who)
    return found


@attack(held)
def signal_the_host() -> None:
    """Send every kind of signal, by every call, to the host and to a bystander."""
    information = ctypes.create_string_buffer(128)
    ctypes.c_int.from_buffer(information, 8).value = -1
    for who in outsiders():
        for number in (signal.SIGURG, signal.SIGWINCH, signal.SIGCONT):
            attempt(f"kill {who}", os.kill, who, number)
            attempt(f"group of {who}", os.killpg, who, number)
            attempt(f"thread {who}", syscall, "tgkill", who, who, number)
            attempt(
                f"queue {who}", syscall, "rt_sigqueueinfo", who, number, ctypes.byref(information)
            )
    attempt("pidfd", signal_by_descriptor, scene["bystander"])


def signal_by_descriptor(who: int) -> None:
    """Signal through a pidfd."""
    signal.pidfd_send_signal(os.pidfd_open(who), signal.SIGURG)


@attack(held)
def signal_by_way_of_a_file() -> None:
    """Have the kernel send the signal: own a pipe in the name of somebody else."""
    reading, writing = os.pipe()
    for who in outsiders():
        watch(f"owner {who}", fcntl.fcntl, reading, fcntl.F_SETOWN, who)
        watch("signal", fcntl.fcntl, reading, fcntl.F_SETSIG, signal.SIGURG)
        watch("tell", fcntl.fcntl, reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.write(writing, b"x")
        os.read(reading, 1)


@attack(survived)
def signal_everybody() -> None:
    """Send a harmless signal to every process that can be reached, and to whole groups."""
    signal.signal(signal.SIGURG, lambda *_: None)
    watch("everybody", os.kill, -1, signal.SIGURG)
    watch("group", os.killpg, 0, signal.SIGURG)


@attack(every(survived, exits(Status.OK, Status.ERROR, Status.KILLED)), stopped_from=Rung.JAIL)
def kill_everybody() -> None:
    """Kill all that can be reached, from behind a wall where that is its own world only."""
    tries.append("kill")
    if len([*pids()]) > 8:
        escaped("this is no world of its own: nobody is killed")
        return
    flush()
    watch("everybody", os.kill, -1, signal.SIGKILL)
    watch("init", os.kill, 1, signal.SIGKILL)
    watch("init, politely", os.kill, 1, signal.SIGTERM)
    if os.getppid() > 1:
        watch("parent", os.kill, os.getppid(), signal.SIGKILL)


@everywhere(exits(Status.TIMEOUT, limit="wall"), limits={"wall": 0.5})
def stop_itself() -> None:
    """Stop, so that no handler ever runs again."""
    os.kill(os.getpid(), signal.SIGSTOP)


@everywhere(exits(Status.TIMEOUT, limit="wall"), limits={"wall": 0.5})
def ignore_every_signal() -> None:
    """Block and ignore everything that can be, and wait."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(60)


@everywhere(exits(Status.TIMEOUT, limit="wall"), limits={"wall": 0.5})
def swallow_the_interrupt() -> None:
    """Catch KeyboardInterrupt for ever: the soft deadline passes, the hard one does not."""
    while True:
        try:
            while True:
                time.sleep(60)
        except BaseException as error:
            print("swallowed", type(error).__name__, flush=True)


@everywhere(exits(Status.TIMEOUT, limit="wall"), limits={"wall": 0.5})
def stop_all_but_one() -> None:
    """Leave stopped and traced-looking children behind, which pipes and waits trip over."""
    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
    signal.pause()


def wait_for_descriptors() -> None:
    """A run that takes whatever is sent to its names, and prints what it can read of it."""
    import socket

    kept = []
    for kind, name in ((socket.SOCK_STREAM, "stream"), (socket.SOCK_DGRAM, "datagrams")):
        try:
            one = socket.socket(socket.AF_UNIX, kind)
            one.bind(f"\0{scene['token']}-{name}")
        except OSError as error:
            print("none", name, error)
            continue
        if kind == socket.SOCK_STREAM:
            one.listen(8)
        kept.append(one)
    print("WAITING", flush=True)
    signal.pause()


def hand_over() -> None:
    """Send its own descriptors, and its folder, to the names of a neighbour."""
    import socket

    own = [0, 1, 2, os.open(".", os.O_RDONLY), os.open("/", os.O_PATH)]
    for kind, name in ((socket.SOCK_STREAM, "stream"), (socket.SOCK_DGRAM, "datagrams")):
        try:
            one = socket.socket(socket.AF_UNIX, kind)
        except OSError as error:
            attempt(f"a socket for {name}", give_up, error)
            continue
        with one:
            one.settimeout(0.2)
            attempt(f"connect to {name}", one.connect, f"\0{scene['token']}-{name}")
            attempt(f"send to {name}", send_all, one, own)


def give_up(error: OSError) -> None:
    """There are not even sockets."""
    raise error


def send_all(one: Any, fds: list[int]) -> int:
    """Send descriptors over a socket that may not be connected."""
    rights = [(1, 1, struct.pack(f"{len(fds)}i", *fds))]
    sent: int = one.sendmsg([b"x"], rights)
    return sent


@attack(held, beside=wait_for_descriptors)
def hand_descriptors_to_a_neighbour() -> None:
    """Pass open files to another run, so that they outlive this one."""
    hand_over()


@attack(held, beside=wait_for_descriptors, network=Network.LOOPBACK)
def hand_descriptors_over_a_loopback() -> None:
    """The same where the policy grants a loopback, which each run has to itself."""
    hand_over()


@attack(held, beside=wait_for_descriptors, network=Network.HOST)
def hand_descriptors_over_the_hosts_network() -> None:
    """The same where both share the host's network, and with it the names of sockets."""
    hand_over()


@everywhere(every(held, quick))
def keep_descriptors_with_a_sibling() -> None:
    """Pass stdout and the channel to a daemon of its own, which holds them after the end."""
    import socket

    tries.append("pass")
    try:
        here, there = socket.socketpair()
    except OSError as error:
        print("refused", error)
        return
    flush()
    if os.fork() == 0:
        os.setsid()
        signal.alarm(8)
        here.close()
        _, fds, *_ = socket.recv_fds(there, 1, 8)
        os.closerange(0, min(fds))
        while True:
            time.sleep(0.1)
            try:
                os.write(fds[0], b"late\n")
            except OSError:
                os._exit(0)
    socket.send_fds(here, [b"x"], [1, 2, *descriptors()[:1]])
