"""Remote functions and classes as their users meet them: real jails, and guests that lie."""

import gc
import os
import resource
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import numpy as np
import pytest
from pydantic import BaseModel
from tests.unit.child import in_child

import saggar
from saggar.errors import Conflict, InvalidTask, NotFound, PolicyDenied
from saggar.functions.classes import enter
from saggar.functions.classes import exit as leave
from saggar.functions.errors import (
    InvalidAnswer,
    RemoteCrash,
    RemoteError,
    RemoteOutOfMemory,
    RemoteTimeout,
    StateLost,
    Unportable,
)
from saggar.functions.options import Retry
from saggar.functions.remote import remote
from saggar.platform import Platform, background

NUMPY: Any = {
    "environment": saggar.Environment(host_packages=True),
    "policy": saggar.Policy(host_packages=True),
    "limits": {"memory": "512MiB", "wall": 30},
}
OFFSET = 10


@dataclass
class Point:
    x: float
    y: float = 0.0


class Named(BaseModel):
    name: str
    points: list[Point]


class OddError(Exception):
    """One that is defined beside the functions."""


def shifted(x: int) -> int:
    return x + OFFSET


@remote
def add(x: int, y: int = 1) -> int:
    return shifted(x) + y


@remote
def point(x: float) -> Point:
    return Point(x)


