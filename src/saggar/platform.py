"""
The platform: where rooms are put together, and the way in for every door.

Asynchronous at its core. `saggar.run` is the same thing for code that is not: one platform per
process, on a thread of its own.
"""

import atexit
import os
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal
from pydantic import ValidationError

from saggar import registry
from saggar.config import Settings, cache_dir
from saggar.drivers.base import Driver, Process
from saggar.drivers.interpreter import find
from saggar.engine import oneshot
from saggar.engine.warm import Warm
from saggar.errors import (
    InvalidTask,
    NotFound,
    PlatformError,
    PolicyDenied,
    SandboxBroken,
    UsageError,
)
from saggar.model.environment import Environment
from saggar.model.event import Event, Finished, Started, afold
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.plan import Capabilities, Layer, Plan, WarmKey
from saggar.model.policy import Policy
from saggar.model.program import Code, Command, Program
from saggar.model.result import Result, Status
from saggar.model.task import File, Task

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from saggar.engine.build import Site
    from saggar.environments.store import Store

CLOSED = Policy()
BARE = Environment()
TRIES = 3
"""For a run whose child dies before it has begun: its server was killed a moment ago, say."""


class TaskOptions(TypedDict, total=False):
    """What can be said about a task beside its code; see `saggar.Task`."""

    language: str
    entry: str | None
    input: object
    args: Iterable[str]
    env: Mapping[str, str] | None
    files: Mapping[str, bytes | str] | Iterable[File]
    collect: str | Iterable[str]
    stdin: bytes | str
    packages: str | Iterable[str]
    environment: Environment | None
    want_value: bool


class Where(TypedDict, total=False):
    """What can be said about where a task runs."""

    policy: Policy | None
    limits: Limits | Mapping[str, Any] | None
    driver: str | None


class RunOptions(TaskOptions, Where):
    """Everything that `run` can be told."""


