"""
From decisions to a program: the assembler behind the system call filter.

A filter is written down as a value, tests that end in verdicts, so that it can be read, compared
and judged without running it. What comes out is the classic BPF that seccomp(2) takes. Knows no
system call and no policy.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

EQUALS: Final = 0x10
AT_LEAST: Final = 0x30
HAS_ANY: Final = 0x40
"""How a word may be compared with a value, unsigned."""

_LOAD, _JUMP, _JUMP_IF, _AND, _RETURN = 0x20, 0x05, 0x05, 0x54, 0x06
_WHOLE: Final = 0xFFFFFFFF
# A conditional jump reaches 255 instructions; two may still come between.
_NEAR: Final = 253
# No machine has a call beyond this number, whatever a guest may ask for.
_WALKED: Final = 512


class Word(NamedTuple):
    """32 bits of what the kernel tells a filter about a call, or some of them."""

    offset: int
    mask: int = _WHOLE


NUMBER: Final = Word(0)
ARCHITECTURE: Final = Word(4)


def argument(index: int, mask: int = _WHOLE) -> Word:
    """
    The lower half of an argument.

    Enough wherever the kernel itself looks at no more, which is so for int and unsigned int, and
    for the flags of clone(2).
    """
    return Word(16 + 8 * index, mask)


class If(NamedTuple):
    """One comparison, and what follows from it."""

    word: Word
    relation: int
    value: int
    yes: "Decision"
    no: "Decision"


Decision = int | If
"""A verdict, as the kernel spells it, or a test that leads to one."""


class Span(NamedTuple):
    """Call numbers from `first`, up to where the next span begins, that are decided alike."""

    first: int
    width: int
    decision: Decision

    @property
    def walked(self) -> int:
        """How many of them the kernel walks when a filter is loaded."""
        return max(1, min(self.first + self.width, _WALKED) - self.first)


def search(spans: Sequence[Span]) -> Decision:
    """
    A search tree over adjacent spans.

    Balanced by how many numbers each has, not by how many spans there are: when a filter is loaded
    the kernel walks it once for every call it has, and that walk is most of what it costs.
    """
    if len(spans) == 1:
        return spans[0].decision
    if len(spans) == 3 and spans[1].width == 1 and spans[0].decision == spans[2].decision:
        return If(NUMBER, EQUALS, spans[1].first, spans[1].decision, spans[0].decision)
    middle = _middle(spans)
    return If(NUMBER, AT_LEAST, spans[middle].first, search(spans[middle:]), search(spans[:middle]))


def _middle(spans: Sequence[Span]) -> int:
    """Where to cut so that both sides have about as many numbers."""
    below, best, least = 0, 1, _WHOLE
    total = sum(span.walked for span in spans)
    for index, span in enumerate(spans[:-1], 1):
        below += span.walked
        difference = abs(total - 2 * below)
        if difference < least:
            best, least = index, difference
    return best


def assemble(decision: Decision) -> bytes:
    """The program that comes to `decision`."""
    program = _Program()
    program.place(decision, None)
    return program.packed()


class _Program:
    """Written backwards: every jump goes forwards, so its targets must be there before it is."""

    def __init__(self) -> None:
        self._backwards: list[bytes] = []
        self._places: dict[tuple[Decision, bool], int] = {}

    def packed(self) -> bytes:
        return b"".join(reversed(self._backwards))

    def place(self, decision: Decision, loaded: Word | None) -> int:
        """Where `decision` begins, counted from the end, if the accumulator holds `loaded`."""
        ready = isinstance(decision, If) and decision.word == loaded
        place = self._places.get((decision, ready))
        if place is None:
            place = self._write_decision(decision, ready)
            self._places[decision, ready] = place
        return place

    def _write_decision(self, decision: Decision, ready: bool) -> int:  # noqa: FBT001
        if isinstance(decision, If):
            return self._write_test(decision, ready)
        return self._write(_RETURN, decision)

    def _write_test(self, test: If, ready: bool) -> int:  # noqa: FBT001
        no = self.place(test.no, test.word)
        yes = self._within_reach(self.place(test.yes, test.word), test.yes)
        no = self._within_reach(no, test.no)
        here = len(self._backwards)
        self._write(_JUMP_IF | test.relation, test.value, here - yes - 1, here - no - 1)
        if not ready:
            if test.word.mask != _WHOLE:
                self._write(_AND, test.word.mask)
            self._write(_LOAD, test.word.offset)
        return len(self._backwards) - 1

    def _within_reach(self, place: int, decision: Decision) -> int:
        """`place`, or somewhere nearer that comes to the same."""
        distance = len(self._backwards) - place - 1
        if distance <= _NEAR:
            return place
        if isinstance(decision, If):
            return self._write(_JUMP, distance)
        self._places[decision, False] = self._write(_RETURN, decision)
        return self._places[decision, False]

    def _write(self, code: int, value: int, yes: int = 0, no: int = 0) -> int:
        self._backwards.append(struct.pack("<HBBI", code, yes, no, value))
        return len(self._backwards) - 1
