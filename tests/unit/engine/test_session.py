"""A session whose sandbox and interpreters are scripted: turns, refusals, replacements, the end."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from saggar.boundary import frames
from saggar.boundary.frames import Frame
from saggar.drivers.base import Reading
from saggar.engine.interpreter import Said
from saggar.engine.keeper import Exited
from saggar.engine.session import MOST_CONTEXTS, Preload, Session, preloaded
from saggar.errors import Conflict, InvalidTask, NotFound, SandboxBroken, UsageError
from saggar.model.policy import Policy
from saggar.model.result import Status
from saggar.model.task import File


class Scripted:
    """Answers each cell with its own text as the value; `die` ends it, `wait` never answers."""

    def __init__(self) -> None:
        self.lost, self.closed = False, 0
        self.exited: Exited | None = None
        self._said: list[Said] = []
        self._woken = anyio.Event()
        self.asked = anyio.Event()
        self.signals: list[int] = []

    @property
    def alive(self) -> bool:
        """Until it is dead."""
        return self.exited is None and not self.lost

    def admit(self, env: Mapping[str, str]) -> None:
        """Any."""

    def request(self, do: str, text: str = "", **head: object) -> None:  # noqa: ARG002 - a protocol's
        """Answered at once."""
        self.asked.set()
        if text == "die":
            self.die(7)
        elif text != "wait":
            value = Frame(
                frames.VALUE, b'{"media_type": "application/json"}', json.dumps(text).encode()
            )
            self._say(value, Frame(frames.DONE, b'{"count": 1}', b""))

    def _say(self, *said: Said) -> None:
        self._said += said
        self._woken.set()

    def die(self, code: int) -> None:
        """With this exit code."""
        self.exited = Exited(code, None)
        self._woken.set()

    async def heard(self) -> None:
        """When there is something."""
        assert not self.closed
        await self._woken.wait()

    def hear(self) -> Iterator[Said]:
        """All of it."""
        assert not self.closed
        said, self._said = self._said, []
        self._woken = anyio.Event()
        yield from said

    def rest(self) -> Iterator[Said]:
        """Nothing."""
        return iter(())

    async def signal(self, number: int) -> None:
        """Each is the end of it."""
        self.signals.append(number)
        self.die(-number)

    async def ended(self, patience: float) -> bool:  # noqa: ARG002 - a protocol's
        """At once."""
        return self.exited is not None

    def close(self) -> None:
        """Once is enough, and nobody reads then."""
        self.closed += 1


class Box:
    """A sandbox of which only this is asked."""

    def __init__(self) -> None:
        self.id, self.isolation, self.driver = "id", "none", "none"
        self.alive, self.paused, self.used = True, False, None
        self.closing = anyio.Event()
        self.process = SimpleNamespace(first_read=Reading, read=Reading)
        self.keeper = SimpleNamespace(deaf=False)

    def refuse_paused(self) -> None:
        """It is not."""

    async def close(self) -> None:
        """At once."""
        self.alive = False


class Maker:
    """Makes interpreters and sandboxes, and remembers them."""

    def __init__(self) -> None:
        self.made: list[Scripted] = []
        self.boxes: list[Box] = []
        self.trouble: Exception | None = None

    async def open(self) -> Any:
        """A sandbox."""
        self.boxes.append(Box())
        return self.boxes[-1]

    async def start(self, sandbox: Any) -> Any:  # noqa: ARG002 - a protocol's
        """An interpreter, or the trouble there is."""
        if self.trouble is not None:
            raise self.trouble
        self.made.append(Scripted())
        return self.made[-1]


@asynccontextmanager
async def opened(**how: Any) -> AsyncIterator[tuple[Session, Maker]]:
    maker = Maker()
    async with anyio.create_task_group() as tasks:
        said = {"preload": Preload(), "log": None, **how}
        session = Session(
            maker.open,
            tasks,
            maker.start,
            policy=Policy(),
            language="python",
            timeout=5.0,
            owner="",
            **said,
        )
        await session.open()
        yield session, maker
        await session.close()
    assert [1] * len(maker.made) == [one.closed for one in maker.made]


async def test_a_cell_is_answered():
    async with opened() as (session, _):
        result = await session.run("x")

    assert (Status.OK, "x") == (result.status, result.value)


async def test_an_interpreter_that_died_is_replaced_and_closed_once():
    async with opened() as (session, maker):
        result = await session.run("die")
        again = await session.run("x")

        assert (True, Status.ERROR) == (result.session_reset, result.status)
        assert "exit code 7" in result.error.message
        assert ("x", False) == (again.value, again.session_reset)
        assert 2 == len(maker.made)


async def test_a_restart_in_the_middle_ends_the_cell_and_replaces_once():
    async with opened() as (session, maker):
        results = []

        async def run() -> None:
            results.append(await session.run("wait"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await maker.made[0].asked.wait()
            await session.restart()

        assert Status.CANCELLED is results[0].status
        assert "x" == (await session.run("x")).value
        assert 2 == len(maker.made)


async def test_who_leaves_gives_his_turn_back():
    async with opened() as (session, _):
        with anyio.move_on_after(0.01):
            await session.run("wait")
        with anyio.fail_after(5):
            assert "x" == (await session.run("x")).value

        assert not session.busy


async def test_a_session_that_cannot_have_an_interpreter_says_why_and_tries_again():
    async with opened() as (session, maker):
        maker.trouble = SandboxBroken("no room")
        with pytest.raises(SandboxBroken, match="no room"):
            await session.restart()
        assert (False, "no room") == (session.ready.ready, session.ready.reason)
        maker.trouble = OSError(24, "too many open files")
        with pytest.raises(Exception, match="too many open files"):
            await session.run("x")
        maker.trouble = None

        assert "x" == (await session.run("x")).value


async def test_a_sandbox_that_is_gone_is_opened_anew():
    async with opened() as (session, maker):
        maker.boxes[0].alive = False

        assert "x" == (await session.run("x")).value
        assert 2 == len(maker.boxes)


async def test_a_closed_session_opens_nothing():
    async with opened() as (session, maker):
        await session.run("die")
        await session.close()
        await anyio.wait_all_tasks_blocked()
        for refused in (session.run("x"), session.variables()):
            with pytest.raises(Conflict, match="closed"):
                await refused

        assert "closed" == session.ready.reason
        assert 1 == len(maker.boxes)


@pytest.mark.parametrize(
    "how",
    [
        {"timeout": 0},
        {"timeout": 1e9},
        {"env": {"a=b": ""}},
        {"env": {"": ""}},
        {"env": {"a": "\0"}},
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_done(how: dict):
    async with opened() as (session, maker):
        with pytest.raises(InvalidTask):
            await session.run("x", **how)

        assert not session.busy
        assert [] == maker.made[0].signals


async def test_contexts_are_counted():
    async with opened() as (session, maker):
        for number in range(MOST_CONTEXTS - 1):
            await session.new_context(str(number))
        with pytest.raises(Conflict, match="at most"):
            await session.new_context("one more")
        with pytest.raises(NotFound, match="one more"):
            await session.run("x", context="one more")
        await session.close_context("0")
        maker.trouble = SandboxBroken("no room")
        with pytest.raises(SandboxBroken):
            await session.new_context("broken")

        assert "broken" not in session.contexts


async def test_a_log_that_raises_leaves_no_interpreter_behind():
    def fail(text: str) -> None:
        raise ValueError(text)

    preload = Preload("", (("a.py", "x"),))
    async with opened() as (session, maker):
        session._preload, session._log = preload, fail
        session._say("")
        with pytest.raises(UsageError, match="log: said"):
            session._say("said")
        assert 1 == len(maker.made)


def test_preloaded_files_are_python_and_sorted():
    files = [File(path=name, content=b"x") for name in ("b.py", "a.txt", "a.py")]

    assert ["a.py", "b.py"] == [path for path, _ in preloaded(files, "f").files]
    assert "f" == preloaded(files, "f").folder
