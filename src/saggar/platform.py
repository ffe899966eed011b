"""
The platform: where rooms are put together, and the way in for every door.

Asynchronous at its core. `saggar.run` is the same thing for code that is not: one platform per
process, on a thread of its own.
"""

import atexit
import os
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, nullcontext, suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Required, Self, TypedDict, TypeVar, Unpack

import anyio
import anyio.to_thread
from pydantic import ValidationError

from saggar import registry
from saggar.config import SECRET, Settings, cache_dir, load, operators_secret, runtime_dir
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
from saggar.model.plan import Capabilities, Layer, Plan, WarmKey, Warmth
from saggar.model.policy import Network, Policy
from saggar.model.program import Code, Command, Program
from saggar.model.result import Result, Status
from saggar.model.secrets import NO_SECRETS, Secrets, parted
from saggar.model.task import File, Task
from saggar.portal import Portal

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import TaskGroup

    from saggar.engine.build import Site
    from saggar.engine.channels import Spec
    from saggar.engine.hosted import Hosted
    from saggar.engine.instance import Instance, Log
    from saggar.engine.interpreter import Starter
    from saggar.engine.sandbox import Sandbox
    from saggar.engine.session import Opener, Session
    from saggar.environments.store import Store
    from saggar.jobs.submission import Desk, JobHandle
    from saggar.sessions.blocking import BlockingSandbox, BlockingSession
    from saggar.sessions.directory import Directory
    from saggar.sessions.distant import Distant

_T = TypeVar("_T")
CLOSED = Policy()
BARE = Environment()
MODEL_TOKEN: Final = "HF_TOKEN"  # noqa: S105 - a name
"""The secret that opens models as well, before anything runs."""
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


class InstanceOptions(TypedDict, total=False):
    """What can be said about an instance of a class beside its task; see `Platform.open_own`."""

    name: Required[str]
    driver: str | None
    idle: float | None
    max_age: float | None
    owner: str
    log: "Log | None"
    secrets: Secrets


class Where(TypedDict, total=False):
    """What can be said about where a task runs."""

    policy: Policy | None
    limits: Limits | Mapping[str, Any] | None
    driver: str | None


class SandboxOptions(Where, total=False):
    """What can be said about a live sandbox."""

    environment: Environment | None
    files: Mapping[str, bytes | str] | Iterable[File]
    env: Mapping[str, str] | None
    ttl: float | None
    owner: str


