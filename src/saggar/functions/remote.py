"""
`@remote`: a function of yours that runs behind walls, called as if it ran here.

    @saggar.remote(environment=Environment(packages=("numpy",)), limits={"memory": "512MiB"})
    def dot(a: list[float], b: list[float]) -> float: ...

    dot([1, 2], [3, 4]);  await dot.aremote([1, 2], [3, 4]);  dot.local([1, 2], [3, 4])

Each call has a fresh sandbox of its own. What a call means is put together here; what goes over and
comes back is `capture`'s to say, and what went wrong is `errors`'s.
"""

import asyncio
import inspect
import math
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

import anyio
import anyio.to_thread

from saggar.engine.flow import Flow
from saggar.errors import InvalidTask, PlatformError
from saggar.functions import capture as capturing
from saggar.functions.annotated import Annotation
from saggar.functions.answers import item_of, settled, whole, worth_another
from saggar.functions.mapped import as_they_come, in_order, worked_off
from saggar.functions.options import Log, Options, Retry, Said, log_of
from saggar.functions.pools import turn
from saggar.model.codec import Large
from saggar.model.event import Event, Output, Started, Yielded, fold
from saggar.model.policy import Policy
from saggar.model.program import Pickled, Program
from saggar.model.result import Result
from saggar.model.secrets import NO_SECRETS, Secrets
from saggar.model.task import Task
from saggar.platform import Platform, RunOptions, background

if TYPE_CHECKING:
    from saggar.functions.calling import Grip
    from saggar.functions.classes import RemoteClass
    from saggar.functions.jobs import RemoteJob
    from saggar.functions.resources import LiveServerless

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
C = TypeVar("C", bound=type)
SMALL: Final = 1 << 16
"""Bytes that are read at once, and not beside the event loop."""
AHEAD: Final = 2 * (os.cpu_count() or 1)
"""Calls of one `map` that are under way at once, unless said otherwise."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, ready to be made."""

    task: Task
    policy: Policy
    driver: str | None
    retry: Retry
    log: Log | None
    secrets: Secrets = NO_SECRETS
    seams: tuple[int, int] = (0, 0)
    """Where in its code the project's modules lie."""
    resource: "LiveServerless | None" = None
    """Whose workers make it; None where there may be as many calls at once as come."""


