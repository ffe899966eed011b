"""Deadlines for calls of this process: struck in time, in the right place, and nowhere else."""

import os
import random
import sys
import threading
import time
from _thread import start_new_thread
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType

import pytest
from tests.unit.child import in_child

from saggar.errors import PlatformError
from saggar.functions import watchdog
from saggar.functions.watchdog import LEFT, WATCHDOG, Expired, timed

SOON = 0.05
"""Seconds of a deadline that is to be met."""


class Over(Exception):
    """What a call ends with whose time is over."""


class Failed(Exception):
    """What a call ends with that raised."""


def named(exc):
    if exc is None:
        raise Over from None
    if not isinstance(exc, Exception):
        raise exc
    raise Failed from exc


def limited(function, timeout=SOON):
    return timed(function, timeout, named)


def forever(_value=None):
    while True:
        pass


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


def until(condition, seconds=10):
    """Whether it comes true while we watch."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.005)
    return condition()


@contextmanager
def eager(monkeypatch):
    """Looks and changes of threads so often that each comes between any two instructions."""
    interval = sys.getswitchinterval()
    monkeypatch.setattr(watchdog, "TICK", 0.0005)
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_a_call_in_time_answers():
    assert 3 == limited(len)([1, 2, 3])


def test_a_call_that_takes_too_long_is_ended_soon_after():
    begun = time.monotonic()
    with pytest.raises(Over):
        limited(forever)(None)
    took = time.monotonic() - begun

    assert SOON <= took < SOON + 2


def test_a_call_is_never_ended_early():
    """Its clock starts when it is first seen, so what is left of a tick is a gift."""
    assert 0.2 == limited(spin, 0.5)(0.2)


def test_a_call_that_raises_is_named_with_the_cause():
    with pytest.raises(Failed) as failed:
        limited(lambda _: 1 / 0)(None)

    assert isinstance(failed.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_failure_passes_through(kind):
    def leave(_):
        raise kind

    with pytest.raises(kind):
        limited(leave)(None)


def test_code_that_catches_every_exception_is_ended_all_the_same():
    def stubborn(_):
        while True:
            with suppress(Exception):
                forever()

    with pytest.raises(Over):
        limited(stubborn)(None)


def test_code_that_catches_the_blow_as_well_is_struck_again(monkeypatch):
    monkeypatch.setattr(watchdog, "AGAIN", 0.02)
    caught: list[type] = []

    def stubborn(_):
        while len(caught) < 3:
            try:
                forever()
            except BaseException as exc:  # noqa: BLE001 - as the stubborn do
                caught.append(type(exc))
        return "at last"

    with pytest.raises(Over):
        limited(stubborn)(None)

    assert [Expired] * 3 == caught


def test_what_a_struck_call_tidies_up_is_given_time():
    tidied = []

    def tidy(_):
        try:
            forever()
        finally:
            spin(0.1)
            tidied.append(True)

    with pytest.raises(Over):
        limited(tidy)(None)

    assert [True] == tidied


def test_a_late_call_that_answers_all_the_same_was_too_late():
    def late(_):
        with suppress(BaseException):
            forever()
        return "late"

    with pytest.raises(Over):
        limited(late)(None)


def test_a_wait_in_c_ends_the_call_when_it_returns():
    with pytest.raises(Over):
        limited(time.sleep)(0.2)


def test_the_inner_call_ends_alone_when_only_its_time_is_over():
    inner = limited(forever, 0.05)

    def outer(_):
        with pytest.raises(Over):
            inner(None)
        return "went on"

    assert "went on" == limited(outer, 30)(None)


def test_the_outer_call_ends_the_inner_one():
    """The inner call does not take the blow for its own."""
    seen = []

    def outer(_):
        try:
            limited(forever, 30)(None)
        except Over:
            seen.append("inner")

    with pytest.raises(Over):
        limited(outer, 0.05)(None)

    assert [] == seen


def test_the_outer_call_ends_when_both_are_over_at_once():
    """One blow is sent for both: the inner call must not use it up."""

    def outer(_):
        while True:
            with suppress(Exception):
                limited(forever, 0.05)(None)

    with pytest.raises(Over):
        limited(outer, 0.05)(None)


def test_an_outer_call_whose_time_ends_while_an_inner_one_sleeps_in_c_ends():
    def outer(_):
        with suppress(Over):
            limited(time.sleep, 0.05)(0.2)
        forever()

    with pytest.raises(Over):
        limited(outer, 0.1)(None)


def test_three_deep_the_one_in_the_middle_ends():
    def outermost(_):
        try:
            limited(lambda _: limited(forever, 30)(None), 0.05)(None)
        except Over:
            return "middle"

    assert "middle" == limited(outermost, 30)(None)


def test_many_threads_have_a_deadline_each():
    """Every second one is in time."""

    def run(number):
        try:
            return limited(spin, 0.2 if number % 2 else 30)(0.01 if number % 4 < 2 else 0.5)
        except Over:
            return "over"

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(run, range(16)))

    assert ["over"] * 4 == found[3::4]
    assert [0.01] * 4 == found[0::4]
    assert [0.5] * 4 == found[2::4]


def test_a_thread_that_threading_does_not_know_has_a_deadline_too():
    ended = threading.Event()

    def run():
        try:
            limited(forever)(None)
        except Over:
            ended.set()

    start_new_thread(run, ())

    assert ended.wait(10)


def test_threads_that_have_ended_are_forgotten():
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(limited(spin, 30), [0.05] * 8))

    assert until(lambda: not WATCHDOG._seen and not WATCHDOG.aimed)


def test_the_watchdog_sleeps_while_nobody_calls(monkeypatch):
    monkeypatch.setattr(watchdog, "TICK", 0.001)
    limited(len)([])

    assert until(lambda: WATCHDOG.asleep)
    with pytest.raises(Over):
        limited(forever)(None)


def test_no_thread_for_the_watchdog_is_ours_to_lack(monkeypatch):
    def refused(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    dog = watchdog.Watchdog()

    with pytest.raises(PlatformError, match="no thread for the watchdog can be started"):
        dog.rouse()


# One that falls within a destructor is lost there, with a message; the call is struck again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("raising", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_a_blow_falls_within_its_call_or_not_at_all(monkeypatch, raising, nested):
    """Calls of about the length of their deadline, so that many end just as they are struck."""
    strays = []
    ends: Counter[str] = Counter()

    def work(seconds):
        spin(seconds)
        if raising:
            raise KeyError(seconds)

    inner = limited(work, 0.001)
    call = limited(inner, 0.0015) if nested else inner

    def run(seed):
        lengths = random.Random(seed)
        end = time.monotonic() + 1.5
        try:
            while time.monotonic() < end:
                ends[ended(call, lengths.uniform(0, 0.004))] += 1
                for _ in range(50):
                    pass
        except BaseException as exc:  # noqa: BLE001 - a blow where none may fall
            strays.append(exc)

    with eager(monkeypatch):
        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert [] == strays
    assert 10 < ends["over"]
    assert 10 < ends["well"]


def ended(call, seconds):
    """How a call ends."""
    try:
        call(seconds)
    except Over:
        return "over"
    except Failed:
        return "well"
    return "well"


def test_thousands_of_short_calls_with_a_tiny_deadline_go_well():
    """No call is ended before it was seen twice: too short to be seen is in time."""
    call = limited(len, 1e-6)
    for _ in range(20_000):
        with suppress(Over):
            call([])


def test_a_blow_that_is_being_aimed_is_waited_for():
    """The call ends after the watchdog has looked and before it strikes: both orders, by hand."""
    found: list[str] = []

    def struck_at_the_end(_):
        frame = sys._getframe(1)
        WATCHDOG._aiming.acquire()  # as the watchdog does
        WATCHDOG.aimed[frame] = watchdog.AIMED

        def strike(thread):
            until(lambda: found)
            watchdog._raise_in_thread(thread, Expired)
            WATCHDOG.aimed[frame] = time.monotonic()
            WATCHDOG._aiming.release()

        threading.Thread(target=strike, args=(threading.get_ident(),)).start()
        found.append("ended")

    with pytest.raises(Over):
        limited(struck_at_the_end, 30)(None)
    for _ in range(10_000):
        pass


def test_a_call_that_is_leaving_is_not_struck():
    def leaving(_):
        frame = sys._getframe(1)
        WATCHDOG.leave(frame)
        WATCHDOG._strike(frame, threading.get_ident())
        return WATCHDOG.aimed[frame]

    assert LEFT == limited(leaving, 30)(None)


def test_a_call_that_is_gone_is_not_struck():
    assert until(lambda: not WATCHDOG.aimed)  # of earlier calls
    kept: list[FrameType] = []
    limited(lambda _: kept.append(sys._getframe(1)), 30)(None)
    WATCHDOG._strike(kept[0], threading.get_ident())

    assert kept[0] not in WATCHDOG.aimed


def test_ctrl_c_at_the_deadline_goes_first():
    def interrupted(_):
        try:
            forever()
        finally:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        limited(interrupted)(None)


def test_after_a_fork_calls_have_deadlines_as_before():
    """Also those that were made before it."""
    before = limited(forever)
    with pytest.raises(Over):
        before(None)

    def child():
        for call in (before, limited(forever)):
            with pytest.raises(Over):
                call(None)
        return "both"

    assert "both" == in_child(child)


def test_a_fork_while_calls_are_in_flight_goes_on_without_their_deadline():
    """A process that a call happened to start does not die with that call."""

    def forking(_):
        def child():
            spin(0.3)
            with pytest.raises(Over):
                limited(forever)(None)
            return "lived"

        return in_child(child)

    assert "lived" == limited(forking, 30)(None)


def test_a_process_that_a_call_started_outlives_the_calls_deadline():
    started: list[tuple[int, int]] = []

    def forking(_):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                spin(0.5)
                os.write(write, b"lived")
            finally:
                os._exit(0)
        os.close(write)
        started.append((pid, read))
        forever()

    with pytest.raises(Over):
        limited(forking, 0.1)(None)
    pid, read = started[0]
    said = os.read(read, 10)
    os.close(read)
    os.waitpid(pid, 0)

    assert b"lived" == said


def test_forks_from_many_threads_with_calls_in_flight_go_well():
    def one(_):
        pid = os.fork()
        if pid == 0:
            try:
                with suppress(Over):
                    limited(forever, 0.02)(None)
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with ThreadPoolExecutor(4) as pool:
        assert {0} == set(pool.map(limited(one, 30), range(16)))
