"""Attacks that use things up: processes, memory, processor, disk, descriptors, output."""

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import threading
import time
from typing import Any

from saggar.model.quantity import MiB
from saggar.model.result import Result, Status
from saggar.testing.attacks.attack import Facts, attack, everywhere
from saggar.testing.attacks.checks import either, every, exits, held, starved, survived
from saggar.testing.attacks.inside import attempt, escaped, flush, libc, scene, tries

PROCESSES = frozenset({"processes"})
MEMORY = frozenset({"memory"})
DISK = frozenset({"disk"})
SMALL = {"wall": 2, "memory": "64MiB", "disk": "16MiB"}
MEBI, GIB = 1 << 20, 1 << 30
TOO_MANY = 2000
"""Where a bomb stops by itself: a wall that fails must not take the machine with it."""


def few(result: Result[Any], _: Facts) -> str | None:
    """Not many more processes lived at once than were allowed, by the host's count."""
    count = result.usage.processes
    return f"{count} processes lived at once" if count is not None and count > 40 else None


def refused(result: Result[Any], facts: Facts) -> str | None:
    """The kernel refused a process: the host counted that, or the program died of it."""
    died = result.error is not None and result.error.type in ("BlockingIOError", "RuntimeError")
    return None if died else exits(Status.ERROR, limit="processes")(result, facts)


no_more = every(survived, few, refused)
no_more_or_out_of_time = every(survived, few, either(refused, exits(Status.TIMEOUT)))


@everywhere(no_more, needs=PROCESSES, limits={"wall": 2})
def fork_until_refused() -> None:
    """Fork and fork until that fails, and fail with it."""
    for _ in range(TOO_MANY):
        if os.fork() == 0:
            signal.alarm(5)
            signal.pause()
    escaped(f"{TOO_MANY} processes where 32 were allowed")


@everywhere(no_more_or_out_of_time, needs=PROCESSES, limits={"wall": 0.8})
def fork_without_end() -> None:
    """The classical bomb: every child forks on, and nobody minds a refusal."""
    while True:
        signal.alarm(3)
        with contextlib.suppress(OSError):
            os.fork()


@everywhere(no_more_or_out_of_time, needs=PROCESSES, limits={"wall": 0.8})
def fork_daemons_without_end() -> None:
    """The same with sessions of their own and parents that die at once: nobody's children."""
    for _ in range(TOO_MANY):
        try:
            if os.fork() == 0:
                os.setsid()
                signal.alarm(3)
                if os.fork():
                    os._exit(0)
                time.sleep(5)
        except OSError:
            pass
    signal.pause()


@everywhere(no_more_or_out_of_time, needs=PROCESSES, limits={"wall": 2})
def start_threads_without_end() -> None:
    """Threads, which count as processes."""
    threading.stack_size(1 << 16)
    gate = threading.Event()
    for _ in range(TOO_MANY):
        threading.Thread(target=gate.wait, args=(5,), daemon=True).start()
    escaped(f"{TOO_MANY} threads where 32 were allowed")


@everywhere(starved(64 * MiB), needs=MEMORY, limits=SMALL)
def fill_the_heap() -> None:
    """Lists of bytes without end."""
    kept = [bytearray(b"x") * MEBI for _ in range(1024)]
    escaped(f"{len(kept)} MiB of heap")


@everywhere(starved(64 * MiB), needs=MEMORY, limits=SMALL)
def fill_a_mapping() -> None:
    """One anonymous mapping of a gigabyte, every page written."""
    page = mmap.mmap(-1, GIB)
    for at in range(0, GIB, 4096):
        page[at] = 1
    escaped("a gigabyte of mapping")


@everywhere(starved(64 * MiB), needs=MEMORY, limits=SMALL | {"file_size": "2GiB"})
def fill_a_nameless_file() -> None:
    """A file in memory that is on no file system, so that no quota counts it."""
    fd = os.memfd_create("x")
    for _ in range(1024):
        os.write(fd, bytes(MEBI))
    escaped("a gigabyte of memfd")