@remote
async def slowly(x: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return x


@remote
def counted(n: int):
    yield from range(n)


@remote
async def acounted(n: int):
    for number in range(n):
        yield number


@remote
def raises(name: str) -> None:
    if name == "odd":
        raise OddError("odd", 1)
    raise {"key": KeyError, "exit": SystemExit, "stop": StopIteration}[name]("it")


def test_it_is_called_as_it_would_be_here():
    assert 13 == add(2)
    assert 15 == add.remote(2, y=3)
    assert 13 == add.local(2)
    assert 5 == slowly(5)


def test_it_finds_the_variables_that_it_was_given():
    @remote(env={"CITY": "Seattle"})
    def city():
        return os.environ["CITY"]

    assert "Seattle" == city()


def test_what_changes_beside_it_is_seen_by_the_next_call(monkeypatch):
    before = add(0)
    monkeypatch.setitem(globals(), "OFFSET", 20)

    assert (11, 21) == (before, add(0))


async def test_it_works_inside_a_running_loop_and_from_threads():
    assert 13 == add(2)
    assert 13 == await add.aremote(2)
    assert 7 == await slowly.aremote(7)
    with ThreadPoolExecutor(4) as threads:
        assert [11, 12, 13, 14] == list(threads.map(add, range(4)))


def test_a_call_that_is_cancelled_ends_its_sandbox():
    @remote(limits={"wall": 50, "cpu": 50})
    def for_ever():
        while True:
            pass

    async def impatient():
        with anyio.move_on_after(0.5):
            await for_ever.aremote()

    begun = time.monotonic()
    anyio.run(impatient)

    assert time.monotonic() - begun < 10


def test_an_answer_is_what_it_is_annotated_as():
    assert Point(2.0) == point(2.0)

    @remote
    def model() -> Named:
        return Named(name="a", points=[Point(1.0)])

    @remote
    def untyped():
        return Named(name="a", points=[Point(1.0)])

    told = {name: NUMPY[name] for name in ("environment", "policy")}
    assert {"name": "a", "points": [{"x": 1.0, "y": 0.0}]} == untyped.options(**told)()
    assert Named(name="a", points=[Point(1.0)]) == model.options(**told)()


def test_an_answer_that_is_not_as_annotated_says_so():
    @remote
    def wrong() -> Point:
        return {"z": 1}  # type: ignore[return-value]

    with pytest.raises(InvalidAnswer, match="not as annotated"):
        wrong()


def test_arrays_go_in_and_out_also_large_ones():
    @remote(**NUMPY)
    def doubled(a):
        a *= 2
        return {"a": a, "sum": a.sum()}

    for size in (3, 2_000_000):
        given = np.arange(size, dtype="f8")
        found = doubled(given)

        assert (given * 2 == found["a"]).all()
        assert float(given.sum() * 2) == found["sum"]
        assert found["a"].flags.writeable
        assert 1.0 == given[1]  # the caller's own is as it was


def test_a_dataclass_with_an_array_in_it_is_made_again():
    @dataclass
    class Fit:
        weights: np.ndarray
        at: Point | None = None

    def fit() -> Fit:
        return Fit(np.ones(2), Point(1.0))

    fit.__annotations__["return"] = Fit
    found = remote(**NUMPY)(fit)()

    assert isinstance(found, Fit)
    assert [1.0, 1.0] == found.weights.tolist()
    assert Point(1.0) == found.at


def test_a_pickle_comes_back_only_where_it_was_asked_for():
    @remote
    def ranged():
        return slice(1, 2)

    with pytest.raises(ValueError, match=r"slice has no JSON form.*result='pickle'"):
        ranged()
    assert slice(1, 2) == ranged.options(result="pickle")()


def test_exceptions_keep_their_type_and_tell_where_they_were_raised():
    with pytest.raises(KeyError) as found:
        raises("key")

    assert isinstance(found.value, RemoteError)
    assert "in raises" in found.value.remote_traceback
    assert 'SystemExit}[name]("it")' not in found.value.remote_traceback.splitlines()[0]
    assert 'KeyError, "exit"' in found.value.remote_traceback
    with pytest.raises(OddError) as odd:
        raises("odd")
    assert ("odd", 1) == odd.value.args


@pytest.mark.parametrize("name", ["exit", "stop"])
def test_what_would_end_the_caller_is_a_remote_error(name):
    with pytest.raises(RemoteError) as found:
        raises(name)

    assert not isinstance(found.value, SystemExit | StopIteration)


def test_each_end_is_an_error_of_its_own():
    @remote(timeout=0.3)
    def sleeps():
        print("begun", flush=True)  # noqa: T201
        time.sleep(30)

    @remote(limits={"memory": "64MiB"})
    def eats():
        return len(bytearray(1 << 30))

    @remote
    def crashes():
        os.kill(os.getpid(), 11)

    with pytest.raises(RemoteTimeout) as late:
        sleeps()
    assert isinstance(late.value, TimeoutError)
    assert "begun\n" == late.value.stdout
    with pytest.raises(MemoryError) as full:
        eats()
    assert isinstance(full.value, RemoteOutOfMemory)
    with pytest.raises(RemoteCrash, match="SIGSEGV"):
        crashes()


def test_what_it_prints_is_shown_at_once_where_that_is_asked_for(capsys):
    said = []

    @remote(log=lambda stream, text: said.append((stream, text)))
    def talks():
        print("hello")  # noqa: T201
        print("trouble", file=sys.stderr)  # noqa: T201

    talks()
    talks.options(log=True)()

    assert {("stdout", "hello\n"), ("stderr", "trouble\n")} == set(said)
    assert ("hello\n", "trouble\n") == tuple(capsys.readouterr())


def test_a_generator_is_streamed_and_waits_for_who_takes():
    assert [0, 1, 2] == list(counted.stream(3))
    assert [0, 1, 2] == list(acounted.stream(3))
    stream = counted.stream(10**9)
    assert [0, 1] == [next(stream), next(stream)]
    stream.close()  # type: ignore[attr-defined]
    with pytest.raises(InvalidTask, match=r"counted\.stream"):
        counted(3)


def test_what_a_generator_raises_comes_after_what_it_gave():
    @remote
    def gives_up():
        yield 1
        raise ValueError("enough")

    stream = gives_up.stream()

    assert 1 == next(stream)
    with pytest.raises(ValueError, match="enough"):
        next(stream)


async def test_a_generator_is_streamed_inside_a_loop():
    assert [0, 1, 2] == [number async for number in counted.astream(3)]


def test_map_keeps_the_order_takes_items_as_needed_and_may_keep_failures():
    @remote
    def half(x: int) -> float:
        return 10 / x

    taken = []

    def items():
        for number in range(1, 100):
            taken.append(number)
            yield number

    found = half.map(items(), concurrency=2)

    assert [10.0, 5.0] == [next(found), next(found)]
    assert len(taken) < 12
    found.close()  # type: ignore[attr-defined]
    kept = list(half.map([1, 0, 2], return_exceptions=True))
    assert (10.0, 5.0) == (kept[0], kept[2])
    assert isinstance(kept[1], ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        list(half.map([1, 0, 2]))
    assert {10.0, 5.0} == set(half.map([1, 2], ordered=False))
    assert [13, 26] == list(add.starmap([(1, 2), (12, 4)]))
    assert [13, 26] == list(add.map([1, 12], [2, 4]))


async def test_map_inside_a_loop():
    assert [11, 12, 13] == [found async for found in add.amap(range(3))]


def test_options_are_checked_when_they_are_given():
    with pytest.raises(NotFound, match="did you mean 'timeout'"):
        remote(timeuot=3)  # type: ignore[call-overload]
    with pytest.raises(InvalidTask, match="wanted names"):
        remote(secrets="TOKEN")
    with pytest.raises(InvalidTask, match="'here', 'queue' or the URL of a server"):
        add.options(where="elsewhere")
    with pytest.raises(InvalidTask, match="found 'http://'"):
        add.options(where="http://:password@")
    with pytest.raises(InvalidTask, match=r"limits\.wall"):
        add.options(timeout=-1)
    with pytest.raises(PolicyDenied, match="pickled"):
        add.options(policy=saggar.Policy(accept=frozenset({"named"})))(1)


def test_an_own_exception_is_tried_again_only_where_that_was_said(tmp_path):
    calls = []

    def log(stream, text):
        calls.append(text)

    @remote(retries=Retry(2, on=(OddError,)), log=log)
    def fails():
        print("called", flush=True)  # noqa: T201
        raise OddError

    with pytest.raises(OddError):
        fails()
    assert 3 == len(calls)
    calls.clear()
    with pytest.raises(OddError):
        fails.options(retries=2)()
    assert 1 == len(calls)


def test_modules_of_the_project_and_a_main_program_travel(tmp_path):
    (tmp_path / "prices.py").write_text(
        "from saggar.functions.remote import remote\n\n"
        "@remote(limits={'wall': 5})\ndef vat(x): return x * 2\n\n"
        "def gross(x): return vat(x) + vat.remote(x)\n"
    )
    (tmp_path / "app.py").write_text(
        textwrap.dedent(
            """
            import prices
            from saggar.functions.remote import remote

            RATE = 10

            @remote
            def total(x):
                return helper(x) + RATE

            def helper(x):
                return prices.gross(x)

            @remote
            def recursive(n):
                return 1 if n < 2 else n * recursive(n - 1)

            if __name__ == "__main__":
                print(total(3), total.modules, recursive(5))
                try:
                    remote(lambda: 1 / 0)()
                except ZeroDivisionError as exc:
                    print("remote(lambda: 1 / 0)()" in exc.remote_traceback)  # noqa: T201
            """
        )
    )
    found = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert "" == found.stderr
    assert "22 ('prices',) 120\nTrue\n" == found.stdout


def test_what_a_project_is_made_of_may_be_an_argument(tmp_path):
    (tmp_path / "shapes.py").write_text(
        textwrap.dedent(
            """
            import enum
            from dataclasses import dataclass
            from typing import NewType
            from saggar.functions.remote import remote

            UserId = NewType("UserId", int)

            class Color(enum.Enum):
                RED = 1

            @dataclass
            class Point:
                x: float
                y: float

            @remote
            def mirrored(p: Point, c: Color = Color.RED, u: UserId = 0) -> Point:
                assert isinstance(p, Point) and c is Color.RED
                return Point(p.y, p.x)

            @remote
            class Keeper:
                def __init__(self, p): self.p = p
                def swapped(self, other) -> Point:
                    return Point(other.y, self.p.x)
            """
        )
    )
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    (tmp_path / "parts" / "deep" / "units.py").write_text("class Meter:\n    n = 3\n")
    (tmp_path / "app.py").write_text(
        textwrap.dedent(
            """
            import importlib
            import shapes
            from parts.deep.units import Meter
            from saggar.functions.remote import remote

            @remote
            def measured(m): return m.n

            @remote
            def late(): return importlib.import_module("parts.deep.units").Meter.n

            if __name__ == "__main__":
                p = shapes.Point(1, 2)
                print(shapes.mirrored(p), shapes.mirrored(p, shapes.Color.RED, shapes.UserId(3)))
                print(list(shapes.mirrored.map([p])), measured([Meter()][0]), late())
                with shapes.Keeper(p) as keeper:
                    print(keeper.swapped(shapes.Point(5, 6)))
                print(remote(lambda a: a.x)(p), remote(lambda a, b: (a.append(2), b))([1], 3)[1])
            """
        )
    )
    found = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    turned = "Point(x=2.0, y=1.0)"
    assert "" == found.stderr
    assert f"{turned} {turned}\n[{turned}] 3 3\nPoint(x=6.0, y=1.0)\n1 3\n" == found.stdout


def test_its_input_is_empty_and_its_arguments_have_any_name():
    with pytest.raises(EOFError):
        remote(lambda _: input())({"not": "read"})

    assert {"self": 1, "function": 2} == remote(lambda **named: named)(self=1, function=2)


def test_a_whole_result_has_the_value_of_the_function_in_it():
    assert (Point(3.0), Point(3.0)) == (point.call(3).value, point.call(3).unwrap())
    assert "wanted int" in str(remote(text_for_a_number).call().error)


def text_for_a_number() -> int:
    return "5"  # type: ignore[return-value]


def test_a_group_of_exceptions_and_what_they_hold_come_over():
    @remote
    def several():
        odd = OddError("odd")
        odd.code = 5  # type: ignore[attr-defined]
        raise ExceptionGroup("several", [odd, FileNotFoundError(2, "none", "a.txt")])

    codes, names = [], []
    try:
        several()
    except* OddError as group:
        codes = [vars(one)["code"] for one in group.exceptions]
    except* FileNotFoundError as group:
        names = [one.filename for one in group.exceptions]

    assert ([5], ["a.txt"]) == (codes, names)


def test_items_that_nobody_asked_for_are_not_kept():
    """A log is what makes every event of a call come by here."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @remote(log=lambda *_: None)
    def floods():
        import json
        import struct

        head = json.dumps({"media_type": "application/vnd.saggar.answer", "more": True}).encode()
        blob = b"\2\0\0\0{}" + b"x" * 1_000_000
        one = memoryview(struct.pack("<BBxxII", 1, 4, len(head), len(blob)) + head + blob)
        for _ in range(200):
            left = one
            while left:
                left = left[os.write(3, left) :]
        return 1

    assert 1 == floods()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


# Classes.


class Counting:
    """One that counts what is asked of it."""

    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.ready = False

    @enter
    def load(self) -> None:
        self.ready = True

    @leave
    def unload(self) -> None:
        print("unloaded", flush=True)  # noqa: T201

    def add(self, x: int = 1) -> int:
        self.n += x
        return self.n

    async def later(self) -> int:
        return self.n

    def at(self) -> Point:
        return Point(self.n)

    def fail(self) -> None:
        raise OddError(str(self.n))

    def die(self) -> None:
        os._exit(3)

    def loop(self) -> None:
        while True:
            pass

    def __call__(self, x: int) -> int:
        return x * self.n


Counter: Any = remote(Counting)


@pytest.fixture
def counter():
    with Counter(5) as made:
        yield made


def test_an_instance_remembers_and_is_found_by_its_id(counter):
    assert (6, 8) == (counter.add(), counter.add(2))
    assert (8, True) == (counter.n, counter.ready)
    assert 8 == counter.later()
    assert Point(8) == counter.at()
    assert 24 == counter(3)
    assert 9 == Counter.get(counter.id).add()
    assert "Counting" == counter.metadata.class_name
    assert 6 == counter.metadata.method_calls
    assert counter.metadata.created_at <= counter.metadata.last_used


async def test_an_instance_is_called_from_a_loop_one_call_at_a_time():
    async with await Counter.aopen(0) as made:
        found: list[int] = []

        async def ask():
            found.append(await made.add.aremote())

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)

    assert list(range(1, 11)) == sorted(found)


def test_what_a_method_raises_leaves_the_instance_as_it_is(counter):
    with pytest.raises(OddError, match="5"):
        counter.fail()
    with pytest.raises(AttributeError, match="nothing"):
        _ = counter.nothing

    assert 6 == counter.add()


def test_a_method_that_takes_too_long_is_interrupted_and_the_instance_lives():
    with Counter.options(timeout=0.3)(1) as made:
        with pytest.raises(RemoteTimeout):
            made.loop()
        assert 2 == made.add()


def test_the_death_of_an_instance_is_named_and_never_made_up_for(counter):
    with pytest.raises(RemoteCrash, match="ended itself with exit code 3"):
        counter.die()
    for _ in range(2):
        with pytest.raises(StateLost, match="exit code 3"):
            counter.add()
    name = counter.id
    counter.restart()
    assert (6, name) == (counter.add(), counter.id)


def test_an_instance_is_made_anew_where_that_was_asked_for():
    with Counter.options(restart=True)(1) as made:
        made.add()
        with pytest.raises(RemoteCrash):
            made.die()
        assert 2 == made.add()


def test_a_closed_instance_says_so_and_runs_its_exit_first(capsys):
    made = Counter.options(log=True)(1)
    made.close()

    assert "unloaded\n" == capsys.readouterr().out
    with pytest.raises(Conflict, match="closed"):
        made.add()
    with pytest.raises(NotFound):
        Counter.get("0" * 32)


def test_the_end_of_a_process_runs_the_exit_of_its_instances_and_leaves_nothing_open(tmp_path):
    script = tmp_path / "kept.py"
    script.write_text(
        """import saggar, warnings
warnings.simplefilter("error", ResourceWarning)
@saggar.remote(log=True)
class Kept:
    def ask(self): return 1
    @saggar.exit
    def leave(self): print("left")
print(Kept().ask())
"""
    )
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=50, check=False
    )

    assert ("1\nleft\n", "") == (ran.stdout, ran.stderr)


async def test_a_platform_closes_what_led_to_its_instances():
    async def opened(platform):
        task = Counter._task((1,), {})
        live, _ = await platform.open_instance(task, name="C", policy=Counter._policy)
        return live

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        async with Platform() as platform:
            idle, lost = await opened(platform), await opened(platform)
            await lost.sandbox.close()
            gone = lost._wire
        gc.collect()

    assert gone is None
    assert [(True, None)] * 2 == [(one.closed, one._wire) for one in (idle, lost)]


def test_a_platform_that_is_dropped_with_its_loop_leaves_nothing_open(tmp_path):
    script = tmp_path / "dropped.py"
    script.write_text(
        """import asyncio, gc, saggar, warnings
from saggar.functions.remote import remote
warnings.simplefilter("error", ResourceWarning)
@remote
class Kept:
    def ask(self): return 1
async def main():
    platform = saggar.Platform()
    await platform.__aenter__()  # and nobody leaves it
    await platform.open_instance(Kept._task((), {}), name="Kept", policy=Kept._policy)
asyncio.run(main())
gc.collect()
"""
    )
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=50, check=False
    )

    assert ("", "", 0) == (ran.stdout, ran.stderr, ran.returncode)


def test_a_fork_does_not_touch_the_instances_of_its_parent(counter):
    def child():
        counter.close()
        with pytest.raises(Conflict) as refused:
            counter.add()
        return str(refused.value)

    assert f"belongs to process {os.getpid()}, which this one was forked" in in_child(child)
    assert 6 == counter.add()


def test_what_a_constructor_raises_is_raised_here():
    with pytest.raises(TypeError, match="unexpected keyword argument 'stop'"):
        Counter(stop=3).close()


def test_an_idle_instance_is_ended():
    made = Counter.options(idle=0.1)(1)
    deadline = time.monotonic() + 20

    def found():
        with suppress(NotFound):
            return Counter.get(made.id)

    while found() is not None and time.monotonic() < deadline:
        threading.Event().wait(0.05)

    assert found() is None


@pytest.mark.parametrize("terms", [{"idle": 0.1}, {"max_age": 0.1}])
def test_the_end_of_an_instances_time_is_a_loss_that_restart_makes_good(terms):
    made = Counter.options(**terms)(1)
    again = Counter.options(**terms, restart=True)(1)
    deadline = time.monotonic() + 20
    while not (made._live.closed and again._live.closed) and time.monotonic() < deadline:
        threading.Event().wait(0.05)

    with pytest.raises(StateLost, match=f"{next(iter(terms))}=0.1"):
        made.add(1)
    assert 2 == again.add(1), "made anew, as it was told"
    made.restart()
    assert 2 == made.add(1)


def test_what_an_instance_is_not_is_said_with_a_way_out(counter):
    with pytest.raises(AttributeError, match=r"def set_count\(self, value\)"):
        counter.count = 100
    with pytest.raises(AttributeError, match=r"an instance has it, Counting\(...\).LARGEST"):
        _ = Counter.LARGEST
    with pytest.raises(InvalidTask, match="Counting is remote, and nothing derives from it"):

        class _Derived(Counter): ...  # type: ignore[misc] # that it is refused

    assert isinstance(counter, Counter)
    assert isinstance(counter, Counter.options(idle=5))
    other: Any = remote(int)
    assert not isinstance(counter, other)


def test_large_arrays_go_to_methods_and_come_back():
    class Storing:
        def __init__(self, a: Any) -> None:
            self.a = a

        def put(self, a: Any) -> None:
            self.a = a

    given = np.arange(500_000)
    store: Any = remote(**NUMPY)(Storing)
    with store(given) as made:
        assert (given == made.a).all()
        made.put(given * 2)
        assert (given * 2 == made.a).all()


# Guests that lie: each of these is in the sandbox, with the channel at hand.

FORGE = """
def forge(head, document, blob=b"", right=None, done=True):
    import array, json, os, socket, struct
    said = json.dumps(document).encode() if not isinstance(document, bytes) else document
    body = struct.pack("<I", len(said)) + said + blob
    text = json.dumps(head).encode()
    data = struct.pack("<BBxxII", 1, 4, len(text), len(body)) + text + body
    if done:
        data += struct.pack("<BBxxII", 1, 6, 11, 0) + b'{"exit": 0}'
    channel = socket.socket(fileno=3)
    rights = [] if right is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                        array.array("i", [right]))]
    channel.sendmsg([data], rights)
    channel.detach()
