"""
Many calls at once: a crew on the platform's thread works off what the caller's thread lays ready.

A little more lies ready than is under way, so that neither waits for the other for each call.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from typing import Any, Generic, TypeVar

import anyio

from saggar.platform import background

C = TypeVar("C")
T = TypeVar("T")
READY = 4
"""Calls that are under way or lie ready, for each that may be under way."""


class Crew(Generic[C, T]):
    """So many who take what lies ready, one after the other, and end with the caller's interest."""

    def __init__(self, perform: Callable[[C], Awaitable[T]], many: int) -> None:
        self._perform, self._many = perform, many
        self._ready: deque[tuple[C, Future[T]]] = deque()
        self._woken: anyio.Event | None = None
        self._closed = False
        self._portal = background().portal
        self._work = self._portal.start_task_soon(self._main)

    def begin(self, call: C) -> Future[T]:
        """Lay a call ready, from the caller's thread."""
        future: Future[T] = Future()
        if self._closed:
            future.cancel()
            return future
        self._ready.append((call, future))
        self._wake()
        return future

    def close(self) -> None:
        """Nothing more comes, and what is under way is wanted no more."""
        self._closed = True
        self._work.cancel()

    def _wake(self) -> None:
        # Whoever waits has looked again since it said so: nothing is laid ready unseen.
        woken, self._woken = self._woken, None
        if woken is not None:
            self._portal.start_task_soon(_set, woken)

    async def _main(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(self._many):
                    tasks.start_soon(self._take)
        finally:
            self._closed = True
            while self._ready:  # or somebody would wait for ever
                self._ready.popleft()[1].cancel()

    async def _take(self) -> None:
        while not self._closed:
            try:
                call, future = self._ready.popleft()
            except IndexError:
                await self._wait()
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                found = await self._perform(call)
            except Exception as exc:  # noqa: BLE001 - it is raised by who asks for the result
                future.set_exception(exc)
            except BaseException:
                future.set_exception(CancelledError())
                raise
            else:
                future.set_result(found)

    async def _wait(self) -> None:
        woken = self._woken = self._woken or anyio.Event()
        if not self._ready:
            await woken.wait()


async def _set(event: anyio.Event) -> None:
    event.set()


def worked_off(
    calls: Iterator[C], perform: Callable[[C], Awaitable[T]], many: int, *, ordered: bool
) -> Iterator[Future[T]]:
    """
    What comes of calls that are taken as they are needed.

    Wait for each before asking for the next: at the end what is under way is wanted no more.
    """
    crew = Crew(perform, many)
    try:
        begun = map(crew.begin, calls)
        yield from (in_order if ordered else as_they_come)(begun, many * READY)
    finally:
        crew.close()


def in_order(begun: Iterator[Future[T]], most: int) -> Iterator[Future[T]]:
    """Each when its turn has come, with so many begun."""
    under_way: deque[Future[Any]] = deque()
    try:
        for future in begun:
            under_way.append(future)
            if len(under_way) >= most:
                yield under_way.popleft()
        while under_way:
            yield under_way.popleft()
    finally:
        for future in under_way:
            future.cancel()


def as_they_come(begun: Iterator[Future[T]], most: int) -> Iterator[Future[T]]:
    """Each when it is done."""
    under_way: set[Future[T]] = set()
    try:
        for future in begun:
            under_way.add(future)
            if len(under_way) >= most:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from done
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            yield from done
    finally:
        for future in under_way:
            future.cancel()
