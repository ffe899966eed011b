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
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar, Unpack, cast

from saggar.errors import Conflict, InvalidTask, NotFound
from saggar.functions import capture as capturing
from saggar.functions.annotated import Annotation
from saggar.functions.answers import settled
from saggar.functions.errors import StateLost
from saggar.functions.options import Log, Options, Said, log_of
from saggar.functions.remote import elsewhere
from saggar.model.codec import Payload
from saggar.model.program import Pickled, Program
from saggar.model.result import Result
from saggar.model.task import Task
from saggar.platform import background

_ASKED_BY_TOOLS = ("__", "_repr_", "_ipython_")
"""What Python and notebooks look for in every object; it is not worth a call."""
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

    def __call__(self, *args: Any, **named: Any) -> "RemoteInstance":
        """
        A new instance, in a sandbox of its own.

        Raises:
            Exception: What its constructor raised, as for a remote function.
            Overloaded: As many live as may.
        """
        return background().call(self._opened, self._task(args, named), log_of(self._said.log))

    async def aopen(self, *args: Any, **named: Any) -> "RemoteInstance":
        """The same for code with an event loop, whichever."""
        return await elsewhere(self._opened, self._task(args, named), log_of(self._said.log))

    def local(self, *args: Any, **named: Any) -> Any:
        """An ordinary instance, in this process and without walls."""
        return self.__saggar_function__(*args, **named)

    def get(self, instance_id: str) -> "RemoteInstance":
        """
        The instance of this id.

        Raises:
            NotFound: None of this class has it; its time may be over.
        """
        return background().call(self._found, instance_id)

    def options(self, **options: Unpack[Options]) -> "RemoteClass[C]":
        """The same class on other terms."""
        return RemoteClass(self.__saggar_function__, self._said.but(options))

    def _task(self, args: Any, named: Mapping[str, Any]) -> Task:
        """What makes an instance."""
        if self._said.where != "here":
            raise InvalidTask("where: an instance lives here; a job has no state")
        pickles = self._said.result == "pickle"
        known = self._captured
        if known is None or not known.seen.same():
            known = capturing.capture(self.__saggar_function__, pickles=pickles)
            self._captured = known
        program = Program(code=Pickled(payload=known.payload), environment=self._said.around())
        payload = capturing.encoded(args, named, self.__qualname__)
        task = Task(program=program, env=dict(self._said.env))
        return task.model_copy(update={"input": payload})

    async def _opened(self, task: Task, log: Log | None) -> "RemoteInstance":
        said = self._said
        live, result = await background().platform.open_instance(
            task,
            name=self.__qualname__,
            idle=said.idle,
            max_age=said.max_age,
            policy=self._policy,
            driver=said.driver,
            log=_bytes_to(log),
        )
        if live is None:
            settled(result, self.__qualname__, _plain, pickles=False)
            raise Conflict(f"{self.__qualname__}: no instance could be made")
        return RemoteInstance(self, live, said)

    async def _found(self, instance_id: str) -> "RemoteInstance":
        live = background().platform.live.instance(instance_id)
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
        created, used = (datetime.fromtimestamp(t, UTC) for t in (live.created, live.used))
        return Metadata(self._kind.__qualname__, created, used, live.calls)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_ASKED_BY_TOOLS) or name in {
            "_kind",
            "_live",
            "_said",
            "_log",
            "_methods",
        }:
            raise AttributeError(name)
        member = inspect.getattr_static(self._kind.__saggar_function__, name, None)
        plain = getattr(member, "__func__", member)
        if callable(plain) and not isinstance(plain, type):
            return self.method(name)
        return self._settled(background().call(self._asked, "get", name, Payload.none()), _plain)

    def __call__(self, *args: Any, **named: Any) -> Any:
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
        result = await self._live.restart(_bytes_to(self._log))
        settled(result, self._kind.__qualname__, _plain, pickles=False)

    async def _asked(self, do: str, name: str, payload: Payload) -> Result[Any]:
        try:
            return await self._called(do, name, payload)
        except StateLost:
            if not self._said.restart:
                raise
        await self._restarted()
        return await self._called(do, name, payload)

    async def _called(self, do: str, name: str, payload: Payload) -> Result[Any]:
        try:
            found: Result[Any] = await self._live.call(do, name, payload, log=_bytes_to(self._log))
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
        self._annotation = Annotation(getattr(member, "__func__", member) or _plain)

    def __repr__(self) -> str:
        return f"<remote method {self._what}>"

    def __call__(self, *args: Any, **named: Any) -> Any:
        """`remote`."""
        return self.remote(*args, **named)

    def remote(self, *args: Any, **named: Any) -> Any:
        """
        Call it, and wait for its answer.

        Raises:
            Exception: What it raised, as for a remote function. The instance lives on.
            StateLost: The instance has ended, before this call or by it.
        """
        return self._lifted(background().call(self._asked, self._encoded(args, named)))

    async def aremote(self, *args: Any, **named: Any) -> Any:
        """The same for code with an event loop, whichever."""
        return self._lifted(await elsewhere(self._asked, self._encoded(args, named)))

    def _encoded(self, args: Any, named: Mapping[str, Any]) -> Payload:
        return capturing.encoded(args, named, self._what)

    def _asked(self, payload: Payload) -> Coroutine[Any, Any, Result[Any]]:
        return self._instance._asked("call", self._name, payload)  # noqa: SLF001 - of the same module

    def _lifted(self, result: Result[Any]) -> Any:
        said = self._instance._said  # noqa: SLF001 - of the same module
        pickles = said.result == "pickle"
        return settled(result, self._what, self._annotation.lifted, pickles=pickles)


def _plain(value: Any) -> Any:
    return value


def _bytes_to(log: Log | None) -> Any:
    """A log of text as one of the bytes that come."""
    if log is None:
        return None
    return lambda stream, data: cast("Any", log)(stream, data.decode(errors="replace"))