class RunOptions(TaskOptions, Where, total=False):
    """Everything that `run` can be told."""

    secrets: Iterable[str] | Mapping[str, str] | Secrets
    warmth: Warmth | None


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
        self._live: Directory | None = None
        self._desk: Desk | None = None

    async def __aenter__(self) -> Self:
        self._stack.callback(self._close_drivers)
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(tasks.cancel_scope.cancel)
        self._tasks = tasks
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._tasks = None
        try:
            await self._stack.aclose()
        finally:
            if self._live is not None:
                self._live.close()

    @property
    def live(self) -> "Directory":
        """Every sandbox and session that lives on this platform."""
        if self._live is None:
            from saggar.sessions.directory import Caps, Directory
            from saggar.sessions.table import Table

            said = self.settings
            caps = Caps(said.most_live, said.most_live_each, said.session_idle, said.session_age)
            table = Table(runtime_dir(said))
            self._stack.callback(table.close)
            self._live = Directory(self._running(), caps, table)
            self._stack.push_async_callback(self._live.part)
        return self._live

    async def submit(
        self,
        code: str | bytes | Code | Program | Task,
        *,
        policy: Policy | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        **said: Any,
    ) -> "JobHandle":
        """
        Submit `code` as a job, which a worker runs in a fresh sandbox.

        Args:
            code: Source text, a `Program`, or a whole `Task`.
            policy: What it may touch. If not said: nothing, with more time and memory than a run.
            limits: What it may consume, beside the policy.
            said: Options of `saggar.Task`, and those of jobs: `key`, `cache`, `priority`, `queue`,
                `tenant`, `delay`, `webhook`, `retry_on`.

        Returns:
            The job: `await result(timeout)`, `events()`, `await cancel()`.

        Raises:
            UsageError: The task is not well formed, or asks for what the policy denies.
            Overloaded: The tenant has enough in the queue; says when to come again.
            QueueUnavailable: The broker does not answer.
        """
        from saggar.jobs.submission import Desk, Wishes, task_of

        if self._desk is None:
            self._desk = Desk(self.settings)
            self._stack.push_async_callback(self._desk.aclose)
        wishes: Any = {name: said.pop(name) for name in Wishes.__annotations__ if name in said}
        return await self._desk.submit(task_of(code, said), policy, limits, **wishes)

    async def open_sandbox(self, **options: Unpack[SandboxOptions]) -> "Sandbox":
        """
        Open a live sandbox: programs come and go in it, its files stay until it ends.

        Args:
            options: `policy`, `limits`, `driver`, `environment`, `files`, `env` as for `run`;
                `ttl`, seconds after which it ends by itself; `owner`, who it is counted for.

        Returns:
            It, to be closed, or to be used as a context.

        Raises:
            UsageError: It asks for what the policy denies, or names what does not exist.
            Overloaded: As many live as may.
            PlatformError: We could not do our part.
        """
        return await (await self._opener(options, preload=("saggar.guest.keeper",)))()

    async def open_session(  # noqa: PLR0913 - what makes a session
        self,
        language: str = "python",
        *,
        engine: str = "shell",
        preload: "str | Path | None" = None,
        timeout: float | None = None,  # noqa: ASYNC109 - of each execution
        idle: float | None = None,
        max_age: float | None = None,
        log: Callable[[str], None] | None = None,
        **options: Unpack[SandboxOptions],
    ) -> "Session":
        """
        Open a session: a sandbox, and an interpreter in it that remembers.

        Args:
            language: "python"; with the engine "kernel" also the name of a kernelspec that the
                environment's packages bring, or this machine has.
            engine: "shell", IPython forked from a warm server; "kernel", a Jupyter kernel.
            preload: A folder of this machine; its `.py` files run, sorted, in every fresh
                interpreter before anything else, and the whole folder is there to import from.
            timeout: Seconds for one execution, if it does not say otherwise; the limit of wall.
            idle: Seconds without an execution after which it ends; the operator's if None.
            max_age: Seconds after which it ends; the operator's if None.
            log: Called with what preloaded files print, and with what goes wrong in them.
            options: As for `open_sandbox`, without `ttl`.

        Raises:
            UsageError: As for `open_sandbox`; NotFound for a language or engine.
            PrepareFailed: The layer with IPython could not be built.
            PlatformError: We could not do our part.
        """
        from saggar.sessions import opening

        ask = opening.asked(language, engine, preload, options)
        policy = self._policy(options.get("policy"), options.get("limits"))
        wall = policy.limits.wall
        if timeout is not None and not 0 < timeout <= wall:
            raise InvalidTask(f"timeout: must be more than 0 and at most {wall:g}, found {timeout}")
        opener, start = await self._interpreter(language, engine, ask.options, policy)
        return await self.live.open_session(
            opener,
            start,
            policy,
            language=language,
            timeout=wall if timeout is None else timeout,
            preload=ask.preload,
            log=log,
            owner=options.get("owner", ""),
            idle=idle,
            max_age=max_age,
            engine=engine,
        )

    async def open_kernel(
        self, name: str = "python", *, key: str, **options: Unpack[SandboxOptions]
    ) -> "Hosted":
        """
        Open a sandbox for a Jupyter kernel that clients of somebody else's connect to.

        Args:
            name: "python", or the name of a kernelspec, as for `open_session`.
            key: What clients sign their messages with.
            options: As for `open_sandbox`.

        Returns:
            It, to be started and closed.
        """
        from saggar.engine.hosted import Hosted

        opener, spec = await self._kernel(name, options)
        policy = self._policy(options.get("policy"), options.get("limits"))
        sandbox = await opener()
        try:
            return Hosted(sandbox, key, spec, network=policy.network is Network.HOST)
        except BaseException:
            await sandbox.close()
            raise

    async def _interpreter(
        self, language: str, engine: str, options: SandboxOptions, policy: Policy
    ) -> "tuple[Opener, Starter]":
        """What opens a session's sandbox, and what starts an interpreter in it."""
        from saggar.sessions import opening

        network = policy.network is Network.HOST
        if engine == "kernel":
            from saggar.engine.kernel import Kernel

            opener, spec = await self._kernel(language, options)
            return opener, partial(Kernel.start, network=network, spec=spec)
        from saggar.engine.shell import Shell

        modules = ("saggar.guest.keeper", "saggar.guest.shell")
        opener = await self._opener(options, modules, beside=opening.INTERPRETER)
        return opener, partial(Shell.start, network=network)

    async def _kernel(self, language: str, options: SandboxOptions) -> "tuple[Opener, Spec | None]":
        """What opens a kernel's sandbox; and which one it is, if not ours."""
        from saggar.sessions import kernelspecs, opening

        if language == kernelspecs.OWN:
            modules = ("saggar.guest.keeper", "saggar.guest.kernel")
            return await self._opener(options, modules, beside=opening.KERNEL), None
        opener = await self._opener(options, ("saggar.guest.keeper", "saggar.guest.bridge"))
        environment = _task("", _said(options)).program.environment
        driver = self._driver(options.get("driver") or self.settings.driver)
        here = _foreign(driver, environment) is None
        return opener, kernelspecs.found(language, await self._layers(environment), here=here)

    async def open_instance(
        self, task: Task, *, policy: Policy, **how: Unpack[InstanceOptions]
    ) -> "tuple[Instance | None, Result[Any]]":
        """
        Open an instance of a captured class: `task` is its constructor's call.

        Returns:
            It, and what came of the call; no instance where that failed.

        Raises:
            UsageError, Overloaded, PlatformError: As for `open_sandbox`.
        """
        walls = self._policy(policy, None)
        self._admit_preload(task.program.environment)
        return await self.open_own(task, walls=walls, **how)

    async def open_own(  # noqa: PLR0913 - what makes one
        self,
        task: Task,
        *,
        name: str,
        walls: Policy,
        driver: str | None = None,
        idle: float | None = None,
        max_age: float | None = None,
        owner: str = "",
        log: "Log | None" = None,
        secrets: Secrets = NO_SECRETS,
    ) -> "tuple[Instance | None, Result[Any]]":
        """
        `open_instance` for a class of ours, behind walls that the ceiling has judged already.

        It has a say about what is asked of our code. In which form that travels, and what of ours
        it must see, nobody has asked for.
        """
        from saggar.engine.instance import BODY, Instance
        from saggar.model.program import Pickled

        if not isinstance(task.program.code, Pickled):
            raise InvalidTask("an instance is made of pickled code")
        walls.admit(task)
        values = self._secrets(task.secrets, secrets)
        inside = task.model_copy(update={"env": {**task.env, **values}})
        options: SandboxOptions = {"driver": driver, "owner": owner}
        token = self._token(task.program.environment, values, secrets)
        instance = Instance(
            await self._opening(inside, walls, options, ("saggar.guest.keeper", BODY), token=token),
            policy=walls,
            payload=task.program.code.payload,
            arguments=task.input,
            name=name,
            owner=owner,
        )
        result = await instance.open(log)
        if instance.closed:
            return None, result
        self.live.keep(instance, idle, max_age)
        return instance, result

    async def instance(self, name: str) -> "Instance | Distant":
        """
        The instance of this id: of this platform, or of another one of this user on this machine.

        Raises:
            NotFound: There is none.
        """
        with suppress(NotFound):
            return self.live.instance(name)
        from saggar.sessions import distant
        from saggar.sessions.table import Table

        return await distant.find(Table(runtime_dir(self.settings)), name)

    async def _opener(
        self,
        options: SandboxOptions,
        preload: tuple[str, ...],
        beside: Environment = BARE,
        token: str | None = None,
    ) -> "Callable[[], Awaitable[Sandbox]]":
        """How to open a sandbox, again and again; `beside` is in it and is not its user's."""
        for name in options.keys() - SandboxOptions.__annotations__.keys():
            raise NotFound.among("option", name, SandboxOptions.__annotations__)
        task = _task("", _said(options))
        policy = self._policy(options.get("policy"), options.get("limits"))
        policy.admit(task)
        self._admit_preload(task.program.environment)
        return await self._opening(task, policy, options, preload, beside, token)

    async def _opening(  # noqa: PLR0913, PLR0917 - what is opened, and how
        self,
        task: Task,
        policy: Policy,
        options: SandboxOptions,
        preload: tuple[str, ...],
        beside: Environment = BARE,
        token: str | None = None,
    ) -> "Callable[[], Awaitable[Sandbox]]":
        """The same where what is asked for has been judged."""
        environment = await _located(task.program.environment)
        ttl = options.get("ttl")
        if ttl is not None and ttl <= 0:
            raise InvalidTask(f"ttl: must be more than 0 seconds, found {ttl}")
        name = options.get("driver") or self.settings.driver
        self._admit_gpu(name, policy)
        warm = await self._warm_of(name)
        layers = [*await self._layers(environment, policy.network, token)]
        if beside != BARE:
            ours = await self.prepare(beside.replace(python=environment.python))
            if self._driver(name).images:
                ours = await anyio.to_thread.run_sync(_readable_by_any, ours)
            layers += ours
        key = _layered(_key(environment, policy), layers)
        key = replace(key, preload=(*key.preload, *preload))
        files = [(file.path, file.content, file.mode) for file in task.files]

        async def opened() -> "Sandbox":
            return await self.live.open_sandbox(
                lambda: warm.child(key, policy, layers),
                policy.limits,
                driver=name,
                ttl=ttl,
                owner=options.get("owner", ""),
                files=files,
                env=task.env,
            )

        return opened

    def _running(self) -> "TaskGroup":
        if self._tasks is None:
            raise UsageError(
                "this platform is not open; use `async with saggar.Platform() as platform:`"
            )
        return self._tasks

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
        warmth = options.pop("warmth", None)
        names, given = parted(options.pop("secrets", None))
        task = _task(code, options)
        policy = self._policy(where["policy"], where["limits"])
        policy.admit(task)
        self._admit_preload(task.program.environment)
        values = self._secrets((*task.secrets, *names), given)
        token = self._token(task.program.environment, values, given)
        judged = self._judged(task, policy, where["driver"], values, token, warmth)
        async with aclosing(judged) as events:
            async for event in events:
                yield event

    async def run_own(self, task: Task, *, walls: Policy, driver: str | None = None) -> Result[Any]:
        """`run` for a program of ours, behind walls that the ceiling has judged: see `open_own`."""
        walls.admit(task)
        values = self._secrets(task.secrets, NO_SECRETS)
        token = self._token(task.program.environment, values, NO_SECRETS)
        async with aclosing(self._judged(task, walls, driver, values, token)) as events:
            return await afold(events)

    async def _judged(  # noqa: PLR0913, PLR0917 - what to run, and where
        self,
        task: Task,
        policy: Policy,
        driver: str | None,
        values: Mapping[str, str],
        token: str | None,
        warmth: Warmth | None = None,
    ) -> AsyncGenerator[Event]:
        """What happens during a run that may take place."""
        if values:  # from here on they are in what is sent inside, and in nothing else
            task = task.model_copy(update={"env": {**task.env, **values}})
        plan = registry.language(_language(task))().plan(task, policy.limits)
        name = driver or self.settings.driver
        self._admit_gpu(name, policy)
        try:
            steps = self._steps(name, policy, task, plan, token, warmth)
            async with aclosing(steps) as events:
                async for event in events:
                    yield event
        except OSError as exc:  # no descriptors, no memory: ours to lack, not the guest's doing
            raise PlatformError(f"this machine has no room for a run now: {exc}") from exc

    async def _steps(  # noqa: PLR0913, PLR0917 - what to run, and where
        self,
        driver: str,
        policy: Policy,
        task: Task,
        plan: Plan,
        token: str | None,
        warmth: Warmth | None,
    ) -> AsyncGenerator[Event]:
        """What a plan needs is found and made; then it is executed."""
        warm = await self._warm_of(driver)
        environment = _imaged(task.program.environment, self._driver(driver), plan)
        environment = await _located(environment)
        layers = await self._layers(environment, policy.network, token)
        key = _layered(_key(environment, policy), layers)
        if plan.preload or warmth:
            key = replace(key, preload=(*key.preload, *plan.preload), warmth=warmth)
        lacking = ""
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
            key, lacking = _layered(key, ready.layers), ready.lacking
        events = self._tries(warm, key, policy, layers, task, plan)
        if lacking:
            events = build.present(events, lacking)
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
        self,
        environment: Environment,
        *,
        progress: Callable[[str], None] | None = None,
        offline: bool = True,
        token: str | None = None,
    ) -> tuple[Layer, ...]:
        """
        Build what `environment` needs, unless it is there. PrepareFailed carries the log.

        `offline`: whether what runs there has no network, so that it looks for no other models.
        `token`: what opens models that are not for everybody; the operator's HF_TOKEN if None.
        """
        wanted = (environment.packages, environment.system_packages, environment.models)
        if not any(wanted) and not environment.host_packages:
            return ()
        interpreter = find((await _located(environment)).python).executable
        return await self._layers_of().prepare(
            environment,
            interpreter=interpreter,
            progress=progress,
            offline=offline,
            token=token,
        )

    def _layers_of(self) -> "Store":
        if self._store is None:
            from saggar.environments.store import Store

            self._store = Store.of(self.settings)
        return self._store

    def _hold(self, layers: Sequence[Layer]) -> AbstractContextManager[object]:
        """A layer stays for as long as a server shows it to its children."""
        return nullcontext() if self._store is None else self._store.hold(layers)

    async def sweep(self) -> dict[str, int]:
        """
        Remove what dead processes left behind: cgroups, leases of user ids, folders, old layers,
        and the rows of the sandboxes and sessions that were lost with them.

        Returns how many of each there were.
        """
        from saggar.sessions.table import Table

        lost = Table(runtime_dir(self.settings)).lost()
        found: Counter[str] = Counter()
        for row in lost:
            found[f"lost_{'sandboxe' if row.kind == 'sandbox' else row.kind}s"] += 1
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

    async def _layers(
        self,
        environment: Environment,
        network: Network = Network.NONE,
        token: str | None = None,
    ) -> Sequence[Layer]:
        if environment == BARE:
            return ()
        offline = network is not Network.HOST
        return await self.prepare(environment, offline=offline, token=token)

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

    def _secrets(self, names: Iterable[str], given: Secrets) -> dict[str, str]:
        """The values of a task's secrets: those that came along, and the operator's."""
        found = given.reveal()
        lacking = [name for name in dict.fromkeys(names) if name not in found]
        if lacking and self.settings.ceiling is not None:
            admit_secrets(lacking, self.settings)
        for name in lacking:
            value = operators_secret(name)
            if value is None:
                raise NotFound(
                    f"secrets: there is no {name} here; its operator sets {SECRET}{name}"
                )
            found.update(Secrets({name: value}).reveal())
        return found

    def _token(
        self, environment: Environment, values: Mapping[str, str], given: Secrets
    ) -> str | None:
        """What opens models, of these values; the operator's own opens what he lists, as ever."""
        token = values.get(MODEL_TOKEN)
        if token is None or MODEL_TOKEN in given.names or self.settings.ceiling is None:
            return token
        names = {model.partition("@")[0] for model in environment.models}
        listed = self.settings.models
        return token if all(any(fnmatchcase(n, m) for m in listed) for n in names) else None

    def _admit_gpu(self, driver: str, policy: Policy) -> None:
        """DriverUnavailable for GPUs that this machine lacks, before anything is built for them."""
        if policy.gpu and not self._driver(driver).images:  # an engine knows of its own
            from saggar.drivers import gpu

            gpu.passage(gpu.look(), policy.gpu)

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
            driver, kept = self._driver(name), self.settings.warm
            if not driver.warm:
                kept = 0  # a child of its is used as soon as it stands, or not made
            most = None if kept == "auto" else kept
            self._warm[name] = Warm(driver, self._running(), most, hold=self._hold)
        return self._warm[name]


