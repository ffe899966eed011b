"""Carry out an attack against a driver, and say what escaped."""

import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from saggar.errors import PrepareFailed, SandboxBroken
from saggar.model.environment import Environment, Mount
from saggar.model.event import Event, Output, fold
from saggar.model.limits import LIMIT_NAMES
from saggar.model.plan import Capabilities
from saggar.model.policy import Network, Policy, Rung
from saggar.model.program import Inline, Program
from saggar.model.result import Result
from saggar.model.task import Task
from saggar.platform import Platform
from saggar.testing.attacks.attack import LIMITS, Attack, Facts, Guest, Seen
from saggar.testing.attacks.checks import outside
from saggar.testing.attacks.program import program
from saggar.testing.attacks.scene import PATIENCE, Scene

if TYPE_CHECKING:
    from saggar.engine.session import Session

EARLIER = 4
"""Runs before an attack's own where it has a `first`: children are parked ahead, and what one run
leaves can only be found by a child that was parked after it."""
SLACK = 2.0
"""Seconds a run may take over its limits: starting, sweeping up, a busy machine."""
MOUNTS = "/srv"
"""Below it an attack finds the folders that are mounted for it, where it has a root of its own."""
WAITING = b"WAITING\n"
"""What a program prints that wants to be looked at, or to be there while another runs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen of one attack."""

    escaped: str | None
    """One sentence; None if the walls held."""
    result: Result[Any]
    facts: Facts


def unfair(attack: Attack, capabilities: Capabilities) -> str | None:
    """Why this attack says nothing about this driver here, if it does not."""
    if not capabilities.available or capabilities.rung is None:
        return "; ".join(capabilities.reasons) or f"{capabilities.driver} is not available"
    machine = os.uname().machine
    if machine not in attack.machines:
        return f"not for {machine}"
    if capabilities.rung < attack.stopped_from and not attack.shows:
        return f"stopped from {attack.stopped_from} on; {capabilities.rung} holds here"
    elsewhere = dict(attack.apart_from)
    if attack.network is Network.LOOPBACK:
        elsewhere[Rung.LANDLOCK] = "a loopback of its own takes a network namespace"
    if capabilities.rung in elsewhere:
        return elsewhere[capabilities.rung]
    missing = [name for name in sorted(attack.needs) if not capabilities.enforces(name)]
    if missing or not attack.counted:
        return "; ".join(f"{name}: {capabilities.why(name)}" for name in missing) or None
    looked = [
        name for name in sorted(attack.needs) if "cgroup" not in capabilities.limits[name].how
    ]
    return "; ".join(f"{name}: only {capabilities.limits[name].how}" for name in looked) or None


async def lacking(platform: Platform, attack: Attack) -> str | None:
    """What this attack needs and this user cannot have here: the layer that sessions see."""
    from saggar.sessions.opening import INTERPRETER

    if not attack.session:
        return None
    try:
        await platform.prepare(INTERPRETER)
    except PrepareFailed as exc:
        return f"no sessions: {str(exc).splitlines()[0]:.200}"
    return None


def expected_out(attack: Attack, capabilities: Capabilities) -> bool:
    """Whether there is no wall here that would stop it, so that it must be seen to get out."""
    return capabilities.rung is not None and capabilities.rung < attack.stopped_from


async def strike(platform: Platform, capabilities: Capabilities, attack: Attack) -> Outcome:
    """Run `attack` behind the walls of one driver and look at what came of it."""
    with Scene() as scene:
        return await _Strike(platform, capabilities, attack, scene).carry_out()


