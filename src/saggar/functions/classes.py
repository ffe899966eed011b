"""
Remote classes: an instance is a live sandbox with one object in it, made once and kept.

    @saggar.remote
    class Model:
        @saggar.enter
        def load(self): ...
        def predict(self, x: float) -> float: ...

    model = Model();  model.predict(1.0);  Model.get(model.id) is the same one
"""

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar, Unpack, cast

from saggar.engine.flow import Flow
from saggar.errors import Conflict, InvalidTask, NotFound
from saggar.functions import capture as capturing
from saggar.functions.annotated import Annotation
from saggar.functions.answers import item_of, settled
from saggar.functions.errors import StateLost
from saggar.functions.options import Log, Options, Said, log_of
from saggar.functions.pools import turn
from saggar.functions.remote import elsewhere
from saggar.model.codec import Payload
from saggar.model.event import Yielded
from saggar.model.program import Pickled, Program
from saggar.model.result import Result
from saggar.model.task import Task
from saggar.platform import background

_ASKED_BY_TOOLS = ("__", "_repr_", "_ipython_")
"""What Python and notebooks look for in every object; it is not worth a call."""
_OURS = frozenset(("_kind", "_live", "_said", "_log", "_methods"))
"""What an instance has on this side."""
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def enter(method: F) -> F:
    """Mark a method that is called once, when an instance has been made."""
    method.__saggar_hook__ = "enter"  # type: ignore[attr-defined]
    return method


