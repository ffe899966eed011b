"""
The pool: which instances there are, who has which, and who is waiting for one.

It knows no HTTP and no sandbox; an instance is whatever can be restarted and asked whether it is
ready. Three laws: an instance has one holder at most; whoever gets one gets it clean, its restart
finished after the last holder; and each is at any time free, held, or being brought back, so none
is lost. Who waited longest is served first, among those who can use what came free.
"""

import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from saggar.errors import Conflict, NotFound, Overloaded, PlatformError, UsageError
from saggar.sessions.pool_state import Condition, InstanceDown, Ledger, Member
from saggar.sessions.pool_turns import Turns, Waiter, keep_promise

log = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 15.0


class NotAllocated(UsageError):
    """Nobody holds this container."""

    code = "not-allocated"


class UnknownType(UsageError):
    """No container is of this type."""

    code = "unknown-type"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a pool waits for what, in seconds."""

    allocation: float = 30
    """For an instance to come free."""
    idle: float = 1800
    """What is held by use only goes back when it was not used for this long."""
    idle_allocated: float = math.inf
    """The same for what was asked for."""
    check: float = 15
    """Between two questions to a free instance whether it is still ready."""
    retry: float = 0.1
    """After which one that is out is asked again; twice as long each time, up to 15 seconds."""


@dataclass(frozen=True, slots=True)
class Census:
    """How many of them are where."""

    free: Sequence[Member]
    held: Sequence[Member]
    away: Sequence[Member]
    """Neither: they are being brought back."""


class Pool:
    """Instances to be had, as long as the block lasts."""

    def __init__(
        self,
        members: Iterable[Member],
        ledger: Ledger,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._members = {member.name: member for member in members}
        self._ledger = ledger
        self._clock = clock
        self.patience = patience or Patience()
        self._turns = Turns(ledger, clock, self._tend)
        self._tasks: TaskGroup

    async def __aenter__(self) -> Self:
        self._recall()
        self._tasks = await anyio.create_task_group().__aenter__()
        for member in self._members.values():
            self._tend(member)
        self._tasks.start_soon(self._every, self.patience.check, self.check)
        self._tasks.start_soon(self._every, min(max(self.patience.idle / 4, 0.1), 15), self.reap)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(kind, value, trace)

    # What one may ask

    def find(self, name: str) -> Member:
        """The instance of that name, or NotFound."""
        if member := self._members.get(name):
            return member
        raise NotFound(f"Container {name} not found")

    def types(self) -> list[str]:
        """The types there are."""
        return sorted({member.type for member in self._members.values()})

    def census(self) -> Census:
        """Where each of them stands now."""
        everyone = self._members.values()
        held = [member for member in everyone if member.allocation]
        away = [m for m in everyone if not m.allocation and m.condition is not Condition.READY]
        return Census(list(self._turns.free), held, away)

    async def allocate(self, kind: str = "", wait: float | None = None) -> Member:
        """
        An instance for the caller alone, ready and clean; of any type, or of one.

        Raises:
            UnknownType: None is of that type.
            Overloaded: None came free in time.
        """
        if kind and kind not in self.types():
            raise UnknownType(f"no container type {kind!r}; there are: {', '.join(self.types())}")
        patience = self.patience.allocation if wait is None else wait
        try:
            return await self._answering(
                lambda member: kind in ("", member.type), anyio.current_time() + patience
            )
        except TimeoutError:
            raise Overloaded(f"No {f'{kind} ' if kind else ''}containers available", 1) from None

    @asynccontextmanager
    async def use(self, name: str, token: str = "") -> AsyncIterator[Member]:
        """
        An instance for the length of one request; one that is free becomes held by that.

        Raises:
            NotFound: There is no such instance.
            InstanceDown: It is out.
            Conflict: `token` is not its holder's, or it was taken back meanwhile.
            Overloaded: It did not come free in time.
        """
        member, scope = self.find(name), anyio.CancelScope()
        while member.promise is not None:
            # It is being asked whether it is ready, for somebody who must get it untouched.
            await member.promise.wait()
        _check(member, token)
        if first := member.allocation is None:
            await self._first_use(member, scope)
        member.uses.add(scope)
        try:
            with scope:
                if scope.cancel_called:
                    # Taken back between the grant and now: nothing of ours may reach it any more.
                    await anyio.lowlevel.checkpoint()
                member.fresh, member.used = False, self._clock()
                yield member
        except InstanceDown:
            # Nobody came to have it by that.
            if first and member.allocation and not member.allocation.asked:
                self.release(name)
            raise
        finally:
            self._turns.leave(member, scope)
        if scope.cancelled_caught:
            raise Conflict(f"Container {name} was deallocated while this ran")

    def release(self, name: str, token: str = "") -> Member:
        """
        Take an instance back: what runs in it is cancelled, and it is restarted before the next
        holder gets it. Its `verdict` is set when that is done, or has failed once.

        Raises:
            NotAllocated: Nobody has it.
            Conflict: `token` is not its holder's.
        """
        member = self.find(name)
        _check(member, token)
        if member.allocation is None:
            raise NotAllocated(f"Container {name} is not allocated")
        self._ledger.note(member, None, dirty=True)
        self._retire(member)
        return member

    @asynccontextmanager
    async def restarting(self, name: str) -> AsyncIterator[Member]:
        """
        In this block a restart may be asked of an instance. One that is free is given to nobody
        until it has come back.
        """
        member = self.find(name)
        if not member.free:
            yield member
            return
        del self._turns.free[member]
        member.condition, member.verdict = Condition.RETURNING, anyio.Event()
        try:
            yield member
            member.restarted = True
        except InstanceDown as exc:
            member.condition, member.why = Condition.OUT, str(exc)
            raise
        except BaseException:
            # Whoever asked has gone, and it may be restarted at any time now: so it is, by us.
            member.dirty = True
            raise
        finally:
            self._tend(member)

    async def restart_all(self) -> Sequence[Member]:
        """Take back all that are held; which those were, once each has come back or is out."""
        held = [member for member in self._members.values() if member.allocation]
        for member in held:
            self.release(member.name)
        for member in held:
            await member.verdict.wait()
        return held

    def lost(self, member: Member, why: str) -> None:
        """It did not answer: nobody gets it until it does. Whoever holds it keeps it."""
        if member.condition is Condition.READY:
            self._turns.free.pop(member, None)
            member.condition, member.why = Condition.OUT, why
            self._tend(member)

    async def check(self) -> None:
        """Ask every free instance whether it still is ready."""
        async with anyio.create_task_group() as asking:
            for member in list(self._turns.free):
                asking.start_soon(self._ask, member)

    async def reap(self) -> None:
        """Take back what nobody has used for too long."""
        now = self._clock()
        for member in self._members.values():
            if member.allocation is None or member.uses:
                continue
            asked = member.allocation.asked
            if now - member.used > (self.patience.idle_allocated if asked else self.patience.idle):
                self.release(member.name)

    # Who gets what

    async def _answering(self, wants: Callable[[Member], bool], deadline: float) -> Member:
        """The first such instance that proves to be ready."""
        ahead = False
        while True:
            # Who got one that was dead did not get any: back to the head of the queue.
            with _until(deadline):
                member, given = await self._turns.turn(Waiter(wants, use=None), ahead=ahead)
            ahead = True
            try:
                await member.instance.ready()
                if member.allocation is given:
                    keep_promise(member)
                    return member
                # Taken back from us meanwhile, as all were.
            except InstanceDown as exc:
                self.lost(member, str(exc))
                self._turns.take_back_unused(member, given)
            except BaseException:
                self._turns.take_back_unused(member, given)
                raise

    async def _first_use(self, member: Member, scope: anyio.CancelScope) -> None:
        """Hold a free instance because somebody uses it; whoever else comes shares it."""
        if member.condition is Condition.OUT:
            raise InstanceDown(f"Container {member.name} is not available: {member.why}")
        try:
            with _until(anyio.current_time() + self.patience.allocation):
                await self._turns.turn(Waiter(lambda other: other is member, scope))
        except TimeoutError:
            raise Overloaded(f"Container {member.name} is not available yet", 1) from None

    # What becomes of those that are not free

    def _recall(self) -> None:
        """Take up what the file says; what it does not know is taken for unclean."""
        known, now = self._ledger.recall(), self._clock()
        self._ledger.forget(known.keys() - self._members.keys())
        for name, member in self._members.items():
            entry = known.get(name)
            if entry and (entry.type, entry.place) == (member.type, member.place):
                member.allocation, member.dirty, member.used = entry.allocation, entry.dirty, now

    def _retire(self, member: Member) -> None:
        """Nobody has it any more: end what runs in it, and bring it back clean."""
        member.allocation, member.condition = None, Condition.RETURNING
        member.fresh, member.verdict = False, anyio.Event()
        keep_promise(member)
        for use in member.uses:
            use.cancel()
        self._tend(member)

    def _tend(self, member: Member) -> None:
        if not member.tended:
            member.tended = True
            self._tasks.start_soon(self._bring_back, member)

    async def _bring_back(self, member: Member) -> None:
        """Until it is ready again, and clean if nobody holds it."""
        pauses = _pauses(self.patience.retry)
        try:
            while not await self._brought_back(member):
                if member.condition is Condition.OUT:
                    await anyio.sleep(next(pauses))
        finally:
            member.tended = False
        member.condition, member.why = Condition.READY, ""
        member.verdict.set()
        if member.allocation is None:
            self._turns.offer(member)

    async def _brought_back(self, member: Member) -> bool:
        """Try once."""
        # What a holder has in it is his, even while it does not answer.
        clean = member.allocation is None and (member.dirty or member.restarted)
        try:
            if clean:
                await self._cleaned(member)
            else:
                await member.instance.ready()
        except PlatformError as exc:
            member.condition, member.why = Condition.OUT, str(exc)
            member.verdict.set()
            return False
        # It may have been released while we asked.
        return member.allocation is not None or not member.dirty

    async def _cleaned(self, member: Member) -> None:
        """Nothing runs in it any more, and nothing is left of what ran."""
        while member.uses:  # cancelled, and about to end
            member.left = anyio.Event()
            await member.left.wait()
        restarted, member.restarted = member.restarted, False
        if not restarted:
            await member.instance.restart()
        await member.instance.settled()
        self._ledger.note(member, None, dirty=False)
        member.dirty = False

    async def _ask(self, member: Member) -> None:
        try:
            await member.instance.ready()
        except InstanceDown as exc:
            self.lost(member, str(exc))

    async def _every(self, pause: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await anyio.sleep(pause)
            try:
                await action()
            except PlatformError as exc:
                # The state could not be written; next time it may be.
                log.warning("pool.%s: %s", action.__name__, exc)


@contextmanager
def _until(deadline: float) -> Iterator[None]:
    """TimeoutError once that time has come; what is there at once is had even after it."""
    with anyio.CancelScope(deadline=deadline) as scope:
        yield
    if scope.cancelled_caught:
        raise TimeoutError


def _check(member: Member, token: str) -> None:
    held = member.allocation
    if token and (held is None or not secrets.compare_digest(token, held.token)):
        raise Conflict(f"Container {member.name} is no longer held under that allocation")


def _pauses(pause: float) -> Iterator[float]:
    """Twice as long each time; without end, as nothing else would bring it back."""
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE)
