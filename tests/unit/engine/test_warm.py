"""Who gets which child, how many wait, and when their servers come and go."""

from contextlib import AsyncExitStack, contextmanager

import anyio
import pytest
from tests.unit.engine.fakes import Clock, FakeDriver, eventually

from saggar.engine import warm as module
from saggar.engine.warm import COOLING, FEWEST, IDLE, MOST, RECYCLED, SERVERS, TRIES, Warm
from saggar.errors import DriverUnavailable, InvalidTask, Overloaded, SandboxBroken
from saggar.model.plan import Layer, WarmKey, Warmth
from saggar.model.policy import Policy

POLICY = Policy()


@pytest.fixture
def driver():
    return FakeDriver()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def tasks():
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


@pytest.fixture
def warm(driver, tasks, clock):
    return Warm(driver, tasks, None, clock)


def key(name=""):
    return WarmKey(interpreter="", environment=name)


def child(warm, name="", policy=POLICY):
    return warm.child(key(name), policy, ())


async def used(warm, name=""):
    """A child's number, after it has done its work."""
    async with child(warm, name) as process:
        return process.number


async def parked(driver, count, server=-1):
    """Until so many children wait for somebody."""
    await eventually(lambda: count == len(driver.nurseries[server].waiting))


async def settled(warm):
    """Until as many wait as are wanted, and nobody is left to bury."""
    pool = warm._pools[key()]
    await eventually(lambda: not pool.finished and len(pool.parked) == pool.wanted)


async def used_by_many(warm, count):
    """So many children at work at the same time."""
    together = anyio.Event()
    present = []

    async def work():
        async with child(warm) as process:
            present.append(process)
            if len(present) == count:
                together.set()
            await together.wait()

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(work)
    return present


async def test_nothing_is_started_before_somebody_asks(driver, warm):
    assert [] == driver.nurseries


async def test_a_child_serves_once(driver, warm):
    numbers = [await used(warm) for _ in range(20)]

    assert 20 == len(set(numbers))
    await eventually(
        lambda: all(
            made.released == (made.number in numbers) for made in driver.nurseries[0].children
        )
    )


async def test_children_wait_for_whoever_comes_next(driver, warm):
    await used(warm)
    await parked(driver, FEWEST + 1)  # one more for the miss
    waiting = list(driver.nurseries[0].waiting)

    assert waiting[0] == await used(warm)


async def test_who_finds_one_waiting_waits_for_nothing(driver, warm):
    await used(warm)
    await parked(driver, FEWEST + 1)
    driver.nurseries[0].gate = anyio.Event()

    with anyio.fail_after(1):
        await used(warm)


async def test_who_finds_none_has_one_made_in_a_hurry(driver, warm):
    await used(warm)
    await parked(driver, FEWEST + 1)

    # His own, and the first that waits after him: somebody may come before it is done.
    assert [True, True, False, False] == driver.nurseries[0].hurried


async def test_more_are_kept_the_more_are_missed_and_never_more_than_most(driver, warm):
    await used_by_many(warm, 5)
    await parked(driver, FEWEST + 5)
    await used_by_many(warm, 40)
    await parked(driver, MOST)


@pytest.mark.parametrize("kept", [0, 1, 5])
async def test_a_fixed_number_stays_fixed(driver, tasks, clock, kept):
    warm = Warm(driver, tasks, kept, clock)
    await used_by_many(warm, 10)
    await parked(driver, kept)
    clock.now += 10 * COOLING
    await used(warm)
    await parked(driver, kept)


async def test_what_nobody_misses_goes_cold_one_at_a_time(driver, warm, clock):
    await used_by_many(warm, 6)
    await parked(driver, FEWEST + 6)
    for fewer in range(1, 4):
        clock.now += COOLING + 1
        await used(warm)
        await settled(warm)
        await used(warm)  # however often we look in between
        await settled(warm)

        assert FEWEST + 6 - fewer == len(driver.nurseries[0].waiting)


async def test_the_fewest_stay_warm(driver, warm, clock):
    await used(warm)
    await parked(driver, FEWEST + 1)
    for _ in range(5):
        clock.now += COOLING + 1
        await used(warm)
        await settled(warm)

    assert FEWEST == len(driver.nurseries[0].waiting)


async def test_a_child_that_died_while_it_waited_is_passed_over(driver, warm):
    await used(warm)
    await parked(driver, FEWEST + 1)
    nursery = driver.nurseries[0]
    dead, living = nursery.children[1], nursery.children[2]
    dead.die()

    assert living.number == await used(warm)
    assert 1 == dead.released