class RemoteFunction(Generic[P, R]):
    """A function that runs behind walls. Call it as it would be called here."""

    __saggar_marked__ = True

    def __init__(self, function: Callable[P, Any], said: Said) -> None:
        self.__saggar_function__ = function
        self._said = said
        self._policy = said.walls()
        self._captured: dict[bool, tuple[capturing.Captured, Task]] = {}
        self._annotation = Annotation(function)
        self._generates = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(
            function
        )
        update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<remote function {capturing.called(self.__saggar_function__)}>"

    def __get__(self, owner: object, kind: type | None = None) -> Any:
        raise InvalidTask(
            f"{capturing.called(self.__saggar_function__)} is a method; decorate its class instead"
        )

    def __call__(self, /, *args: P.args, **named: P.kwargs) -> R:
        """`remote`."""
        return self.remote(*args, **named)

    def remote(self, /, *args: P.args, **named: P.kwargs) -> R:
        """
        Call it in a fresh sandbox, and wait for its answer.

        Raises:
            Exception: What it raised, if this process knows the class; a RemoteError besides.
            RemoteError: What it raised otherwise; RemoteTimeout, RemoteOutOfMemory, RemoteCrash.
            Unportable: It, or an argument, needs something that cannot leave this process.
            PlatformError: We could not do our part.
        """
        return self._settled(self._came(args, named))

    async def aremote(self, /, *args: P.args, **named: P.kwargs) -> R:
        """The same for code with an event loop, whichever."""
        if self._said.where == "queue":
            came = partial(self._came, args, named)
            return self._settled(await anyio.to_thread.run_sync(came, abandon_on_cancel=True))
        call = self._call(args, named)
        if self._said.server:
            from saggar.functions.server import aperformed

            return self._settled(await aperformed(self._said.server, call))
        return self._settled(await elsewhere(_performed, call))

    def local(self, /, *args: P.args, **named: P.kwargs) -> Any:
        """Call it here, in this process and without walls."""
        return self.__saggar_function__(*args, **named)

    def call(self, /, *args: P.args, **named: P.kwargs) -> Result[Any]:
        """
        All that came of a call: its value, and what it printed and used.

        A failure is a result as well; an answer that is none, or not as annotated, is a failure.
        """
        return cast("Result[Any]", self._settled(self._came(args, named), whole))

    def _came(self, args: Sequence[Any], named: Mapping[str, Any]) -> Result[Any]:
        """What came of a call, in the words of the other side."""
        if self._said.where == "queue":
            from saggar.functions.jobs import waited

            call = self._call(args, named, queued=True)
            return waited(call.task, self._walls_of_job(call), call.retry, call.log)
        call = self._call(args, named)
        if self._said.server:
            from saggar.functions.server import performed

            return performed(self._said.server, call)
        return background().call(_performed, call)

    def submit(self, /, *args: P.args, **named: P.kwargs) -> "RemoteJob[R]":
        """
        Leave the call to a worker: a job, which survives this process.

        Raises:
            UsageError: It was told what a job cannot do: its own driver, or to be made again after
                what its function raises.
            PlatformError: The queue does not take it.
        """
        from saggar.functions.jobs import RemoteJob, submitted

        call = self._call(args, named, queued=True)
        if call.retry.on:
            raise InvalidTask(
                "retries: what the function of a job raises is its end, so on= means nothing;"
                " where='queue' and a call that is waited for make it again"
            )
        policy = self._walls_of_job(call)
        if self._said.server:
            from saggar.functions.server import server

            there = server(self._said.server).submit(call, policy)
            return RemoteJob(there, self._settled, call.log)
        return submitted(call.task, policy, self._settled, call.log)

    def _walls_of_job(self, call: Call) -> Policy | None:
        """The policy of a job; None where nothing is said, and it has that of all jobs."""
        said = self._said
        if said.driver is not None:
            raise InvalidTask("driver: which one a worker uses is its operator's to say")
        walls = (said.policy, said.limits, said.timeout, said.network, said.gpu)
        return None if all(one is None for one in walls) else call.policy

    def job(self, job_id: str) -> "RemoteJob[R]":
        """A job of this function that was submitted elsewhere, by its id."""
        from saggar.functions.jobs import RemoteJob, reattached

        if self._said.server:
            from saggar.functions.server import server

            return RemoteJob(server(self._said.server).job(job_id), self._settled)
        return reattached(job_id, self._settled)

    def map(
        self,
        *items: Iterable[Any],
        ordered: bool = True,
        return_exceptions: bool = False,
        concurrency: int | None = None,
    ) -> Iterator[R]:
        """
        Call it with each item; with several iterables, with one item of each.

        Args:
            items: Taken as they are needed, and no further: they need have no end.
            ordered: Whether answers come in the order of the items, or as they are there.
            return_exceptions: Whether a failure is an answer, rather than the end.
            concurrency: Calls under way at once.
        """
        return self.starmap(
            zip(*items, strict=False),
            ordered=ordered,
            return_exceptions=return_exceptions,
            concurrency=concurrency,
        )

    def starmap(
        self,
        items: Iterable[Sequence[Any]],
        *,
        ordered: bool = True,
        return_exceptions: bool = False,
        concurrency: int | None = None,
    ) -> Iterator[R]:
        """The same where each item is all arguments of one call."""
        workers = self._said.resource.workersMax if self._said.resource else AHEAD
        many = workers if concurrency is None else concurrency
        if type(many) is not int or many < 1:
            raise InvalidTask(f"concurrency: wanted a number from 1 on, found {many!r:.80}")
        if self._said.where == "queue":
            if self._said.retry.on:
                raise InvalidTask("retries: many jobs at once are made once each; leave on= out")
            jobs = (cast("Any", self.submit)(*item).future() for item in items)
            found = (in_order if ordered else as_they_come)(jobs, many)
        elif self._said.server:
            from saggar.functions.server import worked_off as worked_off_there

            calls = (self._call(tuple(item), {}) for item in items)
            found = worked_off_there(self._said.server, calls, many, ordered=ordered)
        else:
            calls = (self._call(tuple(item), {}) for item in items)
            found = worked_off(calls, _performed, many, ordered=ordered)
        return self._unpacked(found, return_exceptions)

    def _unpacked(
        self,
        found: Iterator[Future[Result[Any]]],
        keep: bool,  # noqa: FBT001
    ) -> Iterator[R]:
        try:
            for future in found:
                try:
                    yield self._settled(future.result())
                except Exception as exc:
                    if not keep:
                        raise
                    yield cast("R", exc)
        finally:
            cast("Generator[Any]", found).close()

    async def amap(
        self,
        *items: Iterable[Any],
        ordered: bool = True,
        return_exceptions: bool = False,
        concurrency: int | None = None,
    ) -> AsyncIterator[R]:
        """`map` for code with an event loop."""
        found = self.map(
            *items,
            ordered=ordered,
            return_exceptions=return_exceptions,
            concurrency=concurrency,
        )
        end = object()
        try:
            while (value := await anyio.to_thread.run_sync(next, found, end)) is not end:
                yield cast("R", value)
        finally:
            cast("Generator[R]", found).close()

    def stream(self, /, *args: P.args, **named: P.kwargs) -> Iterator[Any]:
        """
        What a generator yields, one by one, while it runs.

        It waits inside while nobody takes: some hundred kilobytes are on the way at most. The limit
        of wall is that of the whole; a resource's worker is taken for as long.
        """
        call = self._call(args, named, streams=True)
        if self._said.server:
            yield from self._streamed_there(call)
            return
        here, (flow, asked) = background(), _begun(call)
        try:
            while (event := here.call(flow.take)) is not None:
                yield self._yielded(event)
            self._ended(asked.result())
        finally:
            asked.cancel()
            here.call(flow.over)

    async def astream(self, /, *args: P.args, **named: P.kwargs) -> AsyncIterator[Any]:
        """The same for code with an event loop."""
        call = self._call(args, named, streams=True)
        if self._said.server:
            from saggar.functions.server import stepped

            async with aclosing(stepped(partial(self._streamed_there, call))) as items:
                async for item in items:
                    yield item
            return
        flow, asked = _begun(call)
        try:
            while (event := await elsewhere(flow.take)) is not None:
                small, run_sync = len(event.data) < SMALL, anyio.to_thread.run_sync
                yield self._yielded(event) if small else await run_sync(self._yielded, event)
            self._ended(asked.result())
        finally:
            asked.cancel()
            with anyio.CancelScope(shield=True):
                await elsewhere(flow.over)

    def _streamed_there(self, call: Call, grip: "Grip | None" = None) -> Iterator[Any]:
        from saggar.functions.server import server

        kept: list[Event] = []
        with closing(server(self._said.server).events(call, grip)) as events:
            for event in events:
                if isinstance(event, Yielded):
                    yield self._yielded(event)
                    continue
                kept.append(event)
                if isinstance(event, Output) and call.log is not None:
                    call.log(event.stream, event.data.decode(errors="replace"))
        self._ended(fold(kept))

    def _yielded(self, event: Yielded) -> Any:
        return item_of(event, self._annotation.lifted, pickles=self._said.result == "pickle")

    def _ended(self, result: Result[Any]) -> None:
        """The end of what it yields, which is no answer; or the failure that it is."""
        name, pickles = capturing.called(self.__saggar_function__), self._said.result == "pickle"
        settled(result, name, lambda nothing: nothing, pickles=pickles)

    def options(self, **options: Unpack[Options]) -> "RemoteFunction[P, R]":
        """The same function on other terms."""
        return RemoteFunction(self.__saggar_function__, self._said.but(options))

    @property
    def digest(self) -> str:
        """Of all that travels: SHA-256 of the function as it is now."""
        return self._ready(streams=False)[0].digest

    @property
    def modules(self) -> tuple[str, ...]:
        """The project's modules that travel with it."""
        return self._ready(streams=False)[0].modules

    def _ready(self, *, streams: bool) -> tuple[capturing.Captured, Task]:
        """It as bytes, captured again when something that it uses is not what it was."""
        known = self._captured.get(streams)
        if known is not None and known[0].seen.same():
            return known
        pickles = self._said.result == "pickle"
        captured = capturing.capture(self.__saggar_function__, pickles=pickles, streams=streams)
        program = Program(code=Pickled(payload=captured.payload), environment=self._said.around())
        names = self._said.secret_names
        task = Task(program=program, env=dict(self._said.env), secrets=names)
        self._captured[streams] = captured, task
        return captured, task

    def _call(
        self,
        args: Sequence[Any],
        named: Mapping[str, Any],
        *,
        streams: bool = False,
        queued: bool = False,
    ) -> Call:
        if streams and self._said.where == "queue":
            raise InvalidTask(
                "where: a queue keeps one answer of a job, and not what a generator yields;"
                " options(where='here').stream(...) runs it here"
            )
        if streams != self._generates:
            name = capturing.called(self.__saggar_function__)
            raise InvalidTask(
                f"{name} is no generator; call it without stream"
                if streams
                else f"{name} is a generator; take what it yields with {name}.stream(...)"
            )
        secrets = self._said.given(queued=queued)
        captured, task = self._ready(streams=streams)
        name = capturing.called(self.__saggar_function__)
        payload = capturing.encoded(args, named, name, captured.home, captured.modules)
        capturing.refuse_beyond(self._policy.limits.memory, payload, name)
        if queued and not self._said.server and isinstance(payload, Large):
            payload = payload.whole()
        return Call(
            task=task.model_copy(update={"input": payload}),
            policy=self._policy,
            driver=self._said.driver,
            retry=self._said.retry,
            log=log_of(self._said.log),
            secrets=secrets,
            seams=captured.seams,
            resource=self._said.resource,
        )

    def _settled(self, result: Result[Any], settle: Callable[..., Any] = settled) -> R:
        """The answer in a result, or the failure that it is."""
        name, pickles = capturing.called(self.__saggar_function__), self._said.result == "pickle"
        return cast("R", settle(result, name, self._annotation.lifted, pickles=pickles))


