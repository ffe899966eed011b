"""What an instance says while it has no session; with one it is tested over HTTP."""

from dataclasses import replace

import anyio
import httpx
import pytest

from saggar.compat import instance
from saggar.compat.instance import NOT_STARTED, Instance, Setup, application, limits
from saggar.config import Settings
from saggar.errors import Overloaded
from saggar.platform import Platform
from saggar.server.auth import Doors

NOWHERE = Setup(driver="nobody")
"""An instance whose sessions cannot be opened."""


@pytest.fixture
async def unopened():
    async with Platform() as platform, anyio.create_task_group() as tasks:
        yield Instance(platform, NOWHERE, tasks)
        tasks.cancel_scope.cancel()


async def test_before_it_has_a_session_it_says_so(unopened):
    assert {"ready": False, "reason": NOT_STARTED} == unopened.ready()
    assert {"status": "already_restarting"} == unopened.restart()
    assert unopened.restarting is False


async def test_why_there_is_no_session_is_said_where_one_asks_and_in_the_log():
    log: list[str] = []
    app = application(replace(NOWHERE, log=log.append), Settings(), Doors())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client,
    ):
        with anyio.fail_after(10):
            while NOT_STARTED == (found := (await client.get("/ready")).json()["reason"]):
                await anyio.lowlevel.checkpoint()
        restart = (await client.post("/restart")).json()

    assert found.startswith("no driver named 'nobody'")
    assert f"no session: {found}" == log[0]
    assert {"status": "error", "reason": found} == restart


async def test_nobody_waits_for_ever_for_a_session(unopened, monkeypatch):
    monkeypatch.setattr(instance, "PATIENCE", 0.05)

    with pytest.raises(Overloaded, match="the session is not there: kernel_not_started") as caught:
        await unopened.available()

    assert caught.value.retry_after


def test_files_that_are_loaded_first_have_longer_than_an_execution():
    found = limits(3.0)

    assert (60.0, 60.0, 256 << 20, 0.25) == (found.wall, found.cpu, found.memory, found.cpu_share)


def test_an_execution_may_take_longer_than_that_and_use_all_its_cores():
    found = limits(600.0, cpu_share="2", memory="1GiB")

    assert (600.0, 1200.0, 1 << 30) == (found.wall, found.cpu, found.memory)
