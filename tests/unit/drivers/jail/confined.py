"""What the tests of filters and Landlock share: a reader of filters, and children behind them."""

import ctypes
import errno
import os
import signal
import struct
import traceback
from collections.abc import Callable, Mapping

from saggar.boundary import syscalls
from saggar.drivers.jail.bpf import AT_LEAST, EQUALS, Decision, Word

LOAD, AND, JUMP, RETURN = 0x20, 0x54, 0x05, 0x06
CLASS = 0x07

libc = ctypes.CDLL(None, use_errno=True)


def holds(relation: int, word: int, value: int) -> bool:
    """Whether a word stands in a relation to a value."""
    if relation == EQUALS:
        return word == value
    return word >= value if relation == AT_LEAST else bool(word & value)


def read(words: Mapping[int, int], word: Word) -> int:
    return words.get(word.offset, 0) & word.mask


def judge(decision: Decision, words: Mapping[int, int]) -> int:
    """What a decision comes to, by reading it."""
    while not isinstance(decision, int):
        met = holds(decision.relation, read(words, decision.word), decision.value)
        decision = decision.yes if met else decision.no
    return decision


class Program:
    """A packed filter, run one instruction at a time as the kernel would."""

    def __init__(self, packed: bytes) -> None:
        self.code = list(struct.iter_unpack("<HBBI", packed))

    def run(self, words: Mapping[int, int]) -> int:
        return self.trace(words)[0]

    def trace(self, words: Mapping[int, int]) -> tuple[int, list[tuple[int, int]]]:
        """The verdict, and every instruction on the way to it with its operand."""
        place = held = 0
        seen = []
        while True:
            operation, yes, no, value = self.code[place]
            seen.append((operation, value))
            place += 1
            if operation == RETURN:
                return value, seen
            if operation == LOAD:
                held = words.get(value, 0)
            elif operation == AND:
                held &= value
            elif operation == JUMP:
                place += value
            else:
                assert JUMP == operation & CLASS
                place += yes if holds(operation & ~CLASS, held, value) else no


def behind(confine: Callable[[], object], attempt: Callable[[], object]) -> str:
    """
    How an attempt in a child ended, seen from outside: ok, the error's or the signal's name.

    No new privileges first: without that the kernel takes no filter from an ordinary user.
    """
    pid = os.fork()
    if pid == 0:
        _attempt(confine, attempt)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return _name(os.WEXITSTATUS(status))


def _name(code: int) -> str:
    return errno.errorcode.get(code, f"exit {code}") if code else "ok"


def _attempt(confine: Callable[[], object], attempt: Callable[[], object]) -> None:
    """In the child, which never returns: nothing of the test's may run twice."""
    code = 255
    try:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        confine()
        code = _outcome(attempt)
    except BaseException:  # noqa: BLE001 - the child of a test, not the test
        traceback.print_exc()
    finally:
        os._exit(code)


def _outcome(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as exc:
        return exc.errno or 255
    return 0


def call(number: int, *arguments: object) -> int:
    """A raw system call; every integer as wide as a register."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
