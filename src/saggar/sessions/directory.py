"""
The directory: every live sandbox and session of this process by its id, until its time is over.

One task holds each sandbox, from the claim to the burial, and one reaper ends what is idle or old.
Activity is an execution, and nothing else: who only looks keeps nothing alive.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup, TaskStatus

from saggar.drivers.base import Process
from saggar.engine.instance import Instance
from saggar.engine.interpreter import Starter
from saggar.engine.sandbox import Sandbox
from saggar.engine.session import Log, Opener, Preload, Session
from saggar.errors import NotFound, Overloaded, SaggarError
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.sessions.table import Row, Table

LOOK = 0.5
"""Seconds between two looks at who is idle or too old."""
AGAIN = 1.0
"""Seconds after which a caller that was refused may ask again."""
Claimed = Callable[[], AbstractAsyncContextManager[Process]]
Clock = Callable[[], float]
Placed = Sequence[tuple[str, bytes, int]]


@dataclass(frozen=True, slots=True)
class Caps:
    """How many may live at once, and how long."""

    all: int = 256
    each: int = 256
    """Of one owner."""
    idle: float = 1800.0
    """Seconds without an execution after which a session ends."""
    age: float = 86400.0
    """Seconds after which it ends in any case."""


@dataclass(frozen=True, slots=True)
class Life:
    """How long one session may live."""

    idle: float
    age: float


class Directory:
    """What lives in this process."""

    def __init__(
        self, tasks: TaskGroup, caps: Caps, table: Table, clock: Clock = time.time
    ) -> None:
        self._tasks = tasks
        self._caps, self._table, self._clock = caps, table, clock
        self._sandboxes: dict[str, Sandbox] = {}
        self._sessions: dict[str, tuple[Session, Life]] = {}
        self._instances: dict[str, tuple[Instance, Life]] = {}
        self._coming: list[str] = []
        """The owners of those that are being opened."""
        self._reaping = self._reachable = False

    def sandboxes(self) -> tuple[Sandbox, ...]:
        """Every live sandbox, those of sessions included."""
        return tuple(self._sandboxes.values())

    def sessions(self) -> tuple[Session, ...]:
        """Every session."""
        return tuple(session for session, _ in self._sessions.values())

    def sandbox(self, name: str) -> Sandbox:
        """The one of this id. NotFound if there is none, which says nothing of others."""
        if name not in self._sandboxes:
            raise NotFound("no live sandbox has this id; its time may be over")
        return self._sandboxes[name]

    def session(self, name: str) -> Session:
        """The one of this id. NotFound if there is none, which says nothing of others."""
        if name not in self._sessions:
            raise NotFound("no session has this id; its time may be over")
        return self._sessions[name][0]

    def instance(self, name: str) -> Instance:
        """The one of this id. NotFound if there is none, which says nothing of others."""
        if name not in self._instances:
            raise NotFound("no instance has this id; its time may be over")
        return self._instances[name][0]

    def keep(self, instance: Instance, idle: float | None, max_age: float | None) -> None:
        """Hold an instance until it is closed, or its time is over."""
        self._instances[instance.id] = instance, self._life(idle, max_age)

        def again() -> None:
            if instance.id not in self._instances:
                self.keep(instance, idle, max_age)

        instance.kept = again
        driver, since = instance.sandbox.driver, instance.created
        self._table.add(Row(instance.id, "instance", driver, instance.owner, since))

    def _life(self, idle: float | None, max_age: float | None) -> Life:
        return Life(
            self._caps.idle if idle is None else idle,
            self._caps.age if max_age is None else max_age,
        )

    async def open_sandbox(  # noqa: PLR0913 - what one is opened with
        self,
        claimed: Claimed,
        limits: Limits,
        *,
        driver: str,
        ttl: float | None = None,
        owner: str = "",
        files: Placed = (),
        env: Mapping[str, str] | None = None,
    ) -> Sandbox:
        """
        A live sandbox in a child that `claimed` gives.

        Raises:
            Overloaded: As many live already as may, of this owner or in all.
            SaggarError: It could not be had.
        """
        async with self._room(owner):
            found = await self._tasks.start(
                self._hold, claimed, limits, driver, ttl, owner, files, env or {}
            )
        if isinstance(found, SaggarError):
            raise found
        sandbox: Sandbox = found
        return sandbox

    @asynccontextmanager
    async def _room(self, owner: str) -> AsyncIterator[None]:
        owners = [sandbox.owner for sandbox in self._sandboxes.values()] + self._coming
        if len(owners) >= self._caps.all:
            raise Overloaded(
                f"{len(owners)} sandboxes live here, which is the most;{self._hint()}", AGAIN
            )
        if owners.count(owner) >= self._caps.each:
            raise Overloaded(
                f"{owners.count(owner)} sandboxes of {owner or 'nobody in particular'!r} live here,"
                f" which is the most for one owner;{self._hint(owner)}",
                AGAIN,
            )
        self._coming.append(owner)
        try:
            yield
        finally:
            self._coming.remove(owner)

    def _hint(self, owner: str | None = None) -> str:
        """Which one was not used for the longest time: whose end would cost least."""
        known = [s for s in self.sessions() if owner is None or s.owner == owner]
        if not known:
            return " close one first"
        oldest = min(known, key=lambda session: session.used)
        idle = max(0.0, self._clock() - oldest.used)
        return f" close one first (the one unused for longest: {oldest.id[:6]}..., {idle:.0f} s)"

    async def _hold(  # noqa: PLR0913, PLR0917 - as above
        self,
        claimed: Claimed,
        limits: Limits,
        driver: str,
        ttl: float | None,
        owner: str,
        files: Placed,
        env: Mapping[str, str],
        *,
        task_status: TaskStatus[Sandbox | SaggarError],
    ) -> None:
        """A sandbox's whole life. What goes wrong before it stands is the caller's to raise."""
        sandbox: Sandbox | None = None
        told = False
        try:
            async with claimed() as process:
                sandbox = Sandbox(process, limits, driver=driver, ttl=ttl, owner=owner)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(sandbox.live)
                    try:
                        await sandbox.stand(files, env)
                    except SaggarError as exc:
                        told = True
                        task_status.started(exc)
                        sandbox.closing.set()
                    else:
                        self._enter(sandbox)
                        told = True
                        task_status.started(sandbox)
        except (SaggarError, OSError) as exc:
            if not told:
                task_status.started(_ours(exc))
        finally:
            if sandbox is not None:
                self._leave(sandbox)
                sandbox.bury()

    def _enter(self, sandbox: Sandbox) -> None:
        self._sandboxes[sandbox.id] = sandbox
        self._table.add(Row(sandbox.id, "sandbox", sandbox.driver, sandbox.owner, sandbox.created))
        if not self._reaping:
            self._reaping = True
            self._tasks.start_soon(self._reap)
        if not self._reachable:
            from saggar.sessions import control

            self._reachable = True
            self._tasks.start_soon(control.serve, self, self._table)

    def _leave(self, sandbox: Sandbox) -> None:
        if self._sandboxes.pop(sandbox.id, None) is not None:
            self._table.remove(sandbox.id)
        for instance, _ in self._instances.values():
            if instance.sandbox is sandbox:
                instance.bury()

    async def open_session(  # noqa: PLR0913 - what one is opened with
        self,
        opener: Opener,
        start: Starter,
        policy: Policy,
        *,
        language: str,
        timeout: float,  # noqa: ASYNC109 - of each execution
        preload: Preload,
        log: Log | None,
        owner: str,
        idle: float | None,
        max_age: float | None,
        engine: str = "shell",
    ) -> Session:
        """A session in a sandbox that `opener` opens. SaggarError if it does not stand."""
        session = Session(
            opener,
            self._tasks,
            start,
            policy=policy,
            language=language,
            timeout=timeout,
            preload=preload,
            log=log,
            owner=owner,
        )
        try:
            await session.open()
        except BaseException:
            if hasattr(session, "sandbox"):
                with anyio.CancelScope(shield=True):
                    await session.close()
            raise
        self._sessions[session.id] = session, self._life(idle, max_age)
        driver, since = session.sandbox.driver, session.created
        self._table.add(Row(session.id, "session", driver, owner, since, language, engine))
        return session

    async def _reap(self) -> None:
        """End who is idle, or too old; forget who was closed."""
        while self._sandboxes or self._coming:
            await anyio.sleep(LOOK)
            for name, (instance, life) in list(self._instances.items()):
                if instance.closed or (why := self._over(instance, life)):
                    del self._instances[name]
                    self._table.remove(name, "instance")
                    if not instance.closed:
                        self._tasks.start_soon(instance.close, why)
            for name, (session, life) in list(self._sessions.items()):
                if session.closed:
                    self._forget(name)
                elif self._over(session, life):
                    self._forget(name)
                    self._tasks.start_soon(session.close)
        for name in [n for n, (session, _) in self._sessions.items() if session.closed]:
            self._forget(name)
        self._reaping = False

    def _forget(self, name: str) -> None:
        del self._sessions[name]
        self._table.remove(name, "session")

    async def part(self) -> None:
        """End every instance, all at once: its own end first, for as long as its grace lasts."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for instance, _ in self._instances.values():
                    tasks.start_soon(instance.close)

    def close(self) -> None:
        """Bury who is left, when every task has ended."""
        for session, _ in self._sessions.values():
            session.bury()
        self._sessions.clear()
        for instance, _ in self._instances.values():
            instance.bury()
            instance.closed = True
        self._instances.clear()

    def _over(self, session: Session | Instance, life: Life) -> str:
        """Why its time is over; empty while it is not."""
        now = self._clock()
        if now - session.created > life.age:
            return f"it had been there for max_age={life.age:g} seconds"
        if not session.busy and now - session.used > life.idle:
            return f"nobody had called it for idle={life.idle:g} seconds"
        return ""


def _ours(exc: Exception) -> SaggarError:
    from saggar.errors import PlatformError

    if isinstance(exc, SaggarError):
        return exc
    return PlatformError(f"this machine has no room for a sandbox now: {exc}")
