"""
Whose turn it is: what is free, who waits for it, who has it from when to when.

The part of a pool in which nothing waits for an instance. What is done here is done at once, so
nobody ever sees half of it.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from saggar.errors import PlatformError
from saggar.sessions.pool_state import Allocation, Condition, Ledger, Member


@dataclass(slots=True, eq=False)
class Waiter:
    """Somebody who waits for an instance."""

    wants: Callable[[Member], bool]
    use: anyio.CancelScope | None
    """With it the instance is shared by all who use it; without, it is for this one alone."""
    came: anyio.Event = field(default_factory=anyio.Event)
    given: tuple[Member, Allocation] | None = None


class Turns:
    """The free instances of a pool, and those who wait for one."""

    def __init__(
        self, ledger: Ledger, clock: Callable[[], float], tend: Callable[[Member], None]
    ) -> None:
        self._ledger, self._clock, self._tend = ledger, clock, tend
        self.free: dict[Member, None] = {}
        """In the order in which they came free."""
        self.waiting: list[Waiter] = []

    async def turn(self, waiter: Waiter, *, ahead: bool = False) -> tuple[Member, Allocation]:
        """Wait until it is this one's turn."""
        # Nobody who came earlier can use what is free, or he would have it.
        member = next(filter(waiter.wants, self.free), None)
        if member is not None:
            self._give(member, waiter)
        else:
            self.waiting.insert(0 if ahead else len(self.waiting), waiter)
        try:
            if not waiter.came.is_set():
                await waiter.came.wait()
            if waiter.given is None:
                raise PlatformError("the pool's state could not be written")
        except BaseException:
            self._withdraw(waiter)
            raise
        return waiter.given

    def _withdraw(self, waiter: Waiter) -> None:
        """This one waits no longer; if it was given something just now, that goes back."""
        if waiter in self.waiting:
            self.waiting.remove(waiter)
        if waiter.given is None:
            return
        if waiter.use is None:
            self.take_back_unused(*waiter.given)
        else:
            self.leave(waiter.given[0], waiter.use)

    def offer(self, member: Member) -> None:
        """It came free: whose turn is it?"""
        self.free[member] = None
        waiter = next((one for one in self.waiting if one.wants(member)), None)
        if waiter is not None:
            self.waiting.remove(waiter)
            self._give(member, waiter)

    def _give(self, member: Member, waiter: Waiter) -> None:
        now = self._clock()
        allocation = Allocation(secrets.token_urlsafe(16), asked=waiter.use is None, since=now)
        sharing = [waiter]
        if waiter.use is not None:
            sharing += [one for one in self.waiting if one.use and one.wants(member)]
        try:
            self._ledger.note(member, allocation, dirty=True)
        except PlatformError:
            # They are told; the instance stays free, and is offered when somebody asks next.
            for one in sharing:
                one.came.set()
            return
        del self.free[member]
        member.allocation, member.dirty, member.used = allocation, True, now
        member.fresh = waiter.use is not None
        member.promise = anyio.Event() if waiter.use is None else None
        for one in sharing:
            if one in self.waiting:
                self.waiting.remove(one)
            if one.use is not None:
                member.uses.add(one.use)
            one.given = member, allocation
            one.came.set()

    def leave(self, member: Member, use: anyio.CancelScope) -> None:
        """A request has ended, or never began."""
        member.uses.discard(use)
        member.used = self._clock()
        if member.uses:
            return
        member.left.set()
        if member.fresh:
            self.take_back_unused(member, member.allocation)

    def take_back_unused(self, member: Member, given: Allocation | None) -> None:
        """Whoever was given it has gone before touching it: it is as clean as it was."""
        if given is None or member.allocation is not given:
            return
        member.allocation, member.fresh = None, False
        keep_promise(member)
        try:
            self._ledger.note(member, None, dirty=False)
        except PlatformError as exc:
            member.condition, member.why = Condition.OUT, str(exc)
            self._tend(member)
            return
        member.dirty = False
        if member.condition is Condition.READY:
            self.offer(member)


def keep_promise(member: Member) -> None:
    """Whoever it was promised to has it, or does not get it."""
    if member.promise is not None:
        member.promise.set()
        member.promise = None
