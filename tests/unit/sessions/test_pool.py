"""Who gets which instance, when it comes back, and what a failed one costs."""

import contextlib
import math

import anyio
import pytest
from tests.unit.sessions.scripted import QUICK, free, ledger, members, pool, until

from saggar.errors import Conflict, NotFound, Overloaded, PlatformError
from saggar.sessions.pool import NotAllocated, Patience, Pool, UnknownType
from saggar.sessions.pool_state import Condition, InstanceDown, Ledger


def names(found):
    return [member.name for member in found]


def restarts(opened, name):
    return opened.find(name).instance.restarts


async def test_one_that_was_allocated_is_given_to_nobody_else():
    async with pool(["python", "python"]) as opened:
        given = {(await opened.allocate()).name for _ in range(2)}

        assert {"0", "1"} == given
        with pytest.raises(Overloaded, match="No containers available"):
            await opened.allocate(wait=0)


async def test_a_type_that_nobody_has_is_named_with_those_there_are():
    async with pool(["python", "node"]) as opened:
        with pytest.raises(UnknownType, match="'ruby'; there are: node, python"):
            await opened.allocate("ruby")


async def test_a_caller_gets_the_type_he_asked_for():
    async with pool(["python", "node"]) as opened:
        assert "1" == (await opened.allocate("node")).name
        with pytest.raises(Overloaded, match="No node containers available"):
            await opened.allocate("node", wait=0.01)


async def test_what_was_given_back_is_restarted_before_the_next_one_gets_it():
    async with pool(["python"]) as opened:
        member = await opened.allocate()
        restarts, member.instance.gate = member.instance.restarts, anyio.Event()
        member.instance.left_behind = "a secret"
        opened.release("0")
        await anyio.wait_all_tasks_blocked()

        with pytest.raises(Overloaded):
            await opened.allocate(wait=0)
        member.instance.gate.set()
        again = await opened.allocate()
        assert member is again
        assert None is again.instance.left_behind
        assert restarts + 1 == again.instance.restarts


async def test_giving_back_what_nobody_has_is_refused():
    async with pool(["python"]) as opened:
        with pytest.raises(NotAllocated, match="Container 0 is not allocated"):
            opened.release("0")
        with pytest.raises(NotFound, match="Container 7 not found"):
            opened.release("7")


async def test_the_first_use_of_a_free_one_holds_it():
    async with pool(["python"]) as opened:
        async with opened.use("0"):
            pass

        assert ["0"] == names(opened.census().held)
        assert not opened.find("0").allocation.asked


async def test_two_first_uses_at_once_share_it():
    async with pool(["python"]) as opened:
        opened.find("0").instance.gate = anyio.Event()
        opened.release((await opened.allocate()).name)
        inside = []

        async def use():
            async with opened.use("0"):
                inside.append(opened.find("0").allocation.token)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use)
            tasks.start_soon(use)
            await anyio.wait_all_tasks_blocked()
            opened.find("0").instance.gate.set()

        assert 2 == len(inside)
        assert 1 == len(set(inside))


async def test_a_first_use_that_leaves_before_it_began_leaves_it_free():
    async with pool(["python"]) as opened:
        member = opened.find("0")
        with contextlib.suppress(RuntimeError):
            async with opened.use("0"):
                # As it is between the grant and the first byte that is sent.
                member.fresh = True
                raise RuntimeError

        assert ["0"] == names(opened.census().free)
        assert not member.dirty


async def test_whoever_waited_longest_is_served_first():
    async with pool(["python"]) as opened:
        first, order = await opened.allocate(), []

        async def wait(number):
            member = await opened.allocate("python" if number % 2 else "")
            order.append(number)
            opened.release(member.name)

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(wait, number)
                await anyio.wait_all_tasks_blocked()
            opened.release(first.name)

        assert list(range(50)) == order