class Platform:
    """
    Runs tasks on this machine, and keeps what makes that fast.

        async with saggar.Platform() as platform:
            result = await platform.run("print(6 * 7)")
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._stack = AsyncExitStack()
        self._store: Store | None = None
        self._drivers: dict[str, Driver] = {}
        self._warm: dict[str, Warm] = {}
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._stack.callback(self._close_drivers)
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(tasks.cancel_scope.cancel)
        self._tasks = tasks
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._tasks = None
        await self._stack.aclose()

    async def run(
        self, code: str | bytes | Code | Program | Task, **options: Unpack[RunOptions]
    ) -> Result[Any]:
        """
        Run `code` in a fresh sandbox and wait for its end.

        Args:
            code: Source text, a `Program`, or a whole `Task`; what is said beside it goes first.
            options: Those of `saggar.Task`, and `policy`, `limits`, `driver`.

        Returns:
            What came of it. A program that fails is a result like any other.

        Raises:
            UsageError: The task is not well formed, asks for what the policy denies, or names what
                does not exist.
            PlatformError: We could not do our part.
        """
        async with aclosing(self.events(code, **options)) as events:
            return await afold(events)

    async def events(
        self, code: str | bytes | Code | Program | Task, **options: Unpack[RunOptions]
    ) -> AsyncGenerator[Event]:
        """What happens during a run, as it happens; `run` is its sum, and raises the same."""
        _refuse_unknown(options)
        where = {name: options.pop(name, None) for name in Where.__annotations__}  # type: ignore[misc]
        task = _task(code, options)
        policy = self._policy(where["policy"], where["limits"])
        policy.admit(task)
        self._admit_preload(task.program.environment)
        plan = registry.language(_language(task))().plan(task, policy.limits)
        name = where["driver"] or self.settings.driver
        try:
            async with aclosing(self._steps(name, policy, task, plan)) as events:
                async for event in events:
                    yield event
        except OSError as exc:  # no descriptors, no memory: ours to lack, not the guest's doing
            raise PlatformError(f"this machine has no room for a run now: {exc}") from exc

    async def _steps(
        self, driver: str, policy: Policy, task: Task, plan: Plan
    ) -> AsyncGenerator[Event]:
        """What a plan needs is found and made; then it is executed."""
        warm = await self._warm_of(driver)
        environment = _imaged(task.program.environment, self._driver(driver), plan)
        layers = await self._layers(environment)
        key = _key(environment, policy)
        if plan.runtime is not None:
            from saggar.engine import build

            ready = None
            site = self._site(driver, warm, environment, policy)
            async with aclosing(build.prepared(plan, site)) as steps:
                async for step in steps:
                    if isinstance(step, build.Ready):
                        ready = step
                    else:
                        yield step
            if ready is None:
                return  # it does not compile, and the events have said so
            plan, layers = ready.plan, (*layers, *ready.layers)
            key = _layered(key, ready.layers)
        events = self._tries(warm, key, policy, layers, task, plan)
        if plan.answers:
            from saggar.engine.answer import answered
            from saggar.model.protocol import LARGEST

            events = answered(events, min(policy.limits.output, LARGEST))
        async with aclosing(events):
            async for event in events:
                yield event

    def _site(self, driver: str, warm: Warm, environment: Environment, policy: Policy) -> "Site":
        """Where a compiler runs: as the program will, with nothing of what is only the task's."""
        from saggar.engine import build

        def execute(
            task: Task, plan: Plan, walls: Policy, layers: Sequence[Layer]
        ) -> AsyncGenerator[Event]:
            key = _layered(_key(_around_compiler(environment, layers), walls), layers)
            return self._tries(warm, key, walls, layers, task, plan)

        return build.Site(
            cache=cache_dir(self.settings),
            policy=build.around(policy, self.settings.ceiling),
            execute=execute,
            image=_foreign(self._driver(driver), environment),
        )

    async def _tries(  # noqa: PLR0913, PLR0917 - what to run, and where
        self,
        warm: Warm,
        key: WarmKey,
        policy: Policy,
        layers: Sequence[Layer],
        task: Task,
        plan: Plan,
    ) -> AsyncGenerator[Event]:
        """Run a task once: a child that dies before it has taken its order has run none of it."""
        for left in reversed(range(TRIES)):
            started = False
            try:
                async with (
                    warm.child(key, policy, layers) as process,
                    aclosing(_run(process, task, plan, policy.limits, layers)) as events,
                ):
                    async for event in events:
                        started = started or isinstance(event, Started)
                        if isinstance(event, Finished) and event.status is Status.FAULT:
                            raise SandboxBroken("the sandbox did not answer as it was built to")
                        yield event
                return
            except SandboxBroken:
                if started or not left:
                    raise

    async def prepare(
        self, environment: Environment, *, progress: Callable[[str], None] | None = None
    ) -> tuple[Layer, ...]:
        """Build what `environment` needs, unless it is there. PrepareFailed carries the log."""
        if not environment.packages and not environment.host_packages:
            return ()
        interpreter = find(environment.python).executable
        return await self._layers_of().prepare(
            environment, interpreter=interpreter, progress=progress
        )

    def _layers_of(self) -> "Store":
        if self._store is None:
            from saggar.environments.store import Store

            self._store = Store(cache_dir(self.settings))
        return self._store

    async def sweep(self) -> dict[str, int]:
        """
        Remove what dead processes left behind: cgroups, leases of user ids, folders, old layers.

        Returns how many of each there were.
        """
        found: Counter[str] = Counter()
        for name in registry.drivers():
            found.update(self._driver(name).sweep())
        from saggar.environments.programs import Programs

        programs = Programs(cache_dir(self.settings)).gc()
        return {**found, "layers": len(self._layers_of().gc()), "programs": programs}

    async def probe(self) -> dict[str, Capabilities]:
        """What each driver can enforce on this machine."""
        return {name: await self._probe(name) for name in registry.drivers()}

    async def _probe(self, name: str) -> Capabilities:
        try:
            return await self._driver(name).probe()
        except PlatformError as exc:  # a driver of somebody else's that does not even load
            return Capabilities(driver=name, available=False, reasons=(str(exc),))

    async def _layers(self, environment: Environment) -> Sequence[Layer]:
        return () if environment == BARE else await self.prepare(environment)

    def _close_drivers(self) -> None:
        for driver in self._drivers.values():
            driver.close()

    def _admit_preload(self, environment: Environment) -> None:
        """A fork server imports what the operator lists, or who has no operator above him."""
        refused = set(environment.preload) - set(self.settings.preload)
        if refused and self.settings.ceiling is not None:
            raise PolicyDenied(
                f"environment.preload: {', '.join(sorted(refused))} is not on the operator's list,"
                " Settings(preload=...); a program can import it itself"
            )

    def _policy(self, policy: Policy | None, limits: Limits | Mapping[str, Any] | None) -> Policy:
        wanted = CLOSED if policy is None else policy
        if not isinstance(wanted, Policy):
            raise InvalidTask(f"policy: wanted a saggar.Policy, found {wanted!r:.60}")
        if limits is not None:
            wanted = wanted.replace(limits=_limits(limits))
        ceiling = self.settings.ceiling
        return wanted if ceiling is None else wanted.within(ceiling)

    def _driver(self, name: str) -> Driver:
        if name not in self._drivers:
            driver: Driver = registry.driver(name)(self.settings)
            self._drivers[name] = driver
        return self._drivers[name]

    async def _warm_of(self, name: str) -> Warm:
        if name not in self._warm:
            if self._tasks is None:
                raise UsageError(
                    "this platform is not open; use `async with saggar.Platform() as platform:`"
                )
            driver, kept = self._driver(name), self.settings.warm
            if not driver.warm:
                kept = 0  # a child of its is used as soon as it stands, or not made
            self._warm[name] = Warm(driver, self._tasks, None if kept == "auto" else kept)
        return self._warm[name]