def admit_secrets(names: Iterable[str], settings: Settings) -> None:
    """PolicyDenied for names that are not on the operator's list."""
    refused = {name for name in names if not any(fnmatchcase(name, n) for n in settings.secrets)}
    if refused:
        raise PolicyDenied(
            f"secrets: {', '.join(sorted(refused))} is not on the operator's list, SAGGAR_SECRETS;"
            " a value of your own can be given along with a run: secrets={'NAME': value}"
        )


def _said(options: Any) -> dict[str, Any]:
    """Those of them that say something of a task."""
    return {name: options.get(name) for name in TaskOptions.__annotations__ if name in options}


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
            interpreter="",
            environment="",
            network=policy.network,
            rung=policy.isolation,
            gpu=policy.gpu,
        )
    mounts = tuple((m.source, m.target, m.read_only) for m in environment.mounts)
    sources = (*(m.source for m in environment.mounts), environment.root)
    return WarmKey(
        interpreter=environment.python or "",
        environment="\n".join(sorted(environment.packages)),
        preload=environment.preload,
        network=policy.network,
        mounts=mounts,
        places=tuple(_place(source) for source in sources if source),
        root=environment.root,
        image=environment.image or "",
        user=environment.user,
        workdir=environment.workdir or "",
        writable_root=environment.writable_root,
        rung=policy.isolation,
        host_packages=environment.host_packages,
        gpu=policy.gpu,
    )