async def _performed(call: Call) -> Result[Any]:
    """Make a call, and make it again as often as was said."""
    left, delay = call.retry.times, call.retry.delay
    while True:
        try:
            result = await _once(call, background().platform)
        except PlatformError:
            if not left:
                raise
        else:
            if not left or not worth_another(result, call.retry.on):
                return result
        left -= 1
        await anyio.sleep(delay)
        delay *= 2


def _options(call: Call) -> RunOptions:
    """How a call is made, beside its task."""
    options: RunOptions = {"policy": call.policy, "driver": call.driver, "secrets": call.secrets}
    if call.resource is not None:
        options["warmth"] = call.resource.warmth
    return options


async def _once(call: Call, platform: Platform) -> Result[Any]:
    if call.resource is None and call.log is None:
        return await platform.run(call.task, **_options(call))
    kept: list[Event] = []
    run = platform.events(call.task, **_options(call))
    async with turn(call.resource), aclosing(run) as events:
        async for event in events:
            if isinstance(event, Yielded):
                continue  # nobody has asked for several
            kept.append(event)
            if isinstance(event, Output) and call.log is not None:
                call.log(event.stream, event.data.decode(errors="replace"))
    return fold(kept)


def _begun(call: Call) -> tuple[Flow, Future[Result[Any]]]:
    """A stream that has begun: what it yields, and what came of it. Cancelled, it is ended."""
    flow = Flow()

    async def follow() -> Result[Any]:
        try:
            return await _fed(call, flow)
        finally:
            flow.end()

    return flow, background().portal.start_task_soon(follow)


