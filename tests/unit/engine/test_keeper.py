"""The keeper as the host hears it: what a forged one can say changes what is said, and no more."""

import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from marshal import loads
from signal import SIGKILL
from typing import Any, cast

import anyio
import pytest
from tests.unit.engine.ends import Ends

from saggar.boundary import frames
from saggar.engine import keeper as module
from saggar.engine.keeper import Keeper
from saggar.errors import InvalidTask, NotFound, PlatformError, SandboxBroken

DEEP = b"[" * 50_000


def told(**said: object) -> bytes:
    return frames.pack(frames.TOLD, json.dumps(said).encode())


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Keeper, Ends]]:
    """A keeper that is heard, and the inside to speak for it."""
    with Ends() as ends:
        keeper = Keeper(cast("Any", ends))  # all of a process that it looks at
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keeper.listen)
            yield keeper, ends
            tasks.cancel_scope.cancel()


async def asked(ends: Ends):
    """The next thing that it is asked."""
    await anyio.wait_readable(ends.inside)
    _, _, head, _ = frames.HEADER.unpack(ends.hear(frames.HEADER.size))
    return loads(ends.hear(head))


async def begun(keeper: Keeper, ends: Ends, *answers: bytes):
    """Something that is started, and answered so."""
    found = []

    async def start() -> None:
        found.append(await keeper.start((), argv=("x",)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        head = await asked(ends)
        ends.say(told(id=head["id"], now="started", pid=7))
    return found[0]


async def test_what_was_started_ends_as_it_is_told():
    async with listening() as (keeper, ends):
        started = await begun(keeper, ends)
        ends.say(told(id=started.number, now="exited", status=3 << 8, cpu=0.5))
        await started.ended.wait()

    assert (7, 3, None, 0.5) == (
        started.pid,
        started.exit.code,
        started.exit.signal,
        started.exit.cpu,
    )
    started.forget()


@pytest.mark.parametrize(
    "said",
    [
        told(id=[], now="exited", status=0),
        told(id={}, now="exited", status=0),
        told(id=None, now="exited"),
        told(id=-1, now="exited", status=0),
        told(id=10**30, now="exited", status=0),
        told(id=True, now="exited", status=0),
        told(id=1, now="exited", status="x"),
        told(id=1, now="exited"),
        told(id=1, now="started", pid=[]),
        told(id=1, now="failed", errno="x", message=7),
        told(id=1, now=["exited"], status=0),
        frames.pack(frames.TOLD, b'{"id": ' + DEEP),
        frames.pack(frames.TOLD, b"\xff"),
        frames.pack(frames.TOLD, b"[1]"),
        frames.pack(frames.VALUE, b"{}", b"x"),
        frames.pack(frames.ERROR, b'{"message": "\\ud800"}'),
        frames.pack(frames.ERROR, b'{"message": [[[]]]}'),
        told(id=99, now="signalled"),
    ],
)
async def test_words_that_are_none_of_its_change_nothing(said: bytes):
    async with listening() as (keeper, ends):
        started = await begun(keeper, ends)
        ends.say(said)
        ends.say(told(id=started.number, now="exited", status=0))
        with anyio.fail_after(5):
            await started.ended.wait()

        assert 0 == started.exit.code
        keeper.complaint.encode()
    started.forget()


@pytest.mark.parametrize("status", [10**30, -1, 0xFFFF_FFFF, 128])
async def test_a_status_that_is_none_is_an_end_all_the_same(status: int):
    async with listening() as (keeper, ends):
        started = await begun(keeper, ends)
        ends.say(told(id=started.number, now="exited", status=status))
        with anyio.fail_after(5):
            await started.ended.wait()
    started.forget()


@pytest.mark.parametrize(
    "said",
    [b"\xff" * 64, struct.pack("<BBxxII", 1, frames.TOLD, 1 << 30, 0), frames.pack(frames.DONE)],
)
async def test_whoever_speaks_no_frames_is_no_keeper_any_more(said: bytes):
    async with listening() as (keeper, ends):
        started = await begun(keeper, ends)
        ends.say(said)
        with anyio.fail_after(5):
            await keeper.dead.wait()
            await started.ended.wait()

        assert SIGKILL == started.exit.signal
        with pytest.raises(SandboxBroken):
            await keeper.start((), argv=("x",))
    started.forget()


@pytest.mark.parametrize(
    ("number", "kind"),
    [(2, NotFound), (20, NotFound), (13, InvalidTask), (8, InvalidTask), (11, PlatformError)],
)
async def test_why_nothing_was_started_is_raised(number: int, kind: type[Exception]):
    async with listening() as (keeper, ends):

        async def start() -> None:
            with pytest.raises(kind, match=r"'x'|another process"):
                await keeper.start((), argv=("x",))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            head = await asked(ends)
            ends.say(told(id=head["id"], now="failed", errno=number, message=os.strerror(number)))


async def test_a_start_that_is_given_up_is_ended_inside():
    async with listening() as (keeper, ends):
        with anyio.move_on_after(0.05):
            await keeper.start((), argv=("x",))
        start, signal = await asked(ends), await asked(ends)

    assert ("start", "signal") == (start["do"], signal["do"])
    assert (start["id"], SIGKILL) == (signal["id"], signal["signal"])


async def test_one_that_does_not_answer_is_told_from_one_that_does(monkeypatch):
    monkeypatch.setattr(module, "PROMPT", 0.05)
    async with listening() as (keeper, ends):
        started = await begun(keeper, ends)
        await keeper.signal(started, SIGKILL)
        assert keeper.deaf

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keeper.signal, started, SIGKILL)
            await asked(ends)
            ends.say(told(id=(await asked(ends))["token"], now="signalled"))
        assert not keeper.deaf
    started.forget()


async def test_one_that_never_reads_is_given_up(monkeypatch):
    """Its channel is full: half of what was asked is in it."""
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    async with listening() as (keeper, ends):
        ends.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with anyio.fail_after(5), pytest.raises(SandboxBroken):
            await keeper.start((), argv=("x" * (1 << 20),))
        with anyio.fail_after(5):
            await keeper.dead.wait()
