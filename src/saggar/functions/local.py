"""
Functions of our own, called here: for code that is trusted, and must cost next to nothing.

The time of a call is kept by a watchdog, which cannot interrupt what waits inside C code (a sleep,
a regular expression, linear algebra): the call ends when that returns. `isolation="fork"` ends it
whatever it does, for some milliseconds more.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, cast

import anyio
import anyio.from_thread
import anyio.to_thread

from saggar.errors import ExecutionTimeout, InvalidOutput, InvalidTask, UsageError
from saggar.functions import forked
from saggar.functions.executor import A, B, Executor
from saggar.functions.watchdog import timed
from saggar.model.quantity import parse_seconds

if TYPE_CHECKING:
    from saggar.model.schema import Source

TIMEOUT = 30.0
"""Seconds, unless said otherwise."""


class LocalExecutor(Executor[A, B], partial[B]):
    """
    A function of this process, with a deadline, and a schema on each side where one is given.

        LocalExecutor(lambda values: sum(values), timeout=3)([1, 2, 3])

    The function takes one argument; it may be a coroutine function. With types,
    `LocalExecutor[Input, Output](...)`, it gets and gives values of these.

    A `functools.partial` by descent: Python calls those without a look at any `__call__` of a
    class, which alone would cost as much as the deadline and both schemas may.
    """

    def __new__(cls, *_args: Any, **_options: Any) -> Self:
        """What is called is known when the options are."""
        return partial.__new__(cls, cls.execute)

    def __init__(
        self,
        fn: "Callable[[A], B] | Callable[[A], Awaitable[B]]",
        *,
        timeout: float | str = TIMEOUT,
        schema_in: "Source | None" = None,
        schema_out: "Source | None" = None,
        isolation: Literal["thread", "fork"] = "thread",
    ) -> None:
        if not callable(fn):
            raise InvalidTask(f"execute function is required; found {fn!r:.80}")
        if isolation not in {"thread", "fork"}:
            raise InvalidTask(f"isolation: wanted 'thread' or 'fork', found {isolation!r:.40}")
        super().__init__(schema_in, schema_out)
        self._fn = cast("Callable[[A], B]", fn)
        self._timeout = _positive(timeout)
        self._asynchronous = _is_asynchronous(fn)
        self._forked = isolation == "fork"
        self._timed = timed(self._fn, self._timeout, self._ended)
        plain = self._in.plain and self._out.plain
        self._direct = plain and not (self._asynchronous or self._forked)
        target = self._checking() if self._direct else self.execute
        cast("Any", self).__setstate__((target, (), {}, self.__dict__))

    __call__ = partial.__call__

    def __repr__(self) -> str:
        """The function, and its deadline."""
        name = getattr(self._fn, "__qualname__", repr(self._fn))
        return f"{type(self).__name__}({name}, timeout={self._timeout:g})"

    def _checking(self) -> Callable[[A], B]:
        """The function with its deadline between the two schemas, those that there are."""
        call, lower, lift = self._timed, self._lower, self._lift
        takes, gives = self._in.is_valid or _anything, self._out.is_valid or _anything
        if takes is gives is _anything:
            return call

        def checked(value: A) -> B:
            try:
                allowed = takes(value)
            except ValueError:  # no JSON form
                allowed = False
            if not allowed:
                lower(value)
            answer = call(value)
            try:
                allowed = gives(answer)
            except ValueError:
                allowed = False
            if not allowed:
                lift(answer)
            return answer

        return checked

    def execute(self, value: A) -> B:
        """The answer to `value`; see `Executor.execute`."""
        if self._direct:
            return self(value)
        argument = self._argument(value)
        return self._checked(self._fork(argument) if self._forked else self._run(argument))

    async def aexecute(self, value: A) -> B:
        """The same for code with an event loop, which goes on meanwhile."""
        if self._forked:
            return await anyio.to_thread.run_sync(self._forked_here, value)
        if not self._asynchronous:
            return await anyio.to_thread.run_sync(self.execute, value)
        return self._checked(await self._awaited(self._argument(value)))

    def _forked_here(self, value: A) -> B:
        """A forked call in a thread of its own, ended when the task that waits for it is."""
        return self._checked(self._fork(self._argument(value), anyio.from_thread.check_cancelled))

    def _fork(self, argument: A, check: Callable[[], None] | None = None) -> Any:
        try:
            return forked.call(
                self._fn, argument, timeout=self._timeout, lower=self._out.lower, check=check
            )
        except TimeoutError:
            self._timed_out()

    def _checked(self, answer: Any) -> B:
        """The answer, made anew of its JSON form as it is behind a wall, if that is allowed."""
        try:
            plain = self._out.lower(answer)
        except ValueError as exc:
            raise InvalidOutput(None, str(exc)) from exc
        return self._lift(plain)

    def _run(self, argument: A) -> B:
        if not self._asynchronous:
            return self._timed(argument)
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            raise UsageError("an event loop runs here; use `await executor.aexecute(value)`")
        return anyio.run(self._awaited, argument)

    def _ended(self, exc: BaseException | None) -> NoReturn:
        """Raise what a call's end is called: its time was over, or it raised."""
        if exc is None:
            self._timed_out()
        if not isinstance(exc, Exception):
            raise exc  # Ctrl-C, sys.exit, or the end of a call around this one
        self._failed(exc)

    def _timed_out(self) -> NoReturn:
        raise ExecutionTimeout(None, f"{self._timeout:g}s") from None

    async def _awaited(self, argument: A) -> B:
        call = cast("Callable[[A], Awaitable[B]]", self._fn)
        try:
            with anyio.fail_after(self._timeout) as scope:
                return await call(argument)
        except TimeoutError as exc:
            if scope.cancelled_caught:
                self._timed_out()
            self._failed(exc)
        except Exception as exc:  # noqa: BLE001 - whatever the function raises is its failure
            self._failed(exc)


def _anything(_value: object) -> bool:
    return True


def _is_asynchronous(fn: object) -> bool:
    """Whether calling it makes a coroutine, a function or an object that can be called."""
    called = getattr(fn, "__call__", None)  # noqa: B004 - what it is matters, not whether
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(called)


def _positive(timeout: float | str) -> float:
    try:
        seconds = parse_seconds(timeout)
    except ValueError as exc:
        raise InvalidTask(f"timeout: {exc}") from None
    if not seconds > 0:
        raise InvalidTask(f"timeout: must be greater than 0, found {timeout!r}")
    return seconds
