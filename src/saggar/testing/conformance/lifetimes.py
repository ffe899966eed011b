"""Runs beside each other, after each other, and cut short."""

import time
from typing import Any

import anyio

from saggar.errors import DriverUnavailable, NotFound
from saggar.model.event import Event, Finished, Output, Started, fold
from saggar.model.limits import LIMIT_NAMES
from saggar.model.policy import Network, Rung
from saggar.model.result import Result
from saggar.platform import Platform
from saggar.testing.attacks.scene import Scene
from saggar.testing.conformance.driving import capabilities, output, policy, refusal, run
from saggar.testing.conformance.limits import NAMED


async def check_a_run_is_a_stream_of_events(platform: Platform, driver: str) -> None:
    """One start, one end, output between them; and a result is their sum."""
    code = "import sys\nprint('a', flush=True)\nprint('b', file=sys.stderr)\nsys.exit(3)"
    wanted = await policy(platform, driver)
    events: list[Event] = [
        event async for event in platform.events(code, driver=driver, policy=wanted)
    ]

    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert all(isinstance(event, Output) for event in events[1:-1])
    result = fold(events)
    assert (result.stdout, result.stderr, result.exit_code) == ("a\n", "b\n", 3)
    assert events[0].isolation == result.isolation


async def check_the_rung_that_held_is_recorded(platform: Platform, driver: str) -> None:
    """Every result says behind what it ran."""
    result = await run(platform, driver, "")

    assert result.isolation
    assert (await capabilities(platform, driver)).rung is not None


async def check_a_higher_rung_than_there_is_refuses(platform: Platform, driver: str) -> None:
    """Nothing runs behind less than was asked for, and the reason is told."""
    rung = (await capabilities(platform, driver)).rung
    assert rung is not None
    for higher in Rung:
        if higher <= rung:
            continue
        wanted = (await policy(platform, driver)).replace(isolation=higher)
        said = await refusal(DriverUnavailable, platform.run("", driver=driver, policy=wanted))

        assert len(said) > 20


async def check_a_limit_that_cannot_be_kept_refuses(platform: Platform, driver: str) -> None:
    """Unless it is named as one that may go unenforced."""
    found = await capabilities(platform, driver)
    for name in (name for name in LIMIT_NAMES if not found.enforces(name)):
        assert found.why(name)
        wanted = await policy(platform, driver, insist=name)
        said = await refusal(DriverUnavailable, platform.run("", driver=driver, policy=wanted))

        assert name in said


async def check_an_unknown_driver_is_told_what_there_is(platform: Platform, driver: str) -> None:
    """With the name that was probably meant."""
    said = await refusal(NotFound, platform.run("", driver=f"{driver}x"))

    assert f"did you mean {driver!r}" in said


async def check_cancelling_ends_the_tree(platform: Platform, driver: str) -> None:
    """Who gives up waiting leaves nothing running."""
    code = "import os, time\nos.fork()\nprint('up', flush=True)\ntime.sleep(60)"
    with Scene() as scene:
        with anyio.CancelScope() as scope:
            program = NAMED.format(scene.token) + code
            wanted = await policy(platform, driver)
            async for event in platform.events(program, driver=driver, policy=wanted):
                if isinstance(event, Output):
                    scope.cancel()

        assert scope.cancelled_caught
        assert await scene.survivors() == ()
    assert await output(platform, driver, "print('still here')") == "still here\n"


async def check_cancelling_at_any_moment_is_survived(platform: Platform, driver: str) -> None:
    """From before the start to after the end."""
    for moment in range(12):
        with anyio.move_on_after(moment / 1000):
            await run(platform, driver, "print('x' * 1000)")

    assert await output(platform, driver, "print('well')") == "well\n"