"""
SPACE: dict[str, Any] = {"__name__": "forging"}
exec(FORGE, SPACE)
forge: Any = SPACE["forge"]
ANSWER = {"media_type": "application/vnd.saggar.answer"}


def lie(*said: Any, **more: Any) -> Any:
    """A guest that says this in place of an answer, and hangs."""

    @remote(timeout=5, limits={"memory": "64MiB"})
    def lies() -> Any:
        forge(*said, **more)
        time.sleep(30)

    return lies()


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/saggar-bomb",)


def test_a_pickle_that_nobody_asked_for_is_not_opened():
    import base64
    import pickle

    bomb = pickle.dumps(Bomb())
    with pytest.raises(InvalidAnswer, match="nobody has asked for"):
        lie(ANSWER, {"pickle": [len(bomb)]}, bomb)
    document = {"value": base64.b64encode(bomb).decode()}

    assert document["value"] == lie(ANSWER, document)
    assert not os.path.exists("/tmp/saggar-bomb")


def test_a_module_that_a_guest_names_is_not_imported():
    said = {"module": "antigravity", "name": "Fly", "message": "no", "traceback": "", "args": []}

    with pytest.raises(RemoteError, match="Fly: no"):
        lie(ANSWER, {"raised": said})
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "StopIteration", "exec"])
def test_a_forged_exception_ends_nobody(name):
    said = {"module": "builtins", "name": name, "message": "no", "args": ["x"], "whole": True}

    with pytest.raises(RemoteError) as found:
        lie(ANSWER, {"raised": said})
    assert RemoteError is type(found.value)


def test_the_first_end_counts_whatever_is_answered_after_it():
    @remote(timeout=5)
    def twice():
        forge(ANSWER, {"value": 1})
        forge(ANSWER, {"value": 2})
        time.sleep(30)

    assert 1 == twice()


SHARED = {**ANSWER, "rights": 1}
WHOLE = {"value": None, "parts": [[[], "bytes", 0, 1000]]}


def kept() -> list[str]:
    """The shared memory of a liar that this process still holds."""
    gc.collect()
    held = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            held.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in held if "memfd:lie" in name]


@pytest.mark.parametrize(
    "how", ["unsealed", "growing", "writable", "huge", "empty", "pipe", "none"]
)
def test_shared_memory_that_is_not_as_it_should_be_is_refused(how):
    @remote(timeout=5, limits={"memory": "64MiB"})
    def shares(how):
        import fcntl

        seals = {"growing": 0x8 | 0x2, "writable": 0x2 | 0x4}.get(how, 0x2 | 0x4 | 0x8)
        if how == "pipe":
            fd = os.pipe()[0]
        elif how != "none":
            fd = os.memfd_create("lie", os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, {"huge": 1 << 40, "empty": 0}.get(how, 1000))
            if how != "unsealed":
                fcntl.fcntl(fd, 1033, seals)
        forge(SHARED, WHOLE, right=None if how == "none" else fd)
        os.ftruncate(fd, 0)  # it shrinks while it is read
        time.sleep(30)

    call = shares.options(limits={"memory": "64MiB", "file_size": 1 << 41})
    with pytest.raises(InvalidAnswer):
        call(how)
    assert [] == kept()


def test_descriptors_that_nobody_asked_for_are_not_kept():
    @remote(timeout=5)
    def floods():
        fd = os.memfd_create("lie")
        for _ in range(200):
            forge({**ANSWER, "more": True}, {"value": 0}, right=fd, done=False)
        forge(ANSWER, {"value": 1})
        time.sleep(30)

    assert 1 == floods()
    assert [] == kept()


@pytest.mark.parametrize(
    "document",
    [b"{", b"[]", b'"x"', b'{"value": 1', b"[" * 100, b'{"value": NaN}', b""],
)
def test_an_answer_that_is_no_document_is_refused(document):
    with pytest.raises(InvalidAnswer):
        lie(ANSWER, document)


def test_a_function_that_needs_what_cannot_leave_is_not_called():
    lock = threading.Lock()

    @remote
    def locked():
        with lock:
            pass

    with pytest.raises(Unportable, match=r"the variable 'lock' around .*locked is a lock"):
        locked()


def test_another_python_is_refused_before_the_call():
    minor = 12 if sys.version_info < (3, 12) else 11
    with pytest.raises(InvalidTask, match=rf"byte code of this Python.*3\.{minor}"):
        add.options(environment=saggar.Environment(python=f"3.{minor}"))


def test_the_platform_of_this_process_is_one():
    assert background() is background()