class _Strike:
    """One attack under way."""

    def __init__(
        self, platform: Platform, capabilities: Capabilities, attack: Attack, scene: Scene
    ) -> None:
        self._platform = platform
        self._attack = attack
        self._scene = scene
        self._driver = capabilities.driver
        self._rung = capabilities.rung or Rung.PROCESS
        self._policy = Policy(
            isolation=self._rung,
            limits=LIMITS.replace(**attack.limits),
            network=attack.network if self._rung > Rung.PROCESS else Network.HOST,
            best_effort=frozenset(n for n in LIMIT_NAMES if not capabilities.enforces(n)),
            mounts=(scene.shared, scene.fixed) if attack.mounts else (),
            shares=(scene.shared,) if attack.mounts else (),
        )
        self._environment = Environment(mounts=_mounts(scene) if attack.mounts else ())
        self._seen: tuple[Seen, ...] = ()
        self._effort = 0.0

    async def carry_out(self) -> Outcome:
        earlier = await self._earlier()
        async with self._beside():
            start, before = time.monotonic(), time.process_time()
            result = await self._run(self._task(self._attack.guest, self._attack.task))
            elapsed = time.monotonic() - start
            self._effort = time.process_time() - before
        survivors = await self._scene.survivors()
        facts = self._facts(elapsed, earlier, survivors)
        escaped = outside(result, facts) or self._attack.check(result, facts)
        return Outcome(escaped, result, facts)

    async def _earlier(self) -> tuple[Result[Any], ...]:
        if self._attack.first is None:
            return ()
        first = self._task(self._attack.first, {})
        return tuple([await self._run(first) for _ in range(EARLIER)])

    @asynccontextmanager
    async def _beside(self) -> AsyncIterator[None]:
        """With the neighbour under way, if the attack wants one."""
        if self._attack.beside is None:
            yield
            return
        async with anyio.create_task_group() as children:
            await children.start(self._neighbour, self._attack.beside)
            yield
            children.cancel_scope.cancel()

    async def _neighbour(
        self, guest: Guest, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """A run beside the attack's, which is under way once it prints that it waits."""
        said = b""
        async for event in self._events(self._task(guest, {})):
            if isinstance(event, Output) and WAITING not in said:
                said += event.data
                if WAITING in said:
                    task_status.started()

    async def _run(self, task: Task) -> Result[Any]:
        events: list[Event] = []
        said = b""
        async for event in self._events(task):
            events.append(event)
            if isinstance(event, Output) and len(said) < 4096:
                said += event.data
                if WAITING in said and not self._seen:
                    self._seen = self._scene.seen()
        return fold(events)

    def _events(self, task: Task) -> AsyncGenerator[Event]:
        if self._attack.session:
            return self._cell(task)
        return self._platform.events(task, policy=self._policy, driver=self._driver)

    async def _cell(self, task: Task) -> AsyncGenerator[Event]:
        """The attack as a cell; its session has to serve another one after it."""
        code = task.program.code
        session = await self._platform.open_session(
            "python", policy=self._policy, driver=self._driver, env=task.env
        )
        async with session:
            async with aclosing(session.events(getattr(code, "text", ""))) as events:
                async for event in events:
                    yield event
            if not any([await _answers(session) for _ in range(2)]):
                raise SandboxBroken("the session does not answer after the attack")

    def _task(self, guest: Guest, options: Mapping[str, Any]) -> Task:
        env = {"SAGGAR_SCENE": json.dumps(self._scene.described())}
        code = Program(code=Inline(text=program(guest)), environment=self._environment)
        return Task.of(Task(program=code, env=env).replace(**options))

    def _facts(
        self, elapsed: float, earlier: tuple[Result[Any], ...], survivors: tuple[str, ...]
    ) -> Facts:
        scene, limits = self._scene, self._policy.limits
        return Facts(
            rung=self._rung,
            secret=scene.secret,
            elapsed=elapsed,
            deadline=limits.wall + limits.grace + SLACK + PATIENCE,
            survivors=survivors,
            harm=scene.harm(),
            visits=scene.visits(),
            marks=scene.marks(),
            changes=scene.changes(),
            descriptors=scene.descriptors(),
            growth=scene.growth(),
            effort=self._effort,
            seen=self._seen,
            earlier=earlier,
        )


async def _answers(session: "Session") -> bool:
    """Whether it does; what an attack has left behind may be found out by the first one only."""
    result = await session.run("6 * 7", timeout=1)
    return bool(result.value == 42)


def _mounts(scene: Scene) -> tuple[Mount, ...]:
    return (
        Mount(source=scene.shared, target=f"{MOUNTS}/shared", read_only=False),
        Mount(source=scene.fixed, target=f"{MOUNTS}/fixed"),
    )