@everywhere(starved(64 * MiB), needs=MEMORY, limits=SMALL | {"wall": 4})
def fill_memory_by_many_children() -> None:
    """Children that each stay below the limit, and together do not."""
    flush()
    for _ in range(16):
        if os.fork() == 0:
            kept = bytearray(b"x") * (24 * MEBI)
            time.sleep(1)
            os._exit(len(kept) & 1)
    ends = [os.wait()[1] for _ in range(16)]
    if not any(ends):
        escaped("sixteen children of 24 MiB")


@everywhere(
    starved(64 * MiB), needs=MEMORY | DISK, limits=SMALL | {"disk": "1GiB", "file_size": "1GiB"}
)
def fill_memory_by_way_of_disk() -> None:
    """Files in /dev/shm and /tmp where the disk's limit is larger than memory's."""
    for place in ("/dev/shm", "/tmp"):
        with open(f"{place}/fill", "wb", 0) as file:
            file.writelines(bytes(MEBI) for _ in range(256))
    escaped("half a gigabyte of files in memory")


@attack(either(starved(64 * MiB), held), needs=MEMORY, limits=SMALL)
def fill_system_v_memory() -> None:
    """Shared memory segments, which belong to nobody."""
    libc.shmat.restype = ctypes.c_void_p
    tries.append("shm")
    for _ in range(32):
        segment = libc.shmget(0, 32 * MEBI, 0o1600)
        if segment < 0:
            return
        address = libc.shmat(segment, None, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            return
        ctypes.memset(address, 1, 32 * MEBI)
    escaped("a gigabyte of System V memory")


@everywhere(either(starved(64 * MiB), held), needs=MEMORY, counted=True, limits=SMALL | {"wall": 1})
def fill_pipes_and_sockets() -> None:
    """Bytes that wait in the kernel and belong to no process."""
    tries.append("sockets")
    kept: list[Any] = []
    total = 0
    try:
        for _ in range(1000):
            kept.append(socket.socketpair())
            total += stuff(kept[-1][0])
    except OSError as error:
        print("refused", error)
    if total >= 128 * MEBI:
        escaped(f"{total} bytes in the kernel")


def stuff(one: socket.socket) -> int:
    """Send until nothing more fits; how much that was."""
    one.setblocking(False)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    total = 0
    try:
        while True:
            total += one.send(bytes(65536))
    except BlockingIOError:
        return total


@everywhere(
    every(survived, exits(Status.TIMEOUT, limit="cpu")),
    needs=frozenset({"cpu"}),
    limits={"wall": 3, "cpu": 0.5},
)
def spin() -> None:
    """Do nothing, as fast as possible."""
    while True:
        pass


@everywhere(every(survived, exits(Status.TIMEOUT)), limits={"wall": 3, "cpu": 1})
def spin_in_relays() -> None:
    """Children that each stay below the processor's limit, one after the other."""
    flush()
    while True:
        pid = os.fork()
        if pid == 0:
            end = time.process_time() + 0.1
            while time.process_time() < end:
                pass
            os._exit(0)
        os.waitpid(pid, 0)


@everywhere(
    every(survived, exits(Status.TIMEOUT, limit="cpu")),
    needs=frozenset({"cpu"}),
    limits={"wall": 3, "cpu": 0.6},
)
def spin_in_many() -> None:
    """Children that spin side by side: the limit is the tree's."""
    flush()
    for _ in range(4):
        if os.fork() == 0:
            signal.alarm(6)
            while True:
                pass
    signal.pause()


@everywhere(every(survived, exits(Status.TIMEOUT)), limits={"wall": 2, "cpu": 0.5})
def ignore_the_processors_limit() -> None:
    """Catch SIGXCPU and go on."""
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    while True:
        pass


@everywhere(every(survived, exits(Status.TIMEOUT, limit="wall")), limits={"wall": 0.4})
def sleep_for_ever() -> None:
    """Do nothing, as slowly as possible."""
    while True:
        time.sleep(3600)


@everywhere(every(survived, exits(Status.ERROR, limit="disk")), needs=DISK)
def fill_the_disk() -> None:
    """Write until there is no room."""
    for number in range(256):
        with open(f"fill{number}", "wb", 0) as file:
            file.write(bytes(4 * MEBI))
    escaped("a gigabyte where 16 MiB were allowed")


@everywhere(every(survived, exits(Status.ERROR, limit="disk")), needs=DISK)
def fill_every_place() -> None:
    """Write to every folder that can be written: one limit for all of them together."""
    total = 0
    for place in (".", "/tmp", "/dev/shm", "/var/tmp", "/run", "/dev/mqueue"):
        for number in range(16):
            try:
                with open(f"{place}/fill{number}", "wb", 0) as file:
                    total += file.write(bytes(4 * MEBI))
            except OSError as error:
                print("refused", place, error)
                break
    if total > 24 * MEBI:
        escaped(f"{total} bytes where 16 MiB were allowed")
    with open("more", "wb") as file:
        file.write(bytes(4 * MEBI))


@everywhere(every(survived, exits(Status.ERROR, limit="disk")), needs=frozenset({"inodes"}))
def use_up_the_inodes() -> None:
    """Make empty files without end."""
    for number in range(20_000):
        os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY))
    escaped("20,000 files where 1,000 were allowed")


