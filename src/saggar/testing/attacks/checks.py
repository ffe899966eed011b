"""
What must be seen of an attack: pure functions from a result and facts to a complaint, or None.

`outside` holds for every attack whatsoever; the others say what is special about one.
"""

import re
from collections.abc import Iterator
from typing import Any

from saggar.model.quantity import MiB, format_bytes
from saggar.model.result import Result, Status
from saggar.testing.attacks.attack import Check, Facts

ROOM = 64 * MiB
"""What the host may need for any one run, its output included."""

SPARE = 300
"""How many descriptors the host may open in between, for more parked children say."""


def outside(result: Result[Any], facts: Facts) -> str | None:
    """Nothing of the host's came out, nothing on the host changed, nothing was left behind."""
    return next(_complaints(result, facts), None)


def _complaints(result: Result[Any], facts: Facts) -> Iterator[str]:
    if any(facts.secret.encode() in words for words in _words(result)):
        yield "a secret of the host is in the result"
    if result.status is Status.FAULT:
        yield "the guest brought about a fault of ours"
    for what, found in (
        ("left alive", facts.survivors),
        ("done to a bystander", facts.harm),
        ("heard by the host", facts.visits),
        ("written on the host", facts.marks),
        ("changed on the host", facts.changes),
    ):
        if found:
            yield f"{what}: {', '.join(found)}"
    if facts.elapsed > facts.deadline:
        yield f"the run was back after {facts.elapsed:.1f} s, not within {facts.deadline:.1f} s"
    if facts.descriptors > SPARE:
        yield f"the host's process has {facts.descriptors} descriptors more than before"
    if facts.growth > ROOM:
        yield f"the host's process grew by {format_bytes(facts.growth)}"


def _words(result: Result[Any]) -> Iterator[bytes]:
    """Everything in a result that the guest had a say in, as bytes."""
    yield result.stdout_bytes
    yield result.stderr_bytes
    yield repr((result.value, result.displays, result.error, result.files_skipped)).encode()
    for file in result.files:
        yield file.path.encode(errors="surrogateescape") + file.content


def held(result: Result[Any], facts: Facts) -> str | None:
    """Every try was made and refused, and the program ended by itself."""
    return _escapes(result, facts) or _broke_off(result) or exits(Status.OK)(result, facts)


def tried(result: Result[Any], facts: Facts) -> str | None:
    """Every try that was made was refused; how the program ended is its own affair."""
    return _escapes(result, facts) or _broke_off(result)


def survived(result: Result[Any], facts: Facts) -> str | None:
    """Nothing was got away with, however it ended."""
    return _escapes(result, facts)


def _escapes(result: Result[Any], facts: Facts) -> str | None:
    runs = [*facts.earlier, result]
    claims = [re.findall(rb"^ESCAPED (.*)$", run.stdout_bytes, re.MULTILINE) for run in runs]
    found = [claim.decode(errors="replace") for claimed in claims for claim in claimed]
    return "; ".join(found[:3]) or None


def _broke_off(result: Result[Any]) -> str | None:
    """An attack that did not make its tries shows nothing about the walls."""
    if re.search(rb"^TRIED [1-9]", result.stdout_bytes, re.MULTILINE):
        return None
    last = (result.stderr or result.stdout)[-400:]
    return f"the attack itself broke off ({result.status}, {result.exit_code}): {last}"


def exits(
    *statuses: Status,
    limit: str | None = None,
    code: int | None = None,
    signal: str | None = None,
) -> Check:
    """It ended in one of these ways; what is None does not matter."""

    def check(result: Result[Any], _: Facts) -> str | None:
        if result.status not in statuses:
            return f"ended as {_ending(result)}, not as {' or '.join(statuses)}"
        for name, wanted, found in (
            ("limit", limit, result.limit),
            ("exit code", code, result.exit_code),
            ("signal", signal, result.signal),
        ):
            if wanted not in (None, found):
                return f"ended with {name} {found}, not {wanted}: {_ending(result)}"
        return None

    return check


def _ending(result: Result[Any]) -> str:
    said = result.error.message if result.error else result.stderr[-200:]
    return f"{result.status} (limit {result.limit}, code {result.exit_code}): {said}".strip()


def every(*checks: Check) -> Check:
    """All of them."""

    def check(result: Result[Any], facts: Facts) -> str | None:
        return next((said for one in checks if (said := one(result, facts))), None)

    return check


def either(*checks: Check) -> Check:
    """One of them is enough; the first complaint is told."""

    def check(result: Result[Any], facts: Facts) -> str | None:
        said = [one(result, facts) for one in checks]
        return None if None in said else said[0]

    return check


def within_memory(limit: int, watchdog: int = 96 * MiB) -> Check:
    """The tree's peak stayed near its limit; `watchdog` is what may be taken between two looks."""

    def check(result: Result[Any], _: Facts) -> str | None:
        peak = result.usage.memory
        if peak is None or peak <= limit + watchdog:
            return None
        return f"{format_bytes(peak)} were in use, where {format_bytes(limit)} were allowed"

    return check


def starved(limit: int) -> Check:
    """Memory ended it: the kernel's kill, the watchdog's, or a refusal it could not live with."""

    def refused(result: Result[Any], _: Facts) -> str | None:
        kind = result.error.type if result.error else ""
        return None if kind in ("MemoryError", "OSError") else f"ended as {_ending(result)}"

    killed = exits(Status.MEMORY, limit="memory")
    return every(survived, within_memory(limit), either(killed, refused))