async def check_neighbours_do_not_meet(platform: Platform, driver: str) -> None:
    """Two runs at the same time, each with folders of its own."""
    code = """
import os, tempfile, time
for place in (".", tempfile.gettempdir()):
    open(os.path.join(place, "mine-" + os.environ["ME"]), "w").close()
time.sleep(0.3)
print(sorted(n for p in (".", tempfile.gettempdir()) for n in os.listdir(p) if "mine" in n))
"""
    found: dict[str, str] = {}

    async def one(name: str) -> None:
        found[name] = await output(platform, driver, code, env={"ME": name})

    async with anyio.create_task_group() as group:
        group.start_soon(one, "a")
        group.start_soon(one, "b")

    assert found == {"a": "['mine-a', 'mine-a']\n", "b": "['mine-b', 'mine-b']\n"}


async def check_twenty_at_once_get_their_own_answers(platform: Platform, driver: str) -> None:
    """Nobody gets another's output, and one that fails fails alone."""
    found: dict[int, tuple[str, int | None]] = {}

    async def one(number: int) -> None:
        result = await run(platform, driver, f"print({number}); raise SystemExit({number % 3})")
        found[number] = (result.stdout, result.exit_code)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)

    assert {n: (f"{n}\n", n % 3) for n in range(20)} == found


async def check_a_crash_does_not_touch_the_next_run(platform: Platform, driver: str) -> None:
    """Crashes and kills alternate with programs that are well."""
    for code in ("import os; os.abort()", "import os; os.kill(os.getpid(), 9)", "1 / 0"):
        assert not (await run(platform, driver, code)).ok
        assert await output(platform, driver, "print('well')") == "well\n"


async def check_there_is_no_network(platform: Platform, driver: str) -> None:
    """Behind a wall a closed policy reaches nothing of the host's."""
    if (await capabilities(platform, driver)).rung == Rung.PROCESS:
        return
    with Scene() as scene:
        port = scene.described()["tcp"]
        code = f"""
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=1)
except OSError:
    print("refused")
"""

        assert await output(platform, driver, code) == "refused\n"
        assert scene.visits() == ()


async def granted(
    platform: Platform, driver: str, code: str, network: Network
) -> Result[Any] | None:
    """Run `code` on a network; nothing where the driver has none of that kind, and says so."""
    wanted = await policy(platform, driver, network=network)
    try:
        return await platform.run(code, driver=driver, policy=wanted)
    except DriverUnavailable as exc:
        said = str(exc)
    assert "network" in said, f"the refusal does not name the network: {said}"
    return None


async def check_a_loopback_is_its_own(platform: Platform, driver: str) -> None:
    """Where the policy grants one, a server and its client meet there; the host is not on it."""
    if (await capabilities(platform, driver)).rung == Rung.PROCESS:
        return
    with Scene() as scene:
        port = scene.described()["tcp"]
        code = f"""
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname(), timeout=2)
server.accept()[0].sendall(b"met")
print(client.recv(3).decode())
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=1)
except OSError:
    print("refused")
"""
        result = await granted(platform, driver, code, Network.LOOPBACK)

        if result is not None:
            assert (result.stdout, scene.visits()) == ("met\nrefused\n", ())


async def check_the_hosts_network_is_there_where_it_is_granted(
    platform: Platform, driver: str
) -> None:
    """A service of the host's is reached, and names are looked up as the host does it."""
    with Scene() as scene:
        port = scene.described()["tcp"]
        code = f"""
import socket
socket.create_connection(("localhost", {port}), timeout=2)
print("reached")
"""
        result = await granted(platform, driver, code, Network.HOST)

        if result is not None:
            assert (result.stdout, scene.visits()) == ("reached\n", ("tcp",))


async def check_the_second_run_is_not_slower_for_the_first(platform: Platform, driver: str) -> None:
    """Thirty runs, none of which takes ten times as long as the first."""
    start = time.monotonic()
    await run(platform, driver, "pass")
    first = time.monotonic() - start
    for _ in range(30):
        start = time.monotonic()
        await run(platform, driver, "pass")

        assert time.monotonic() - start < 10 * first + 1
