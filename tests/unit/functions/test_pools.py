"""A resource's turns: how many at once, and who comes next."""

import anyio

from saggar import LiveServerless
from saggar.functions import pools


async def test_so_many_at_once_and_the_rest_in_the_order_they_came():
    resource = LiveServerless(name="x", workersMax=2)
    begun, most, working = [], 0, 0
    doors = [anyio.Event() for _ in range(6)]

    async def work(number):
        nonlocal most, working
        async with pools.turn(resource):
            begun.append(number)
            working += 1
            most = max(most, working)
            await doors[number].wait()
            working -= 1

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(work, number)
            await anyio.wait_all_tasks_blocked()
        first = list(begun)
        for door in doors:
            door.set()
            await anyio.wait_all_tasks_blocked()

    assert [0, 1] == first
    assert [0, 1, 2, 3, 4, 5] == begun
    assert 2 == most


async def test_equal_resources_share_their_workers_and_others_do_not():
    def one(name="x", **said):
        return pools.of(LiveServerless(name=name, **said))

    assert one() is one()
    assert one(env={"A": "1"}) is one(env={"A": "1"})
    assert len({id(one()), id(one("y")), id(one(workersMax=6)), id(one(env={"A": "1"}))}) == 4


async def test_who_gives_up_waiting_takes_no_turn():
    resource = LiveServerless(name="given up", workersMax=1)
    async with pools.turn(resource):
        with anyio.move_on_after(0):
            async with pools.turn(resource):
                raise AssertionError("there was no turn to be had")

    assert 0 == pools.of(resource).borrowed_tokens


async def test_without_a_resource_nobody_waits():
    async with pools.turn(None), pools.turn(None):
        pass