def _place(path: str) -> tuple[int, int]:
    """What is at a path now; nothing there is for the driver to complain of."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


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


async def _located(environment: Environment) -> Environment:
    """The environment, with the path of its Python where a version was named."""
    if environment.python is None or environment.python.startswith("/"):
        return environment
    from saggar.environments import interpreters

    return environment.replace(python=await interpreters.of_version(environment.python))


def _imaged(environment: Environment, driver: Driver, plan: Plan) -> Environment:
    """The environment, with the image that has the runtime where none was named."""
    if environment.image or plan.runtime is None or not driver.images:
        return environment
    return environment.replace(image=plan.runtime.image)


def _readable_by_any(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Mark those that are tied to no version: an image may have another Python than we."""
    from pathlib import Path

    return tuple(
        layer.replace(
            any_python=all(".abi3." in path.name for path in Path(layer.path).rglob("*.so"))
        )
        for layer in layers
    )


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
        # As for any door: a ceiling of the operator's holds for whoever imports us, too.
        self.settings = load() if _settings is None else _settings
        self._started: Future[tuple[Portal, Platform]] = Future()
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
        async with Portal() as portal, Platform(self.settings) as platform:
            self._stop = anyio.Event()
            self._started.set_result((portal, platform))
            await self._stop.wait()

    def stop(self) -> None:
        """End the platform and its thread."""
        with suppress(RuntimeError):  # it may have ended by itself, for want of something
            self.portal.start_task_soon(self._stop.set)
        self._thread.join(10)

    def call(self, function: Callable[..., Awaitable[_T]], /, *args: Any, **named: Any) -> _T:
        """Call it on the platform's thread and wait; Ctrl-C here cancels it there."""
        future: Future[_T] = self.portal.start_task_soon(_called, function, args, named)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def acall(
        self, function: Callable[..., Awaitable[_T]], /, *args: Any, **named: Any
    ) -> _T:
        """The same for code with an event loop of its own, whichever."""
        future: Future[_T] = self.portal.start_task_soon(_called, function, args, named)
        try:
            return await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True)
        except BaseException:
            future.cancel()
            raise

    @property
    def alive(self) -> bool:
        """Whether it still takes tasks."""
        return self._thread.is_alive()