async def test_a_waiter_who_leaves_does_not_take_his_turn_with_him():
    async with pool(["python"]) as opened:
        first = await opened.allocate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(opened.allocate)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        opened.release(first.name)

        await free(opened, 1)


async def test_a_caller_who_leaves_with_his_instance_in_hand_leaves_it_free():
    async with pool(["python"]) as opened:
        opened.find("0").instance.speaks = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(opened.allocate)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

        assert ["0"] == names(opened.census().free)


async def test_one_that_is_taken_back_before_its_caller_has_it_is_not_given_to_him():
    async with pool(["python"]) as opened:
        member, found = opened.find("0"), []
        member.instance.speaks = anyio.Event()

        async def ask():
            found.append((await opened.allocate()).allocation)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            first = member.allocation
            opened.release("0")
            member.instance.speaks.set()

        assert [member.allocation] == found
        assert first is not member.allocation


async def test_nobody_uses_one_before_the_caller_it_was_promised_to():
    async with pool(["python"]) as opened:
        member, order = opened.find("0"), []
        member.instance.speaks = anyio.Event()

        async def allocate():
            await opened.allocate()
            order.append("allocated")

        async def use():
            async with opened.use("0"):
                order.append("used")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(allocate)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(use)
            await anyio.wait_all_tasks_blocked()
            member.instance.speaks.set()

        assert ["allocated", "used"] == order


async def test_a_dead_one_is_never_given_and_its_place_in_the_queue_is_kept():
    async with pool(["python", "python"]) as opened:
        opened.find("0").instance.up = False

        assert "1" == (await opened.allocate()).name
        assert Condition.OUT is opened.find("0").condition
        opened.find("0").instance.up = True
        assert "0" == (await opened.allocate()).name


async def test_one_that_fails_to_restart_is_taken_out_and_put_back():
    async with pool(["python"]) as opened:
        member = await opened.allocate()
        member.instance.up = False
        await opened.release("0").verdict.wait()

        assert (["0"], "0 is down") == (names(opened.census().away), member.why)
        member.instance.up = True
        await free(opened, 1)
        assert not member.dirty


async def test_one_that_is_out_is_not_used():
    async with pool(["python"]) as opened:
        opened.find("0").instance.up = False
        opened.lost(opened.find("0"), "no answer")

        with pytest.raises(InstanceDown, match="Container 0 is not available: "):
            async with opened.use("0"):
                pass


async def test_whoever_holds_one_that_goes_down_keeps_it_as_it_is():
    async with pool(["python"]) as opened:
        member = await opened.allocate()
        restarts, member.instance.up = member.instance.restarts, False
        opened.lost(member, "no answer")
        await anyio.wait_all_tasks_blocked()
        member.instance.up = True
        await until(lambda: member.condition is Condition.READY)

        assert ["0"] == names(opened.census().held)
        assert restarts == member.instance.restarts


async def test_what_runs_in_it_ends_before_the_next_one_gets_it():
    async with pool(["python"]) as opened:
        began, ended = anyio.Event(), []

        async def run():
            try:
                async with opened.use("0"):
                    began.set()
                    await anyio.sleep_forever()
            except Conflict as exc:
                ended.append(str(exc))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await began.wait()
            opened.release("0")
            await opened.allocate()

            assert ["Container 0 was deallocated while this ran"] == ended


async def test_an_allocation_of_yesterday_opens_nothing():
    async with pool(["python"]) as opened:
        old = (await opened.allocate()).allocation.token
        opened.release("0", old)
        new = (await opened.allocate()).allocation.token

        with pytest.raises(Conflict, match="no longer held"):
            opened.release("0", old)
        with pytest.raises(Conflict, match="no longer held"):
            async with opened.use("0", old):
                pass
        async with opened.use("0", new):
            pass


async def test_a_restart_of_a_free_one_gives_it_to_nobody_until_it_is_back():
    async with pool(["python"]) as opened:
        member = opened.find("0")
        member.instance.gate = anyio.Event()
        async with opened.restarting("0"):
            await member.instance.restart()

        with pytest.raises(Overloaded):
            await opened.allocate(wait=0)
        member.instance.gate.set()
        await free(opened, 1)
        assert None is member.allocation


