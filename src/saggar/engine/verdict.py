"""
The verdict: from what was seen of a run to one `Status`.

Pure on purpose. Every limit has its own trace (a signal, a counter, a clock) and
several can be true at once; the order of the rules below is the whole decision.
"""

from dataclasses import dataclass
from signal import Signals

from saggar.model.result import Status


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What is known at the end of a run, once every process of it is dead.

    All of it is seen from outside, except `answered` and what is `claimed`: these came over
    the channel, and whoever runs inside can write there.
    """

    cancelled: bool = False
    """The caller gave up."""
    ready: bool = False
    """The walls stood and the program was about to start."""
    broken: str | None = None
    """What failed on our side. Never what a guest wrote: it must not be able to cause a fault."""
    wall_spent: bool = False
    """The soft or the hard deadline passed before the end."""
    cpu_spent: bool = False
    """The processor time measured outside reached its limit."""
    oom_kills: int = 0
    """How many processes of the tree the kernel killed for memory."""
    memory_spent: bool = False
    """The watchdog killed the tree for memory, where no cgroup does."""
    output_spent: bool = False
    """We killed the tree because it wrote too much."""
    killed_by_us: bool = False
    """We sent SIGKILL, for whichever reason."""
    exit_code: int | None = None
    """How the first process exited, as waitid said."""
    signal: int | None = None
    """What ended the first process, as waitid said; None if it had answered before we killed it."""
    answered: bool = False
    """A done frame came."""
    claimed_exit: int | None = None
    """The exit code in the done frame."""
    claimed_error: bool = False
    """An error frame came: an exception nobody caught."""
    refused_forks: int = 0
    """How many forks the pids cgroup refused."""
    disk_full: bool = False
    """The writable space had no free block or inode left at the end, or the guest met ENOSPC."""
    sigxfsz: bool = False
    """A process of the tree was signalled for writing a file past its limit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended: the part of a result that is decided rather than copied."""

    status: Status
    limit: str | None
    exit_code: int | None
    signal: str | None


def judge(facts: Facts) -> Verdict:
    """The one status these facts amount to. Total: every combination has a verdict."""
    status, limit = _decide(facts)
    return Verdict(status, limit, _exit_code(facts), _signal_name(facts.signal))


def _decide(facts: Facts) -> tuple[Status, str | None]:  # noqa: PLR0911 (a table, read downwards)
    # A caller who gave up does not care what else was going wrong.
    if facts.cancelled:
        return Status.CANCELLED, None
    # Before `ready` no line of the guest's has run, so nothing below can be its doing.
    if facts.broken is not None or not facts.ready:
        return Status.FAULT, None
    # Time before memory: a tree that swaps against its limit is slow because of it, but the
    # deadline is what the caller asked for. Wall before cpu: both are spent by a busy loop.
    if facts.wall_spent:
        return Status.TIMEOUT, "wall"
    # RLIMIT_CPU speaks SIGXCPU first and SIGKILL later; that SIGKILL looks like anybody's, so
    # there only the clock read from outside counts.
    if facts.cpu_spent or facts.signal == Signals.SIGXCPU:
        return Status.TIMEOUT, "cpu"
    # One kill anywhere in the tree is enough, even if the first process survived it: what it
    # would have said is not what it says now.
    if facts.oom_kills or facts.memory_spent:
        return Status.MEMORY, "memory"
    if facts.output_spent:
        return Status.OUTPUT, "output"
    if _killed_by_a_stranger(facts):
        return Status.KILLED, None
    # Refused things are errors even when the program went on and exited with zero: it ran in
    # a smaller world than it asked for, and whoever reads the result should know.
    if limit := _refused(facts):
        return Status.ERROR, limit
    return (Status.OK if _went_well(facts) else Status.ERROR), None


def _killed_by_a_stranger(facts: Facts) -> bool:
    """Whether a signal that is neither ours nor a limit's ended the first process."""
    # Ours is SIGKILL only; a crash a moment before our kill is still a crash.
    ours = facts.killed_by_us and facts.signal == Signals.SIGKILL
    return facts.signal not in {None, Signals.SIGXFSZ} and not ours


def _refused(facts: Facts) -> str | None:
    """The limit that refused the program something without ending it."""
    if facts.refused_forks:
        return "processes"
    if facts.disk_full:
        return "disk"
    if facts.sigxfsz or facts.signal == Signals.SIGXFSZ:
        return "file_size"
    return None


def _went_well(facts: Facts) -> bool:
    # No exit code at all means that we killed a tree which never said how it ended (a guest
    # that broke its channel, say). An error, not a fault: faults are retried, and a guest
    # must not be able to ask for that.
    return not facts.claimed_error and _exit_code(facts) == 0


def _exit_code(facts: Facts) -> int | None:
    """What waitid said, or what the runner claimed where that is worse or all there is."""
    if facts.exit_code or facts.claimed_exit is None or not facts.answered:
        return facts.exit_code
    return facts.exit_code if facts.signal is not None else facts.claimed_exit


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return Signals(number).name
    except ValueError:
        # Real-time signals have numbers but, except the first and the last, no names.
        return f"SIG{number}"