def _task(code: Any, options: Any) -> Task:
    try:
        return Task.of(code, **options)
    except ValidationError as exc:
        raise InvalidTask.from_validation(exc, Task.model_fields) from None
    except TypeError as exc:  # None or a number where there may be several of something
        raise InvalidTask(f"task: {exc}") from None


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    for name in options.keys() - RunOptions.__annotations__.keys():
        if name in LIMIT_NAMES or name == "timeout":
            limit = "wall" if name == "timeout" else name
            raise InvalidTask(f"{name} is a limit: limits={{{limit!r}: {options[name]!r}}}")
        raise NotFound.among("option", name, RunOptions.__annotations__)


def _limits(limits: Limits | Mapping[str, Any]) -> Limits:
    if isinstance(limits, Limits):
        return limits
    if not isinstance(limits, Mapping):
        raise InvalidTask(f"limits: wanted such as {{'wall': '5s'}}, found {limits!r:.60}")
    try:
        return Limits(**limits)
    except ValidationError as exc:
        raise InvalidTask.from_validation(exc, Limits.model_fields) from None


def _language(task: Task) -> str:
    return "command" if isinstance(task.program.code, Command) else task.program.language


def _key(environment: Environment, policy: Policy) -> WarmKey:
    if environment == BARE:
        return WarmKey(
            interpreter="", environment="", network=policy.network, rung=policy.isolation
        )
    mounts = tuple((m.source, m.target, m.read_only) for m in environment.mounts)
    return WarmKey(
        interpreter=environment.python or "",
        environment="\n".join(sorted(environment.packages)),
        preload=environment.preload,
        network=policy.network,
        mounts=mounts,
        root=environment.root,
        image=environment.image or "",
        user=environment.user,
        workdir=environment.workdir or "",
        writable_root=environment.writable_root,
        rung=policy.isolation,
        host_packages=environment.host_packages,
    )


def _layered(key: WarmKey, layers: Sequence[Layer]) -> WarmKey:
    """The key of a child that sees these layers as well."""
    shown = [f"{layer.path} at {layer.target}" for layer in layers]
    return replace(key, environment="\n".join([key.environment, *shown])) if shown else key