async def test_all_are_taken_back_at_once_and_the_failed_one_is_not_lost():
    async with pool(["python"] * 3) as opened:
        for _ in range(3):
            await opened.allocate()
        opened.find("1").instance.up = False
        taken = await opened.restart_all()

        assert ["1"] == [m.name for m in taken if m.condition is Condition.OUT]
        opened.find("1").instance.up = True
        await free(opened, 3)


async def test_only_what_nobody_asked_for_is_taken_back_for_idleness():
    now = [1000.0]
    patience = Patience(idle=60, retry=0.001)
    async with pool(["python"] * 3, patience=patience, clock=lambda: now[0]) as opened:
        await opened.allocate()
        async with opened.use("1"):
            pass
        now[0] += 61
        async with opened.use("2"):
            await opened.reap()

            assert ["0", "2"] == names(opened.census().held)


async def test_an_allocation_may_have_an_idle_time_too():
    now = [0.0]
    patience = Patience(idle=math.inf, idle_allocated=10, retry=0.001)
    async with pool(["python"], patience=patience, clock=lambda: now[0]) as opened:
        await opened.allocate()
        now[0] += 11
        await opened.reap()

        await free(opened, 1)


async def test_a_free_one_that_dies_is_noticed_by_the_check():
    async with pool(["python"]) as opened:
        opened.find("0").instance.up = False
        await opened.check()

        assert [] == opened.census().free


async def test_who_holds_what_survives_the_pool(tmp_path):
    path = tmp_path / "state.sqlite"
    async with pool(["python", "python"], path) as before:
        token = (await before.allocate()).allocation.token

    async with pool(["python", "python"], path) as after:
        assert ["0"] == names(after.census().held)
        assert 0 == restarts(after, "0")
        async with after.use("0", token):
            pass


async def test_a_return_that_was_cut_short_is_begun_again(tmp_path):
    path = tmp_path / "state.sqlite"
    async with pool(["python"], path) as before:
        await before.allocate()
        before.find("0").instance.gate = anyio.Event()
        before.release("0")
        await anyio.wait_all_tasks_blocked()

    async with pool(["python"], path) as after:
        assert ["0"] == names(after.census().free)
        assert 1 == restarts(after, "0")


async def test_what_is_known_to_be_clean_is_not_restarted_again(tmp_path):
    path = tmp_path / "state.sqlite"
    async with pool(["python"], path):
        pass

    async with pool(["python"], path) as after:
        assert 0 == restarts(after, "0")


async def test_an_instance_at_another_place_is_another_one(tmp_path):
    path = tmp_path / "state.sqlite"
    async with pool(["python"], path) as before:
        await before.allocate()

    with ledger(path) as kept:
        async with Pool(members(["python"], place="elsewhere"), kept, QUICK) as after:
            await anyio.wait_all_tasks_blocked()

            assert ["0"] == names(after.census().free)
            assert 1 == restarts(after, "0")


async def test_a_state_file_has_one_pool_at_a_time(tmp_path):
    path = tmp_path / "state.sqlite"
    with ledger(path), pytest.raises(Conflict, match="another manager keeps its state"):
        Ledger(path)


async def test_what_is_no_state_file_is_left_alone(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 100)

    with pytest.raises(PlatformError, match="is not a file of a manager's"):
        Ledger(path)
    assert path.read_text().startswith("Dear")


async def test_a_state_that_cannot_be_written_gives_nothing_away(tmp_path):
    async with pool(["python"]) as opened:
        opened._ledger._file.execute("PRAGMA query_only = ON")

        with pytest.raises(PlatformError):
            await opened.allocate()
        assert ["0"] == names(opened.census().free)
        opened._ledger._file.execute("PRAGMA query_only = OFF")
        assert "0" == (await opened.allocate()).name