async def _fed(call: Call, flow: Flow) -> Result[Any]:
    kept: list[Event] = []
    run = background().platform.events(call.task, **_options(call))
    end = math.inf
    async with turn(call.resource), aclosing(run) as events:
        async for event in events:
            if isinstance(event, Yielded):
                flow.put(event)
                # When its time is over it is read on, so that it ends, and its worker is free:
                # whoever takes nothing may be waiting for that very worker.
                with anyio.move_on_after(end - anyio.current_time()):
                    await flow.room()
                continue
            if isinstance(event, Started):
                end = anyio.current_time() + call.policy.limits.wall
            kept.append(event)
            if isinstance(event, Output) and call.log is not None:
                call.log(event.stream, event.data.decode(errors="replace"))
    return fold(kept)


async def elsewhere(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Await something on the platform's own thread, from any event loop."""
    future = background().portal.start_task_soon(_awaited, function, args)
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # an event loop of another kind
        try:
            return await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True)
        except BaseException:
            future.cancel()
            raise
    return await asyncio.wrap_future(future)


async def _awaited(function: Callable[..., Awaitable[T]], args: Sequence[Any]) -> T:
    return await function(*args)


@overload
def remote(function: C, /) -> "RemoteClass[C]": ...  # type: ignore[overload-overlap]
@overload
def remote(function: Callable[P, Coroutine[Any, Any, R]], /) -> RemoteFunction[P, R]: ...
@overload
def remote(function: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(resource: "LiveServerless", /, **options: Unpack[Options]) -> "Decorator": ...
@overload
def remote(**options: Unpack[Options]) -> "Decorator": ...
def remote(function: Any = None, /, **options: Any) -> Any:
    """
    Let a function, or the methods of a class, run behind walls.

    Args:
        function: What is decorated; or, before any option, a resource whose workers it has.
        options: `environment`, `limits`, `policy`, `driver`, `network` as for `saggar.run`;
            `gpu`, how many it sees; `timeout`, seconds of a call; `retries`, how often a call is
            made again after a failure of ours, or a `Retry`; `env`, variables; `models`, beside
            those of the environment; `result="pickle"`, for answers that are neither JSON nor
            arrays, if you trust the function with this process; `log=True`, to see at once what it
            prints; `secrets`, names of variables, or values by their names, that are written
            nowhere; `where="queue"`, to have a worker run it, or the URL of a Saggar server; of a
            class `idle`, `max_age`, `restart`. RunPod's words (`dependencies`, ...) are ours too.

    Raises:
        UsageError: An option is none, or asks for what does not exist.
    """
    if function is not None and not callable(function):
        if "resource_config" in options:
            raise InvalidTask("resource_config: a resource was given twice; say one of them")
        options["resource_config"], function = function, None
    decorator = Decorator(Said().but(cast("Options", options)))
    return decorator if function is None else decorator(function)


class Decorator:
    """What `remote(...)` with options gives."""

    def __init__(self, said: Said) -> None:
        self._said = said

    @overload
    def __call__(self, function: C, /) -> "RemoteClass[C]": ...  # type: ignore[overload-overlap]
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> RemoteFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> RemoteFunction[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        """Decorate."""
        if isinstance(function, type):
            from saggar.functions.classes import RemoteClass

            return RemoteClass(function, self._said)
        if isinstance(function, RemoteFunction):
            raise InvalidTask(f"{function!r} is remote already; use its options(...)")
        if not callable(function):
            raise InvalidTask(f"wanted a function or a class, found {function!r:.80}")
        return RemoteFunction(function, self._said)
