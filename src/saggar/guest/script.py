"""
A script of system calls: a table, run from one end to the other by a few machine instructions.

A forked child pays for every page it touches first, and a line of Python touches many. The walls of
a child are some hundred system calls that are known before it is forked; as a table they cost what
the kernel takes for them and nothing else. script.S says what the bytes below do.
"""

import ctypes
import os

from saggar.boundary import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CODE = {
    "x86_64": bytes.fromhex(
        "5355415441554889fb4889fd4989f44531ed4d39e57d5931c9480fa34d387313488b44cd08486bc0"
        "48488b440340488944cd08ffc183f9067cdf488b4500488b7d08488b7510488b55184c8b55204c8b"
        "45284c8b4d300f05488945404885c07906f645390174094883c54849ffc5eba24c89e8415d415c5d"
        "5bc3"
    ),
    "aarch64": bytes.fromhex(
        "e90300aaea0300aaeb0301aa0c0080d20d0980d29f010beb0a0300544e1d40f90f0080d2d025cf9a"
        "d0000036510d0f8b300640f910260d9b102240f9300600f9ef050091ff1900f1ebfeff54480140f9"
        "408540a9428d41a9449542a9010000d4402100f94000f8b68e0040364a2101918c050091e8ffff17"
        "e0030caac0035fd6"
    ),
}
WORDS = 9
EXPECTED = 1 << 8
"""An error of this call is passed over."""


class Result:
    """What an earlier call of the same script gave back, as an argument of a later one."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Script:
    """A growing list of calls; `compile` makes it a table, after which only values change."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, tuple[object, ...], int]] = []
        self._kept: list[object] = []
        self._table = (ctypes.c_int64 * 0)()

    def add(self, name: str, *arguments: object, expected: bool = False) -> Result:
        """One more call; bytes and buffers are passed by their address and kept alive."""
        self._calls.append((name, arguments, EXPECTED if expected else 0))
        return Result(len(self._calls) - 1)

    def compile(self) -> None:
        """Lay the table out in memory, and the code to run it."""
        self._table = (ctypes.c_int64 * (WORDS * len(self._calls)))()
        for index, (name, arguments, flags) in enumerate(self._calls):
            self._table[index * WORDS] = syscalls.NUMBERS[name]
            self._table[index * WORDS + 7] = flags
            for place, value in enumerate(arguments):
                self._put(index, place, value)
        self._run = executable(CODE[os.uname().machine])

    def _put(self, index: int, place: int, value: object) -> None:
        word = index * WORDS + 1 + place
        if isinstance(value, Result):
            self._table[word] = value.index
            self._table[index * WORDS + 7] |= 1 << place
        elif isinstance(value, int):
            self._table[word] = value
        else:
            if isinstance(value, bytes):
                value = ctypes.create_string_buffer(value)
            self._kept.append(value)
            self._table[word] = ctypes.addressof(value)  # type: ignore[arg-type]

    def change(self, call: Result, place: int, value: int) -> None:
        """Another number as argument `place` of a call."""
        self._table[call.index * WORDS + 1 + place] = value

    def run(self) -> None:
        """All of it, or an OSError that names the call that failed."""
        reached = self._run(self._table, len(self._calls))
        if reached < len(self._calls):
            name, arguments, _ = self._calls[reached]
            number = -self._table[reached * WORDS + 8]
            said = ", ".join(str(a) for a in arguments if isinstance(a, bytes | int))
            raise OSError(number, f"{os.strerror(number)} in {name}({said})")


def executable(code: bytes) -> "Callable[..., int]":
    """The code as a function of (table, count)."""
    address = syscalls.executable_memory(code)
    kind = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_long)
    return kind(address)
