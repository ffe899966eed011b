"""
The watchdog: deadlines for calls in this process, which the calls themselves know nothing of.

A call that has a deadline is a frame of `timed`, and a frame can be seen from another thread. So a
call only makes sure that somebody looks. While there are calls, one thread looks at the stacks of
all threads every few milliseconds, remembers when it first saw each such frame, and raises
`Expired` in the thread of one that has stood there for too long. Python delivers that between two
of its own instructions: code that waits in C is not interrupted before it returns.
"""

import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, NoReturn, TypeVar

from saggar.errors import PlatformError

A = TypeVar("A")
B = TypeVar("B")

TICK: Final = 0.02
"""Seconds between two looks. The first one starts a call's clock: it is late by two at most."""
IDLE: Final = 100
"""Looks at nothing before the thread goes to sleep; to wake it costs a call some microseconds."""
AGAIN: Final = 1.0
"""Seconds after which a call that caught the blow and went on is struck again."""
AIMED, LEFT = 0.0, math.inf

_raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in_thread.argtypes = [ctypes.c_ulong, ctypes.py_object]


class Expired(BaseException):
    """The time of a call is over. Not an `Exception`: what it ends must not take it for one."""


class Watchdog:
    """The thread that looks; one per process."""

    def __init__(self) -> None:
        self.asleep = True
        self.aimed: dict[FrameType, float] = {}
        """Calls whose time is over: when the blow was sent, AIMED before that, LEFT at the end."""
        self._seen: dict[FrameType, float] = {}
        self._lock = threading.Lock()
        self._aiming = threading.Lock()
        self._wake = threading.Event()
        self._started = False

    def rouse(self) -> None:
        """Look again: there is a call. For calls that find it asleep."""
        with self._lock:
            if not self._started:
                self._start()
            self.asleep = False
        self._wake.set()

    def _start(self) -> None:
        thread = threading.Thread(target=self._watch, name="saggar-watchdog", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            raise PlatformError(f"no thread for the watchdog can be started: {exc}") from exc
        self._started = True

    def forget(self) -> None:
        """
        After a fork: our thread stayed behind, and so did all others but the one that forked.

        The calls it is in go on here without a deadline. They are the parent's, and a process of a
        pool that happened to be started inside of one must not end with it.
        """
        self.__init__()  # type: ignore[misc]
        self.aimed = {frame: LEFT for frame, _ in _calls()}
        _take_blow()

    def leave(self, frame: FrameType) -> bool:
        """
        The call in `frame` is about to end: whether its time was over. It is not struck any more.

        Raises:
            Expired: The time of a call around it is over, which ends this one as well.
        """
        with self._aiming:
            around = bool(self.aimed) and any(map(self._is_over, _timed(frame.f_back)))
            struck = self._is_over(frame)
            if struck or around:
                _take_blow()
            self.aimed[frame] = LEFT
        if around:
            raise Expired
        return struck

    def _is_over(self, frame: FrameType) -> bool:
        return self.aimed.get(frame, LEFT) != LEFT

    def _watch(self) -> None:
        idle = 0
        while True:
            time.sleep(TICK)
            idle = 0 if self._look() else idle + 1
            if idle > IDLE:
                self._sleep()
                idle = 0

    def _sleep(self) -> None:
        self._wake.clear()
        self.asleep = True
        # A call that began before it could see that is found by one more look.
        if self._look():
            self.asleep = False
            return
        self._wake.wait()  # for as long as nobody calls

    def _look(self) -> bool:
        """Whether there is any call; of each thread's, the outermost over its time is struck."""
        now = time.monotonic()
        known = list(self.aimed)
        found = dict(_calls())
        self._seen = {frame: self._seen.get(frame, now) for frame in found}
        for frame in known:
            if frame not in found:
                del self.aimed[frame]
        # Only one blow can be on its way to a thread. The last frame of each is its outermost one,
        # whose end is that of the calls within it.
        over = {
            thread: frame
            for frame, thread in found.items()
            if now >= self._seen[frame] + frame.f_locals["timeout"]
        }
        for thread, frame in over.items():
            if now >= self.aimed.get(frame, -AGAIN) + AGAIN:
                self._strike(frame, thread)
        return bool(found)

    def _strike(self, frame: FrameType, thread: int) -> None:
        """
        Aim, look whether the call is still there, strike.

        A call looks whether any was aimed at between two instructions of which the second one ends
        it, and Python changes threads at neither. So either it sees that and waits for us to be
        done, or we see that it is gone.
        """
        with self._aiming:
            if self.aimed.get(frame) == LEFT:
                return
            self.aimed[frame] = AIMED
            if any(other is frame for other, _ in _calls()):
                _raise_in_thread(thread, Expired)
                self.aimed[frame] = time.monotonic()
            else:
                del self.aimed[frame]


def timed(
    function: Callable[[A], B], timeout: float, failed: Callable[[BaseException | None], NoReturn]
) -> Callable[[A], B]:
    """
    `function` with a deadline, for some tens of nanoseconds.

    `failed` raises what its end is called: it is given the exception, or None when time was over.
    """
    dog = WATCHDOG

    def call(value: A, timeout: float = timeout) -> B:  # noqa: ARG001 - read by the watchdog
        if dog.asleep:
            dog.rouse()
        try:
            try:
                answer = function(value)
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it has a name for callers
                failed(_cause(exc, over=dog.leave(sys._getframe())))  # noqa: SLF001
            if dog.aimed and dog.leave(sys._getframe()):  # noqa: SLF001
                failed(None)
        except Expired:
            # Our own blow, fallen while we looked; or that for a call around, which goes on to it.
            dog.leave(sys._getframe())  # noqa: SLF001
            failed(None)
        return answer

    return call


def _take_blow() -> None:
    """
    Catch a blow that is on its way to this thread, if there is one.

    To call it off, with no exception in its place, would leave Python looking for one at every turn
    from then on; and traced, as by coverage, it would never get past the next function's beginning.
    """
    try:
        for _ in range(100):  # it falls at the first turn
            pass
    except Expired:
        pass


def _cause(exc: BaseException, *, over: bool) -> BaseException | None:
    """What ended a call; None is the clock. Ctrl-C and `sys.exit` at that instant go first."""
    return None if over and isinstance(exc, Exception | Expired) else exc


def _calls() -> Iterator[tuple[FrameType, int]]:
    """Every call with a deadline, with its thread; of each thread the innermost one first."""
    for thread, top in sys._current_frames().items():  # noqa: SLF001 - there is no other way in
        for frame in _timed(top):
            yield frame, thread


def _timed(frame: FrameType | None) -> Iterator[FrameType]:
    """The calls with a deadline among a frame and all that stand around it."""
    while frame is not None:
        if frame.f_code is _CODE:
            yield frame
        frame = frame.f_back


WATCHDOG: Final = Watchdog()
os.register_at_fork(after_in_child=WATCHDOG.forget)
_CODE: Final = timed(len, 1.0, NotImplemented).__code__