@everywhere(every(survived, exits(Status.ERROR, limit="file_size")), needs=frozenset({"file_size"}))
def write_a_file_too_large() -> None:
    """Write on past the limit of one file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with open("large", "wb", 0) as file:
        file.writelines(bytes(MEBI) for _ in range(12))
    escaped("a file of 12 MiB where 8 MiB were allowed")


@everywhere(
    every(survived, either(exits(Status.OK), exits(Status.ERROR, limit="file_size"))),
    needs=frozenset({"file_size"}),
)
def make_a_sparse_file() -> None:
    """A file of a terabyte that occupies nothing."""
    with open("sparse", "wb") as file:
        attempt("truncate", os.ftruncate, file.fileno(), 1 << 40)
        attempt("seek and write", write_far, file.fileno())


def write_far(fd: int) -> int:
    """One byte, a terabyte in."""
    return os.pwrite(fd, b"x", 1 << 40)


def kept_within_output(result: Result[Any], _: Facts) -> str | None:
    """No more output was kept than was allowed, and the cut is said."""
    kept = len(result.stdout_bytes) + len(result.stderr_bytes)
    if kept > MiB:
        return f"{kept} bytes of output were kept where {MiB} were allowed"
    return None if result.truncated else "output was dropped and nobody says so"


flooded = every(survived, exits(Status.OUTPUT, limit="output"), kept_within_output)


@everywhere(flooded, limits={"wall": 5, "cpu": 5})
def flood_stdout() -> None:
    """Write a gigabyte to stdout."""
    block = b"x" * (1 << 16)
    for _ in range(1 << 14):
        os.write(1, block)


@everywhere(flooded, limits={"wall": 5, "cpu": 5})
def flood_both_streams_by_children() -> None:
    """Children that write to stdout and stderr by turns, after their parent is gone."""
    flush()
    for _ in range(4):
        if os.fork() == 0:
            for number in range(1 << 12):
                os.write(1 + number % 2, b"y" * (1 << 16))
            os._exit(0)
    signal.pause()


@everywhere(every(survived, exits(Status.OK, Status.ERROR)), needs=frozenset({"open_files"}))
def open_files_without_end() -> None:
    """Open the same file ten thousand times."""
    tries.append("open")
    made = 0
    try:
        for _ in range(10_000):
            os.open("/dev/null", os.O_RDONLY)
            made += 1
    except OSError as error:
        print("refused", error)
    os.closerange(4, made + 8)
    if made > 128:
        escaped(f"{made} open files where 128 were allowed")


@attack(every(survived, exits(Status.OK, Status.ERROR, Status.TIMEOUT)), limits={"wall": 1})
def use_up_what_the_kernel_lends() -> None:
    """Timers, inotify watches, eventfds, locked memory, message queues, semaphores."""
    tries.append("use up")
    name, eight = f"/{scene['token']}".encode(), ctypes.create_string_buffer(8)
    for call, *arguments in (
        ("timer_create", 1, None, eight),
        ("inotify_init",),
        ("eventfd", 0, 0),
        ("semget", 0, 250, 0o1600),
        ("msgget", 0, 0o1600),
        ("mq_open", name, 0o102, 0o600, None),
        ("signalfd", -1, eight, 0),
    ):
        for _ in range(300):
            if getattr(libc, str(call))(*arguments) < 0:
                break
    libc.mlockall(3)