def _around_compiler(environment: Environment, toolchain: Sequence[Layer]) -> Environment:
    """
    What a compiler finds around it, of what its task asked for.

    What comes of our toolchain is everybody's, so it works where only the operator has a say; an
    image's own makes programs for that image.
    """
    return BARE if toolchain else BARE.replace(image=environment.image, root=environment.root)


def _imaged(environment: Environment, driver: Driver, plan: Plan) -> Environment:
    """The environment, with the image that has the runtime where none was named."""
    if environment.image or plan.runtime is None or not driver.images:
        return environment
    return environment.replace(image=plan.runtime.image)


def _foreign(driver: Driver, environment: Environment) -> str | None:
    """Whose programs a sandbox sees, if not this machine's: an image's, or another root's."""
    if not driver.images:
        return environment.root
    return environment.image or f"the default of {driver.name}"


def _run(
    process: Process, task: Task, plan: Plan, limits: Limits, layers: Sequence[Layer]
) -> AsyncGenerator[Event]:
    if layers and plan.argv is not None:
        from saggar.engine import build

        plan = build.located(plan, layers, process.isolation)
    return oneshot.run(process, task, plan, limits)


class _Background:
    """The platform of a process that has no event loop of its own: one thread, started once."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._started: Future[tuple[BlockingPortal, Platform]] = Future()
        self._thread = threading.Thread(target=self._main, name="saggar", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as exc:
            raise PlatformError(f"no thread for the platform can be started: {exc}") from exc
        self.portal, self.platform = self._started.result()

    def _main(self) -> None:
        try:
            anyio.run(self._live)
        except OSError as exc:  # not even a loop: the caller is still waiting to hear of it
            self._failed(PlatformError(f"no event loop for the platform can be made: {exc}"))
        except BaseException as exc:
            self._failed(exc)
            raise

    def _failed(self, exc: BaseException) -> None:
        if not self._started.done():
            self._started.set_exception(exc)

    async def _live(self) -> None:
        async with BlockingPortal() as portal, Platform() as platform:
            self._stop = anyio.Event()
            self._started.set_result((portal, platform))
            await self._stop.wait()

    def stop(self) -> None:
        """End the platform and its thread."""
        with suppress(RuntimeError):  # it may have ended by itself, for want of something
            self.portal.start_task_soon(self._stop.set)
        self._thread.join(10)

    @property
    def alive(self) -> bool:
        """Whether it still takes tasks."""
        return self._thread.is_alive()


_background: _Background | None = None
_starting = threading.Lock()


def _platform() -> _Background:
    global _background  # noqa: PLW0603 - the one platform of this process
    with _starting:
        if _background is None or not _background.alive:
            _background = _Background()
            atexit.unregister(_stop)
            atexit.register(_stop)
    return _background


def _stop() -> None:
    if _background is not None and _background.pid == os.getpid():
        _background.stop()


def _forget() -> None:
    # In a forked child: the thread is gone, the descriptors are the parent's business.
    global _background, _starting
    _background, _starting = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


async def arun(
    code: str | bytes | Code | Program | Task, **options: Unpack[RunOptions]
) -> Result[Any]:
    """`run` for code with an event loop, whichever: on this process's own platform."""
    background = _platform()
    future = background.portal.start_task_soon(_call, background, code, options)
    try:
        found: Result[Any] = await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True)
    except BaseException:
        future.cancel()
        raise
    return found


async def _call(background: _Background, code: Any, options: RunOptions) -> Result[Any]:
    return await background.platform.run(code, **options)


def run(code: str | bytes | Code | Program | Task, **options: Unpack[RunOptions]) -> Result[Any]:
    """
    Run `code` in a fresh sandbox and wait for its end; for code without an event loop.

    The first call starts a platform on a thread of its own, which lives as long as the process.
    Inside a running loop it works, but that loop stands still meanwhile: use
    `async with Platform() as platform: await platform.run(...)` there. See `Platform.run` for
    everything else.
    """
    background = _platform()
    future: Future[Result[Any]] = background.portal.start_task_soon(
        _call, background, code, options
    )
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Ctrl-C: the tree must not outlive the interest in it
        raise