async def test_the_finished_are_buried_before_a_new_one_is_begun(driver, warm):
    """Not at the moment of their answer: that one has somebody waiting for it."""
    await used(warm)
    await parked(driver, FEWEST + 1)
    async with child(warm) as process:
        pass

    assert 0 == process.released
    await eventually(lambda: process.released == 1)
    await parked(driver, FEWEST + 1)
    released = driver.log.index(f"release {process.number}")

    assert released < driver.log.index(f"ask {process.number + FEWEST + 1}")


async def test_a_program_that_fails_gives_its_child_back_like_any_other(driver, warm):
    with pytest.raises(ZeroDivisionError):
        async with child(warm) as process:
            raise ZeroDivisionError
    await eventually(lambda: process.released == 1)


async def test_one_key_has_one_server_however_many_ask_at_once(driver, warm):
    await used_by_many(warm, 10)

    assert [key()] == driver.keys


async def test_another_key_has_a_server_of_its_own(driver, warm):
    await used(warm, "a")
    await used(warm, "b")
    await used(warm, "a")

    assert [key("a"), key("b")] == driver.keys


async def test_every_policy_is_looked_at_and_not_only_the_first(driver, warm):
    """The server was opened for somebody who may have been content with less."""
    other = Policy(best_effort={"memory"})
    await used(warm)
    nursery = driver.nurseries[0]
    nursery.refusal = DriverUnavailable("cannot enforce memory here")
    await parked(driver, FEWEST + 1)
    with pytest.raises(DriverUnavailable, match="cannot enforce memory here"):
        async with child(warm, policy=other):
            pass

    assert [POLICY, other] == nursery.admitted
    assert FEWEST + 1 == len(nursery.waiting)


async def test_a_driver_that_cannot_is_told_as_it_is_and_asked_again_next_time(driver, warm):
    driver.troubles = [DriverUnavailable("no walls here")]
    with pytest.raises(DriverUnavailable, match=r"^no walls here$"):
        await used(warm)

    assert 1 == await used(warm)


async def test_one_key_that_cannot_be_served_leaves_the_others_alone(driver, warm):
    await used(warm, "good")
    driver.troubles = [DriverUnavailable("no")]
    with pytest.raises(DriverUnavailable):
        await used(warm, "bad")

    assert await used(warm, "good")
    assert 1 == len(driver.open)


async def test_whoever_waited_for_a_server_that_did_not_come_tries_it_himself(driver, warm):
    driver.troubles = [DriverUnavailable("no")] * 2
    outcomes = []

    async def one():
        try:
            outcomes.append(await used(warm))
        except DriverUnavailable:
            outcomes.append(None)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)

    assert [None, None] == outcomes[:2]
    assert outcomes[2]


async def test_a_server_that_died_is_replaced(driver, warm):
    await used(warm)
    await parked(driver, FEWEST + 1)
    driver.nurseries[0].alive = False
    await used(warm)

    assert 2 == len(driver.nurseries)
    await eventually(lambda: [] == driver.nurseries[0].waiting)
    assert [driver.nurseries[1]] == driver.open


async def test_a_server_that_breaks_while_it_is_asked_is_replaced(driver, warm):
    await used(warm)
    await parked(driver, FEWEST + 1)
    for made in driver.nurseries[0].children:
        made.die()
    driver.nurseries[0].troubles = [SandboxBroken("gone")] * 9

    assert 1 == await used(warm)
    assert 2 == len(driver.nurseries)


async def test_walls_that_break_every_time_are_told_after_some_tries(driver, warm):
    driver.curses = [SandboxBroken("the walls fell")] * 99
    with pytest.raises(SandboxBroken, match="the walls fell"):
        await used(warm)

    assert TRIES == len(driver.nurseries)
    await eventually(lambda: [] == driver.open)


@pytest.mark.parametrize("trouble", [SandboxBroken("no"), Overloaded("too many")])
async def test_trouble_while_children_are_made_ahead_is_nobodys_and_passes(driver, warm, trouble):
    await used(warm)
    nursery = driver.nurseries[0]
    nursery.troubles = [trouble]
    await eventually(lambda: [] == nursery.troubles)
    await used(warm)
    await parked(driver, FEWEST + 2)

    assert [nursery] == driver.open


async def test_a_server_has_only_so_many_children(driver, warm):
    await used(warm)
    await parked(driver, FEWEST + 1)
    driver.nurseries[0].born = RECYCLED
    await used(warm)

    assert 2 == len(driver.nurseries)
    await eventually(lambda: [driver.nurseries[1]] == driver.open)
    assert [] == driver.nurseries[0].waiting


