"""Room in memory: what is too much together waits for its turn, or is told to come again."""

import anyio
import pytest

from saggar.errors import Overloaded
from saggar.server.room import Room


async def test_what_fits_beside_each_other_is_held_at_once():
    room = Room(100, patience=0.01)

    async with room.held(60), room.held(40), room.held(0):
        with pytest.raises(Overloaded):
            async with room.held(1):
                pass


async def test_whoever_comes_later_waits_until_there_is_room():
    room, order = Room(100, patience=60), []

    async def second():
        async with room.held(60):
            order.append("second")

    async with anyio.create_task_group() as tasks, room.held(60):
        tasks.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        order.append("first")

    assert ["first", "second"] == order


async def test_what_is_more_than_there_is_comes_when_it_is_alone():
    room = Room(100, patience=0.01)

    async with room.held(1000):
        pass
    with pytest.raises(Overloaded):
        async with room.held(1), room.held(1000):
            pass