def exit(method: F) -> F:  # noqa: A001 - what it is called where it is used: saggar.exit
    """Mark a method that is called when an instance is closed, while its grace lasts."""
    method.__saggar_hook__ = "exit"  # type: ignore[attr-defined]
    return method


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of an instance from outside."""

    class_name: str
    created_at: datetime
    last_used: datetime
    method_calls: int


class RemoteClass(Generic[C]):
    """A class whose instances live behind walls. Call it as it would be called here."""

    __saggar_marked__ = True

    def __init__(self, kind: C, said: Said) -> None:
        self.__saggar_function__ = kind
        self._said = said
        self._policy = said.walls()
        self._captured: capturing.Captured | None = None
        self.__name__, self.__qualname__ = kind.__name__, kind.__qualname__
        self.__module__, self.__doc__ = kind.__module__, kind.__doc__

    def __repr__(self) -> str:
        return f"<remote class {self.__qualname__}>"

    def __instancecheck__(self, made: object) -> bool:
        """Whether it is of this class, on whichever terms and on whichever side."""
        if isinstance(made, RemoteInstance):
            kind = made._kind  # noqa: SLF001 - of the same module
            return kind.__saggar_function__ is self.__saggar_function__
        return isinstance(made, self.__saggar_function__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"{self.__qualname__}.{name}: what a remote class has is behind walls; an instance has"
            f" it, {self.__qualname__}(...).{name}, and so has the class before it is decorated"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise InvalidTask(
            f"{self.__qualname__} is remote, and nothing derives from it; let both derive from a"
            " class that is not decorated"
        )

    def __call__(self, /, *args: Any, **named: Any) -> "RemoteInstance":
        """
        A new instance, in a sandbox of its own.

        Raises:
            Exception: What its constructor raised, as for a remote function.
            Overloaded: As many live as may.
        """
        return background().call(self._opened, self._task(args, named), log_of(self._said.log))

    async def aopen(self, /, *args: Any, **named: Any) -> "RemoteInstance":
        """The same for code with an event loop, whichever."""
        return await elsewhere(self._opened, self._task(args, named), log_of(self._said.log))

    def local(self, /, *args: Any, **named: Any) -> Any:
        """An ordinary instance, in this process and without walls."""
        return self.__saggar_function__(*args, **named)

    def get(self, instance_id: str) -> "RemoteInstance":
        """
        The instance of this id, in whichever process of this user on this machine it lives.

        Raises:
            NotFound: None of this class has it; its time may be over.
        """
        return background().call(self._found, instance_id)

    def options(self, **options: Unpack[Options]) -> "RemoteClass[C]":
        """The same class on other terms."""
        return RemoteClass(self.__saggar_function__, self._said.but(options))

    def _task(self, args: Any, named: Mapping[str, Any]) -> Task:
        """What makes an instance."""
        if self._said.server:
            raise InvalidTask(
                "where: an instance lives on the machine that opens it; a server's URL is for"
                " functions, so send one that makes the object and uses it"
            )
        if self._said.where != "here":
            raise InvalidTask("where: an instance lives here; a job has no state")
        pickles = self._said.result == "pickle"
        known = self._captured
        if known is None or not known.seen.same():
            known = capturing.capture(self.__saggar_function__, pickles=pickles)
            self._captured = known
        program = Program(code=Pickled(payload=known.payload), environment=self._said.around())
        payload = capturing.encoded(args, named, self.__qualname__, known.home, known.modules)
        capturing.refuse_beyond(self._policy.limits.memory, payload, self.__qualname__)
        names = self._said.secret_names
        task = Task(program=program, env=dict(self._said.env), secrets=names)
        return task.model_copy(update={"input": payload})

    async def _opened(self, task: Task, log: Log | None) -> "RemoteInstance":
        async with turn(self._said.resource):
            return await self._opened_at_once(task, log)

    async def _opened_at_once(self, task: Task, log: Log | None) -> "RemoteInstance":
        said = self._said
        live, result = await background().platform.open_instance(
            task,
            name=self.__qualname__,
            idle=said.idle,
            max_age=said.max_age,
            policy=self._policy,
            driver=said.driver,
            log=_bytes_to(log),
            secrets=said.given(),
        )
        if live is None:
            settled(result, self.__qualname__, _plain, pickles=False)
            raise Conflict(f"{self.__qualname__}: no instance could be made")
        return RemoteInstance(self, live, said)

    async def _found(self, instance_id: str) -> "RemoteInstance":
        live = await background().platform.instance(instance_id)
        if live.name != self.__qualname__:
            raise NotFound(f"no instance of {self.__qualname__} has this id; its time may be over")
        return RemoteInstance(self, live, self._said)


class RemoteInstance:
    """
    An object behind walls. Its methods are called, and its attributes read, as if it were here.

    One call at a time; whoever comes meanwhile waits. When it ends, what it remembered is lost: the
    next call raises `StateLost`, unless its class was told `restart=True`.
    """

    def __init__(self, kind: RemoteClass[Any], live: Any, said: Said) -> None:
        self._kind, self._live, self._said = kind, live, said
        self._log = log_of(said.log)
        self._methods: dict[str, RemoteMethod] = {}

    def __repr__(self) -> str:
        return f"<remote {self._kind.__qualname__} {self._live.id[:8]}>"

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OURS:
            raise AttributeError(
                f"{name}: what a remote instance remembers is set by its methods; give"
                f" {self._kind.__qualname__} one for it, def set_{name}(self, value)"
            )
        super().__setattr__(name, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def id(self) -> str:
        """What `get` finds it by."""
        return str(self._live.id)

    @property
    def metadata(self) -> Metadata:
        """What is known of it from outside."""
        live = self._live
        if not live.here:
            background().call(live.look)
        created, used = (datetime.fromtimestamp(t, UTC) for t in (live.created, live.used))
        return Metadata(self._kind.__qualname__, created, used, live.calls)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_ASKED_BY_TOOLS) or name in _OURS:
            raise AttributeError(name)
        member = inspect.getattr_static(self._kind.__saggar_function__, name, None)
        plain = getattr(member, "__func__", member)
        if callable(plain) and not isinstance(plain, type):
            return self.method(name)
        return self._settled(background().call(self._asked, "get", name, Payload.none()), _plain)

    def __call__(self, /, *args: Any, **named: Any) -> Any:
        """Its own `__call__`."""
        return self.method("__call__")(*args, **named)

    def method(self, name: str) -> "RemoteMethod":
        """A method by its name, whatever we have of that name ourselves."""
        if name not in self._methods:
            self._methods[name] = RemoteMethod(self, name)
        return self._methods[name]

    def restart(self) -> None:
        """Make the object anew, from the same arguments and under the same id."""
        background().call(self._restarted)

    def close(self) -> None:
        """End it: its exit methods first, while its grace lasts."""
        background().call(self._live.close)

    async def aclose(self) -> None:
        """The same for code with an event loop."""
        await elsewhere(self._live.close)

    async def _restarted(self) -> None:
        async with turn(self._said.resource):
            result = await self._live.restart(_bytes_to(self._log))
        settled(result, self._kind.__qualname__, _plain, pickles=False)

    async def _asked(
        self, do: str, name: str, payload: Payload, flow: Flow | None = None
    ) -> Result[Any]:
        try:
            return await self._called(do, name, payload, flow)
        except StateLost:
            if not self._said.restart:
                raise
        await self._restarted()
        return await self._called(do, name, payload, flow)

    async def _called(self, do: str, name: str, payload: Payload, flow: Flow | None) -> Result[Any]:
        try:
            async with turn(self._said.resource):
                found: Result[Any] = await self._live.call(
                    do, name, payload, log=_bytes_to(self._log), flow=flow
                )
        except Conflict as exc:
            if not self._live.lost:
                raise
            raise StateLost(
                None,
                f"{exc}; a new one is made with {self._kind.__qualname__}(...), this one again with"
                " restart()",
            ) from None
        return found

    def _settled(self, result: Result[Any], lift: Callable[[Any], Any]) -> Any:
        return settled(result, self._kind.__qualname__, lift, pickles=self._said.result == "pickle")


class RemoteMethod:
    """A method of a live instance."""

    def __init__(self, instance: RemoteInstance, name: str) -> None:
        self._instance, self._name = instance, name
        kind = instance._kind  # noqa: SLF001 - of the same module
        self._what = f"{kind.__qualname__}.{name}"
        member = inspect.getattr_static(kind.__saggar_function__, name, None)
        plain = getattr(member, "__func__", member) or _plain
        self._annotation = Annotation(plain)
        self._generates = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)

    def __repr__(self) -> str:
        return f"<remote method {self._what}>"

    def __call__(self, /, *args: Any, **named: Any) -> Any:
        """`remote`."""
        return self.remote(*args, **named)

    def remote(self, /, *args: Any, **named: Any) -> Any:
        """
        Call it, and wait for its answer.

        Raises:
            Exception: What it raised, as for a remote function. The instance lives on.
            StateLost: The instance has ended, before this call or by it.
        """
        return self._lifted(background().call(self._asked, self._encoded(args, named)))

    async def aremote(self, /, *args: Any, **named: Any) -> Any:
        """The same for code with an event loop, whichever."""
        return self._lifted(await elsewhere(self._asked, self._encoded(args, named)))

    def stream(self, /, *args: Any, **named: Any) -> Iterator[Any]:
        """
        What it yields, one by one, while it runs; the instance does nothing else meanwhile.

        It waits inside while nobody takes. The limit of wall is that of the whole.
        """
        with self._begun(args, named) as (flow, asked):
            while (item := background().call(flow.take)) is not None:
                yield self._item(item)
            self._settled(asked.result(), _plain)

    async def astream(self, /, *args: Any, **named: Any) -> AsyncIterator[Any]:
        """The same for code with an event loop, whichever."""
        with self._begun(args, named) as (flow, asked):
            while (item := await elsewhere(flow.take)) is not None:
                yield self._item(item)
            self._settled(asked.result(), _plain)

    @contextmanager
    def _begun(
        self, args: Any, named: Mapping[str, Any]
    ) -> Iterator[tuple[Flow, Future[Result[Any]]]]:
        """A stream that has begun; interrupted, if it is left before its end."""
        if not self._generates:
            raise InvalidTask(f"{self._what} is no generator; call it without stream")
        payload, flow = self._encoded(args, named), Flow()
        ask = self._instance._asked  # noqa: SLF001 - of the same module

        async def follow() -> Result[Any]:
            try:
                return await ask("stream", self._name, payload, flow)
            finally:
                flow.end()

        asked = background().portal.start_task_soon(follow)
        try:
            yield flow, asked
        finally:
            asked.cancel()

    def _item(self, event: Yielded) -> Any:
        said = self._instance._said  # noqa: SLF001 - of the same module
        return item_of(event, self._annotation.lifted, pickles=said.result == "pickle")

    def _encoded(self, args: Any, named: Mapping[str, Any]) -> Payload:
        kind = self._instance._kind  # noqa: SLF001 - of the same module
        # What travelled with an instance that another process has opened is not known here.
        home = capturing.home_of(kind.__saggar_function__)
        payload = capturing.encoded(args, named, self._what, home)
        capturing.refuse_beyond(kind._policy.limits.memory, payload, self._what)  # noqa: SLF001
        return payload

    def _asked(self, payload: Payload) -> Coroutine[Any, Any, Result[Any]]:
        return self._instance._asked("call", self._name, payload)  # noqa: SLF001 - of the same module

    def _lifted(self, result: Result[Any]) -> Any:
        return self._settled(
            result, self._lift_each if self._generates else self._annotation.lifted
        )

    def _lift_each(self, items: Any) -> Any:
        """A generator's items, which came as a list."""
        return [self._annotation.lifted(item) for item in items] if items else items

    def _settled(self, result: Result[Any], lift: Callable[[Any], Any]) -> Any:
        said = self._instance._said  # noqa: SLF001 - of the same module
        return settled(result, self._what, lift, pickles=said.result == "pickle")


def _plain(value: Any) -> Any:
    return value


def _bytes_to(log: Log | None) -> Any:
    """A log of text as one of the bytes that come."""
    if log is None:
        return None
    return lambda stream, data: cast("Any", log)(stream, data.decode(errors="replace"))
