"""Attacks from a cell: on the keeper beside it, on its own channel, on whoever reads its pipes."""

import ctypes
import fcntl
import json
import os
import signal
import struct
import time

from saggar.model.result import Result, Status
from saggar.testing.attacks.attack import Facts, attack, everywhere
from saggar.testing.attacks.channel import channels, frame, say
from saggar.testing.attacks.checks import every, exits, held, survived
from saggar.testing.attacks.inside import attempt, escaped, look_for_secrets, read, tries

DISPLAY, VALUE, ERROR, DONE, STANDING, TOLD, TEXT, WRITTEN, CLEARED = range(3, 12)
BRIEF = {"wall": 1, "cpu": 2}
GOES_ON = every(survived, exits(*(status for status in Status if status is not Status.FAULT)))
"""However it ended: it was no fault of ours, and the next cell was answered."""


def call(number: int, *words: int) -> int:
    """A system call by its number; OSError as Python has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(number, *words))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


@attack(held, session=True, machines=frozenset({"x86_64"}))
def take_over_the_keeper() -> None:
    """Reach into the process that starts all others: its memory, its descriptors, its secrets."""
    keeper = os.getppid()
    for name in ("mem", "maps", "environ", "fd/3", "oom_score_adj", "clear_refs"):
        way = os.O_RDONLY if name in ("maps", "environ") else os.O_RDWR
        attempt(name, os.open, f"/proc/{keeper}/{name}", way)
    attempt("ptrace", call, 101, 16, keeper, 0, 0)
    tries.append("pidfd")
    handle = os.pidfd_open(keeper)
    attempt("take its channel", call, 438, handle, 3, 0)


@everywhere(GOES_ON, session=True, limits=BRIEF)
def speak_for_the_keeper() -> None:
    """Tell of processes that are none: huge numbers, others' numbers, statuses that are none."""
    numbers: tuple[object, ...] = (0, 1, -1, 10**30, "1", [], {}, None, True)
    lies: tuple[dict[str, object], ...] = (
        {"now": "exited", "status": 10**30},
        {"now": "exited", "status": -1},
        {"now": "failed", "errno": [], "message": {}},
        {"now": "started", "pid": 1},
        {"now": "signalled"},
    )
    for number in numbers:
        for said in lies:
            say(frame(TOLD, {"id": number, **said}))


@everywhere(GOES_ON, session=True)
def kill_the_keeper() -> None:
    """End the process that starts all others, and everybody else."""
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


@everywhere(GOES_ON, session=True, limits={"wall": 1, "grace": 0.3})
def stop_the_keeper() -> None:
    """Make the process that would end us stand still."""
    os.kill(os.getppid(), signal.SIGSTOP)
    while True:
        signal.pause()


@everywhere(GOES_ON, session=True)
def answer_for_cells_to_come() -> None:
    """Leave answers behind that the next questions would meet."""
    for number in (None, 0, 1, 2, 3, 10**30):
        said: dict[str, object] = {
            "number": number,
            "count": -7,
            "matches": [7],
            "variables": [[]],
            "data": {"x": 7},
        }
        say(frame(VALUE, {"media_type": "application/json"}, b'"forged"') + frame(DONE, said))


@everywhere(GOES_ON, session=True, limits=BRIEF)
def miscount_what_was_written() -> None:
    """Tell of marks in the pipes that are none, or stand there for nothing."""
    lies: tuple[object, ...] = ([10**30, 10**30], [-1, -(10**30)], ["x"], [True, None], {}, [[[]]])
    for counts in (*lies, [1] * 10_000):
        os.write(1, b"x" * 1000)
        say(frame(WRITTEN, counts))
    for number in range(1000):
        os.write(1, b"\x1b_saggar:%016x\x1b\\" % (number // 2))
        say(frame(WRITTEN, [number, 1 << 40]))


@everywhere(GOES_ON, session=True, limits=BRIEF)
def keep_the_host_with_crumbs() -> None:
    """A million writes of a byte, and as many empty texts, clears and displays."""
    end = time.monotonic() + 5
    crumbs = frame(TEXT) * 1000 + frame(CLEARED) * 1000 + frame(DISPLAY, {}, b"{}") * 10
    while time.monotonic() < end:
        say(crumbs)
        for _ in range(1000):
            os.write(1, b".")


@everywhere(GOES_ON, session=True, limits=BRIEF)
def hide_weight_beside_displays() -> None:
    """Small displays with half a megabyte of metadata each, and identifiers as long."""
    end = time.monotonic() + 5
    head = {"metadata": {"x": [[]] * 100_000}, "id": "y" * 200_000}
    said = frame(DISPLAY, head, b'{"text/plain": "x"}')
    while time.monotonic() < end:
        say(said)


@everywhere(GOES_ON, session=True, limits=BRIEF)
def nest_beside_displays() -> None:
    """As deep as a parser goes, where those who print or copy it would not."""
    for depth in (*range(50, 1000, 37), 5000, 100_000):
        deep = b"[" * depth + b"]" * depth
        for kind in (DISPLAY, ERROR, VALUE, TEXT, CLEARED, WRITTEN):
            head = b'{"metadata": {"x": ' + deep + b'}, "type": ' + deep + b', "id": ' + deep + b"}"
            blob = json.dumps({"text/plain": "x"}).encode()
            say(struct.pack("<BBxxII", 1, kind, len(head), len(blob)) + head + blob)


@everywhere(GOES_ON, session=True)
def leave_a_writer_behind() -> None:
    """A daemon writes to our pipes without end: whoever reads them must find one."""
    if os.fork() == 0:
        os.setsid()
        while True:
            os.write(1, b"\n" * 4096)
            time.sleep(0.001)


def nothing_of_the_host(_: Result[object], facts: Facts) -> str | None:
    """No descriptor of the host's was there to be found."""
    return None if facts.descriptors < 100 else f"{facts.descriptors} more descriptors"


@attack(every(held, nothing_of_the_host), session=True)
def use_what_is_open() -> None:
    """Look through every descriptor of a cell: its own pipes, its channel, and nothing else."""
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            found = os.fstat(fd)
        except OSError:
            continue  # the folder itself
        tries.append(str(fd))
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            escaped(f"a folder is open: {fd}")
        look_for_secrets(f"descriptor {fd}", repr(found).encode())
    look_for_secrets("keeper", read(f"/proc/{os.getppid()}/cmdline"))


@everywhere(GOES_ON, session=True)
def change_what_the_host_reads() -> None:
    """Make the pipes as large as may be, non-blocking, and read them ourselves."""
    for fd in (1, 2):
        for deed, value in ((1031, 1 << 20), (fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)):
            try:
                fcntl.fcntl(fd, deed, value)
            except OSError as error:
                print("refused", error)
    for fd in channels():
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