async def test_a_server_that_is_replaced_lives_until_its_last_child_is_done(driver, warm):
    async with child(warm) as process:
        old = driver.nurseries[0]
        old.born = RECYCLED
        await used(warm)
        await eventually(lambda: [process.number] == old.waiting)

        assert old in driver.open
    await eventually(lambda: old not in driver.open)
    assert 1 == process.released


async def test_a_child_whose_server_dies_under_it_is_released_all_the_same(driver, warm):
    """Its server is gone and forgotten when it ends."""
    async with child(warm) as process:
        old = driver.nurseries[0]
        old.alive = False
        await used(warm)
        await eventually(lambda: old not in driver.open)
    await eventually(lambda: process.released == 1)


async def test_who_has_waited_too_long_leaves_nothing_behind(driver, warm):
    await used(warm)
    await parked(driver, FEWEST + 1)
    nursery = driver.nurseries[0]
    async with child(warm), child(warm), child(warm):
        nursery.gate = anyio.Event()
        with anyio.move_on_after(0.01) as patience:
            await used(warm)
        assert patience.cancelled_caught
        nursery.gate.set()
        nursery.gate = None
    await eventually(lambda: 0 == warm._pools[key()].working)
    await parked(driver, warm._pools[key()].wanted)


async def test_who_is_cancelled_at_work_leaves_nothing_behind(driver, warm):
    with anyio.CancelScope() as scope:
        async with child(warm) as process:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    await eventually(lambda: process.released == 1)

    assert 0 == warm._pools[key()].working


async def test_who_is_cancelled_while_a_server_starts_leaves_none_half_started(driver, warm):
    driver.opening = anyio.Event()
    with anyio.move_on_after(0.01) as patience:
        await used(warm)
    driver.opening = None

    assert patience.cancelled_caught
    assert [] == driver.nurseries
    assert await used(warm)
    assert 1 == len(driver.open)


async def test_there_are_only_so_many_servers_and_the_one_asked_longest_ago_makes_room(
    driver, warm, clock
):
    for number in range(SERVERS):
        clock.now += 1
        await used(warm, str(number))
    clock.now += 1
    await used(warm, "0")
    await used(warm, "one more")
    await eventually(lambda: SERVERS == len(driver.open))

    assert driver.nurseries[0] in driver.open
    assert driver.nurseries[1] not in driver.open
    assert [] == driver.nurseries[1].waiting


async def test_a_server_that_makes_room_finishes_what_it_has_begun(driver, warm, clock):
    async with child(warm, "busy") as process:
        for number in range(SERVERS):
            clock.now += 1
            await used(warm, str(number))
        await eventually(lambda: [process.number] == driver.nurseries[0].waiting)

        assert driver.nurseries[0] in driver.open
    await eventually(lambda: driver.nurseries[0] not in driver.open)


async def test_nothing_is_parked_any_more_after_a_server_made_room(driver, warm):
    """Not even the child that was under way at that moment."""
    await used(warm)
    await parked(driver, FEWEST + 1)
    nursery, pool = driver.nurseries[0], warm._pools[key()]
    gate = nursery.gate = anyio.Event()
    await used(warm)
    await eventually(lambda: f"ask {FEWEST + 3}" in driver.log)
    pool.retire()
    gate.set()
    await eventually(lambda: nursery not in driver.open)

    assert [] == nursery.waiting
    assert FEWEST + 3 == nursery.born


async def test_a_server_that_nobody_asks_is_stopped(driver, warm, clock):
    await used(warm)
    await parked(driver, FEWEST + 1)
    clock.now += IDLE + 1
    warm._pools[key()].stirred.set()  # as it does by itself now and then
    await eventually(lambda: [] == driver.open)

    assert [] == driver.nurseries[0].waiting
    assert 1 == await used(warm)
    assert 2 == len(driver.nurseries)


async def test_a_server_with_a_long_run_is_not_idle(driver, warm, clock):
    async with child(warm):
        clock.now += 10 * IDLE
        warm._pools[key()].stirred.set()
        await eventually(lambda: not warm._pools[key()].stirred.is_set())
        await parked(driver, FEWEST + 1)

        assert driver.open


async def test_limits_that_no_claim_can_change_are_part_of_what_a_child_is_made_for(driver, warm):
    driver.fixed = frozenset({"memory"})
    for memory in ("32MiB", "32MiB", "64MiB"):
        async with child(warm, policy=Policy(limits={"memory": memory})):
            pass

    assert [32 << 20, 64 << 20] == [one.limits.memory for one in driver.keys]


async def test_limits_that_a_claim_can_change_are_not(driver, warm):
    driver.fixed = frozenset({"memory"})
    for wall in (1, 2, 3):
        async with child(warm, policy=Policy(limits={"wall": wall})):
            pass

    assert 1 == len(driver.keys)


