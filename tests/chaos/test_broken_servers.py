"""What is killed between host and guest is made anew, and no run waits for it for ever."""

import signal
import time
from contextlib import suppress

import anyio
import pytest
from tests.chaos.family import Family

from saggar import Platform, PlatformError, SandboxBroken, Status
from saggar.model.event import Output


async def test_every_process_between_two_runs_may_die(family: Family):
    """One after the other: the next run works each time."""
    async with Platform() as platform:
        assert "1\n" == (await platform.run("print(1)")).stdout
        for place in range(len(family.new())):
            family.send(signal.SIGKILL, place)

            assert "2\n" == (await platform.run("print(2)")).stdout

    assert [] == family.left()


async def test_all_of_them_may_die_at_once(family: Family):
    async with Platform() as platform:
        for _ in range(3):
            await platform.run("pass")
            family.send_all(signal.SIGKILL)

            assert "2\n" == (await platform.run("print(2)")).stdout

    assert [] == family.left()


async def test_the_servers_may_die_stopped(family: Family):
    """Stopped first: it neither answers nor ends; then killed."""
    async with Platform() as platform:
        await platform.run("pass")
        family.send_all(signal.SIGSTOP)
        with anyio.move_on_after(1):
            await platform.run("print(1)")
        family.send_all(signal.SIGKILL)

        assert "2\n" == (await platform.run("print(2)")).stdout

    assert [] == family.left()


@pytest.mark.parametrize("place", range(6))
async def test_a_run_under_way_ends_when_what_it_stands_on_dies(family: Family, place: int):
    """Whether that is a killed guest or a broken sandbox depends on who died; nobody hangs."""
    async with Platform() as platform:
        start = time.monotonic()
        with suppress(PlatformError):
            result = await run_and_kill(platform, family, place)

            assert result in (Status.KILLED, Status.OK, Status.ERROR)
        assert 8 > time.monotonic() - start
        assert "2\n" == (await platform.run("print(2)")).stdout

    assert [] == family.left()


async def run_and_kill(platform: Platform, family: Family, place: int) -> Status:
    code = "import time; print('up', flush=True); time.sleep(1)"
    async for event in platform.events(code):
        if isinstance(event, Output):
            family.send(signal.SIGKILL, place)
    return event.status


async def test_a_fault_of_ours_is_an_exception_and_no_result(family: Family):
    """The server dies: whoever waits for its child is told, and by a retryable error."""
    assert issubclass(SandboxBroken, PlatformError)
    async with Platform() as platform:
        await platform.run("pass")
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(run_or_be_told, platform)
            family.send_all(signal.SIGKILL)

        assert "2\n" == (await platform.run("print(2)")).stdout


async def run_or_be_told(platform: Platform) -> None:
    with suppress(PlatformError):
        result = await platform.run("print(1)")

        assert result.status in (Status.OK, Status.KILLED)