async def _called(function: Callable[..., Awaitable[_T]], args: Any, named: Any) -> _T:
    return await function(*args, **named)


_background: _Background | None = None
_settings: Settings | None = None
_starting = threading.Lock()


def configure(settings: Settings) -> None:
    """
    What this process's own platform is operated with; a door says so before its first use.

    Raises:
        UsageError: The platform has started already, on other settings.
    """
    global _settings  # noqa: PLW0603 - as the platform they are for
    with _starting:
        if _background is not None and _background.alive:
            if settings != _background.settings:
                raise UsageError("the platform of this process has started on other settings")
            return
        _settings = settings


def _platform() -> _Background:
    global _background  # noqa: PLW0603 - the one platform of this process
    with _starting:
        if _background is None or not _background.alive:
            _background = _Background()
            atexit.unregister(_stop)
            atexit.register(_stop)
    return _background


def background() -> _Background:
    """This process's own platform, on a thread of its own; the first call starts it."""
    return _platform()


def _stop() -> None:
    if _background is not None and _background.pid == os.getpid():
        _background.stop()


def _forget() -> None:
    # In a forked child: the thread is gone, the descriptors are the parent's business.
    global _background, _starting
    _background, _starting = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def shared() -> _Background:
    """This process's own platform, for a door whose event loop is somebody else's."""
    return _platform()


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


def open_session(language: str = "python", **options: Any) -> "BlockingSession":
    """
    Open a session, for code without an event loop; see `Platform.open_session`.

        with saggar.open_session("python") as session:
            session.run("x = 40")
            session.run("x + 2").value
    """
    from saggar.sessions.blocking import BlockingSession

    background = _platform()
    session = background.call(background.platform.open_session, language, **options)
    return BlockingSession(background.call, session)


def open_sandbox(**options: Unpack[SandboxOptions]) -> "BlockingSandbox":
    """Open a live sandbox, for code without an event loop; see `Platform.open_sandbox`."""
    from saggar.sessions.blocking import BlockingSandbox

    background = _platform()
    sandbox = background.call(background.platform.open_sandbox, **options)
    return BlockingSandbox(background.call, sandbox)


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