async def test_at_the_end_nothing_is_left(driver, clock):
    async with anyio.create_task_group() as group:
        warm = Warm(driver, group, None, clock)
        for name in ("a", "b"):
            await used(warm, name)
        await parked(driver, FEWEST + 1)
        group.cancel_scope.cancel()

    assert [] == driver.open
    assert [[], []] == [nursery.waiting for nursery in driver.nurseries]
    assert all(made.released == 1 for nursery in driver.nurseries for made in nursery.children)


def test_the_numbers_are_in_an_order_that_makes_sense():
    assert 0 < FEWEST < MOST < RECYCLED
    assert 0 < COOLING < IDLE
    assert 1 < module.TRIES


async def test_a_refill_for_what_is_not_there_any_more_ends_nothing_but_itself(driver, warm):
    """A mounted folder may go while children are parked for it; whoever asks next is told."""
    await used(warm)
    nursery = driver.nurseries[0]
    await parked(driver, FEWEST + 1)
    nursery.troubles = [InvalidTask("mount '/gone' cannot be opened")]
    await used(warm)
    await eventually(lambda: not nursery.troubles)

    assert 1 <= await used(warm)
    assert nursery.alive


async def test_layers_are_held_for_as_long_as_a_server_shows_them(driver, tasks, clock):
    layer = Layer(path="/cache/x/site", target="/opt/x")
    held = []

    @contextmanager
    def hold(layers):
        held.append(tuple(layers))
        yield
        held.clear()

    warm = Warm(driver, tasks, None, clock, hold)
    async with warm.child(key(), POLICY, [layer]):
        pool = warm._pools[key()]

        assert [(layer,)] == held

    pool.retire()
    await eventually(lambda: not held)


def warmth(least, most, idle=600.0, name="pool"):
    return WarmKey(interpreter="", environment="", warmth=Warmth(name, least, most, idle))


async def looked_after(pool):
    """Until whoever keeps a server has looked at it once more."""
    before = pool.stirred
    before.set()
    await eventually(lambda: pool.stirred is not before and not pool.finished)
    await anyio.wait_all_tasks_blocked()


async def test_whoever_says_how_warm_keeps_the_least_however_long_nobody_asks(driver, warm, clock):
    async with warm.child(warmth(3, 5), POLICY, ()):
        pool = warm._pools[warmth(3, 5)]
    await eventually(lambda: 4 == len(pool.parked))  # one more for the miss
    clock.now += 599
    await looked_after(pool)
    before = len(pool.parked)
    clock.now += 2
    await looked_after(pool)

    assert 4 == before
    assert 3 == len(pool.parked)
    assert driver.nurseries[0].alive

    clock.now += 100 * IDLE
    await looked_after(pool)

    assert pool is warm._pools[warmth(3, 5)]
    assert 3 == len(pool.parked)


async def test_with_no_least_the_server_goes_when_the_time_is_over(driver, warm, clock):
    async with warm.child(warmth(0, 5), POLICY, ()):
        pool = warm._pools[warmth(0, 5)]
    await eventually(lambda: pool.parked)
    clock.now += 601
    await looked_after(pool)

    await eventually(lambda: not driver.nurseries[0].waiting)
    assert not warm._pools


async def test_no_more_than_the_most_are_parked(driver, warm):
    async with AsyncExitStack() as together:
        for _ in range(9):
            await together.enter_async_context(warm.child(warmth(0, 1), POLICY, ()))

    assert 1 == warm._pools[warmth(0, 1)].wanted


async def test_a_long_call_is_no_idleness(warm, clock):
    async with warm.child(warmth(0, 5), POLICY, ()):
        pool = warm._pools[warmth(0, 5)]
        clock.now += 10_000
        assert not pool.idle

    assert not pool.idle
    clock.now += 601
    assert pool.idle


async def test_children_of_two_names_are_kept_apart(driver, warm):
    for name in ("one", "other", "one"):
        async with warm.child(warmth(1, 1, name=name), POLICY, ()):
            pass

    assert 2 == len(driver.nurseries)


async def test_a_server_that_is_to_stay_makes_no_room(driver, warm):
    async with warm.child(warmth(1, 1), POLICY, ()):
        pass
    for number in range(SERVERS + 1):
        await used(warm, str(number))

    assert warmth(1, 1) in warm._pools


async def test_the_operators_number_is_the_last_word(driver, tasks, clock):
    warm = Warm(driver, tasks, 0, clock)
    async with warm.child(warmth(3, 5), POLICY, ()):
        pool = warm._pools[warmth(3, 5)]

    assert (0, 0) == (pool.wanted, pool.least)
