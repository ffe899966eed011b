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
import os
from collections.abc import (
    AsyncGenerator,
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
from contextlib import aclosing
from dataclasses import dataclass
from functools import update_wrapper
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

from saggar.errors import InvalidTask, PlatformError
from saggar.functions import capture as capturing
from saggar.functions.annotated import Annotation
from saggar.functions.answers import raised_in, settled, value_of
from saggar.functions.errors import InvalidAnswer, failure
from saggar.functions.mapped import as_they_come, in_order, worked_off
from saggar.functions.options import Log, Options, Retry, Said, log_of
from saggar.model.codec import Answer, Large
from saggar.model.event import Event, Output, Yielded, fold
from saggar.model.policy import Policy
from saggar.model.program import Pickled, Program
from saggar.model.result import Result
from saggar.model.task import Task
from saggar.platform import Platform, background

if TYPE_CHECKING:
    from saggar.functions.classes import RemoteClass
    from saggar.functions.jobs import RemoteJob

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

    def __call__(self, *args: P.args, **named: P.kwargs) -> R:
        """`remote`."""
        return self.remote(*args, **named)

    def remote(self, *args: P.args, **named: P.kwargs) -> R:
        """
        Call it in a fresh sandbox, and wait for its answer.

        Raises:
            Exception: What it raised, if this process knows the class; a RemoteError besides.
            RemoteError: What it raised otherwise; RemoteTimeout, RemoteOutOfMemory, RemoteCrash.
            Unportable: It, or an argument, needs something that cannot leave this process.
            PlatformError: We could not do our part.
        """
        if self._said.where == "queue":
            return self.submit(*args, **named).result()
        call = self._call(args, named)
        return self._settled(background().call(_performed, call))

    async def aremote(self, *args: P.args, **named: P.kwargs) -> R:
        """The same for code with an event loop, whichever."""
        if self._said.where == "queue":
            job = await anyio.to_thread.run_sync(lambda: self.submit(*args, **named))
            return await anyio.to_thread.run_sync(job.result, abandon_on_cancel=True)
        call = self._call(args, named)
        return self._settled(await elsewhere(_performed, call))

    def local(self, *args: P.args, **named: P.kwargs) -> Any:
        """Call it here, in this process and without walls."""
        return self.__saggar_function__(*args, **named)

    def call(self, *args: P.args, **named: P.kwargs) -> Result[Any]:
        """All that came of a call: also what it printed and used. A failure is a result as well."""
        return background().call(_performed, self._call(args, named))

    def submit(self, *args: P.args, **named: P.kwargs) -> "RemoteJob[R]":
        """
        Leave the call to a worker: a job, which survives this process.

        Raises:
            PlatformError: The queue does not take it.
        """
        from saggar.functions.jobs import submitted

        call = self._call(args, named)
        said = self._said
        bare = said.policy is None and said.limits is None and said.timeout is None
        return submitted(call.task, None if bare else call.policy, self._settled)

    def job(self, job_id: str) -> "RemoteJob[R]":
        """A job of this function that was submitted elsewhere, by its id."""
        from saggar.functions.jobs import reattached

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
        many = concurrency or AHEAD
        if many < 1:
            raise InvalidTask(f"concurrency: wanted at least 1, found {concurrency}")
        if self._said.where == "queue":
            jobs = (cast("Any", self.submit)(*item).future() for item in items)
            found = (in_order if ordered else as_they_come)(jobs, many)
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

    def stream(self, *args: P.args, **named: P.kwargs) -> Iterator[Any]:
        """
        What a generator yields, one by one, while it runs.

        It waits inside while nobody takes: some hundred kilobytes are on the way at most. The limit
        of wall is that of the whole.
        """
        events = self._streamed(self._call(args, named, streams=True))
        here = background()
        try:
            while True:
                try:
                    yield here.call(_following, events)
                except StopAsyncIteration:
                    return
        finally:
            here.call(events.aclose)

    async def astream(self, *args: P.args, **named: P.kwargs) -> AsyncIterator[Any]:
        """The same for code with an event loop."""
        events = self._streamed(self._call(args, named, streams=True))
        try:
            while True:
                try:
                    value = await elsewhere(_following, events)
                except StopAsyncIteration:
                    return
                yield value
        finally:
            with anyio.CancelScope(shield=True):
                await elsewhere(events.aclose)

    async def _streamed(self, call: Call) -> AsyncGenerator[Any]:
        kept: list[Event] = []
        platform = background().platform
        run = platform.events(call.task, policy=call.policy, driver=call.driver)
        async with aclosing(run) as events:
            async for event in events:
                if isinstance(event, Yielded):
                    small = len(event.data) < SMALL
                    run_sync = anyio.to_thread.run_sync
                    yield self._yielded(event) if small else await run_sync(self._yielded, event)
                    continue
                kept.append(event)
                if isinstance(event, Output) and call.log is not None:
                    call.log(event.stream, event.data.decode(errors="replace"))
        self._settled(fold(kept))

    def _yielded(self, event: Yielded) -> Any:
        pickles = self._said.result == "pickle"
        try:
            answer = event.value()
            if not isinstance(answer, Answer):
                raise InvalidAnswer(None, "what it gave is no answer")
            return self._annotation.lifted(value_of(answer, None, pickles=pickles))
        except InvalidAnswer:
            raise
        except ValueError as exc:
            raise InvalidAnswer(None, f"what it gave: {exc}") from exc

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
        task = Task(program=program, env=dict(self._said.env))
        self._captured[streams] = captured, task
        return captured, task

    def _call(
        self, args: Sequence[Any], named: Mapping[str, Any], *, streams: bool = False
    ) -> Call:
        if streams != self._generates:
            name = capturing.called(self.__saggar_function__)
            raise InvalidTask(
                f"{name} is no generator; call it without stream"
                if streams
                else f"{name} is a generator; take what it yields with {name}.stream(...)"
            )
        _, task = self._ready(streams=streams)
        payload = capturing.encoded(args, named, capturing.called(self.__saggar_function__))
        if self._said.where == "queue" and isinstance(payload, Large):
            payload = payload.whole()
        return Call(
            task=task.model_copy(update={"input": payload}),
            policy=self._policy,
            driver=self._said.driver,
            retry=self._said.retry,
            log=log_of(self._said.log),
        )

    def _settled(self, result: Result[Any]) -> R:
        """The answer in a result, or the failure that it is."""
        name, pickles = capturing.called(self.__saggar_function__), self._said.result == "pickle"
        return cast("R", settled(result, name, self._annotation.lifted, pickles=pickles))


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
            if not left or not _worth(result, call.retry.on):
                return result
        left -= 1
        await anyio.sleep(delay)
        delay *= 2


def _worth(result: Result[Any], on: tuple[type[Exception], ...]) -> bool:
    """Whether a failure is one of those after which a call is made again."""
    return not result.ok and bool(on) and isinstance(failure(result, raised_in(result), ""), on)


async def _once(call: Call, platform: Platform) -> Result[Any]:
    if call.log is None:
        return await platform.run(call.task, policy=call.policy, driver=call.driver)
    kept: list[Event] = []
    run = platform.events(call.task, policy=call.policy, driver=call.driver)
    async with aclosing(run) as events:
        async for event in events:
            kept.append(event)
            if isinstance(event, Output):
                call.log(event.stream, event.data.decode(errors="replace"))
    return fold(kept)


async def _following(items: AsyncGenerator[T]) -> T:
    return await anext(items)


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
def remote(**options: Unpack[Options]) -> "Decorator": ...
def remote(function: Any = None, /, **options: Any) -> Any:
    """
    Let a function, or the methods of a class, run behind walls.

    Args:
        function: What is decorated.
        options: `environment`, `limits`, `policy`, `driver`, `network` as for `saggar.run`;
            `timeout`, seconds of a call; `retries`, how often a call is made again after a failure
            of ours, or a `Retry`; `env`, variables; `models`, beside those of the environment;
            `result="pickle"`, for answers that are neither JSON nor arrays, if you trust the
            function with this process; `log=True`, to see at once what it prints;
            `where="queue"`, to have a worker run it; of a class `idle`, `max_age`, `restart`.

    Raises:
        UsageError: An option is none, or asks for what does not exist.
    """
    said = Said().but(cast("Options", options))
    decorator = Decorator(said)
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
