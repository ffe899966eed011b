"""
The pool's laws, whatever happens in whatever order: one holder at most, clean when given, none
lost, nobody overtaken.
"""

from collections import Counter

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sessions.scripted import free, pool, until

from saggar.errors import Conflict, PlatformError
from saggar.sessions.pool import Patience

TYPES = ("python", "python", "node")
PATIENT = Patience(allocation=1000, retry=0.0005)
INSTANCE = st.sampled_from("012")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.sampled_from(["", "python", "node"])),
        st.tuples(st.sampled_from(["give up", "leave"]), st.integers(0, 9)),
        st.tuples(st.sampled_from(["give up", "leave"]), st.integers(0, 9)),
        st.tuples(st.just("release"), INSTANCE),
        st.tuples(st.just("use"), INSTANCE),
        st.tuples(st.sampled_from(["fall", "rise", "lose", "hold up", "let go"]), INSTANCE),
        st.tuples(st.sampled_from(["fall silent", "speak"]), INSTANCE),
        st.tuples(st.just("check"), st.just("")),
    ),
    max_size=30,
)


class World:
    """A pool, those who want something of it, and what they have seen."""

    def __init__(self, opened, tasks):
        self.pool, self.tasks = opened, tasks
        self.waiting = {}
        """The scope of each who waits, by his number, in the order they came."""
        self.uses = {}
        self.holders = {}
        """Who was given what: the name of an instance, by the token."""
        self.served = []
        self.count = 0

    async def step(self, verb, what):  # noqa: C901, PLR0912 - one line for each thing there is
        """One thing happens."""
        self.count += 1
        match verb:
            case "allocate":
                self.tasks.start_soon(self.allocate, self.count, what)
            case "use":
                self.tasks.start_soon(self.use, self.count, what)
            case "give up" if self.waiting:
                list(self.waiting.values())[what % len(self.waiting)].cancel()
            case "leave" if self.uses:
                list(self.uses.values())[what % len(self.uses)].cancel()
            case "release" if self.pool.find(what).allocation:
                self.release(what)
            case "fall":
                self.pool.find(what).instance.up = False
            case "rise":
                self.pool.find(what).instance.up = True
            case "lose":
                self.pool.lost(self.pool.find(what), "somebody said so")
            case "hold up" if self.pool.find(what).instance.gate.is_set():
                self.pool.find(what).instance.gate = anyio.Event()
            case "let go":
                self.pool.find(what).instance.gate.set()
            case "check":
                self.tasks.start_soon(self.pool.check)
            case "fall silent" if self.pool.find(what).instance.speaks.is_set():
                self.pool.find(what).instance.speaks = anyio.Event()
            case "speak":
                self.pool.find(what).instance.speaks.set()

    async def allocate(self, number, kind):
        with anyio.CancelScope() as scope:
            self.waiting[number] = scope
            try:
                member = await self.pool.allocate(kind)
                self.served.append((number, kind, member.type))
                self.hold(member)
            finally:
                del self.waiting[number]

    async def use(self, number, name):
        with anyio.CancelScope() as scope:
            self.uses[number] = scope
            try:
                async with self.pool.use(name) as member:
                    token = member.allocation.token
                    if token not in self.holders:
                        self.hold(member)
                    assert member.instance.left_behind in (None, token)
                    member.instance.left_behind = token
                    try:
                        await anyio.sleep_forever()
                    finally:
                        # What is cancelled has its last words.
                        with anyio.CancelScope(shield=True):
                            for _ in range(10):
                                await anyio.lowlevel.checkpoint()
                            assert member.instance.left_behind == token
            except (PlatformError, Conflict):
                pass
            finally:
                del self.uses[number]

    def hold(self, member):
        """Somebody was given it: nobody else has it, and nothing is in it."""
        assert member.name not in self.holders.values()
        assert member.instance.left_behind is None
        self.holders[member.allocation.token] = member.name
        member.instance.left_behind = member.allocation.token

    def release(self, name):
        token = self.pool.find(name).allocation.token
        self.pool.release(name, token)
        self.holders.pop(token, None)

    def check(self):
        """What is true between any two steps."""
        census = self.pool.census()
        placed = [*census.free, *census.held, *census.away]
        assert {"0": 1, "1": 1, "2": 1} == Counter(member.name for member in placed)
        for member in census.free:
            assert not member.dirty
            assert member.instance.left_behind is None
            assert not any(one.wants(member) for one in self.pool._turns.waiting)
        held = {member.name for member in census.held}
        assert set(self.holders.values()) <= held

    async def settle(self):
        """Everybody leaves, everything works again: then all are free."""
        self.tasks.cancel_scope.cancel()
        with anyio.fail_after(5, shield=True):
            await until(lambda: not (self.waiting or self.uses))
            for member in list(self.pool.census().held):
                self.pool.release(member.name)
            for name in "012":
                self.pool.find(name).instance.up = True
                self.pool.find(name).instance.gate.set()
                self.pool.find(name).instance.speaks.set()
            await free(self.pool, 3)


async def rest():
    """Everybody does what he can do now; a fixed number of turns, as some are never done."""
    for _ in range(25):
        await anyio.lowlevel.checkpoint()


async def live(steps):
    async with pool(TYPES, patience=PATIENT) as opened, anyio.create_task_group() as tasks:
        world = World(opened, tasks)
        for verb, what in steps:
            await world.step(verb, what)
            await rest()
            world.check()
        await world.settle()
        return world


@given(STEPS)
@settings(max_examples=80, deadline=None)
def test_whatever_happens_each_has_one_holder_gets_it_clean_and_none_is_lost(steps):
    anyio.run(live, steps)


@given(st.lists(st.sampled_from(["", "python", "node"]), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_among_those_who_want_the_same_nobody_is_overtaken(kinds):
    async def scene():
        steps = [("allocate", "python"), ("allocate", "python"), ("allocate", "node")]
        async with pool(TYPES, patience=PATIENT) as opened, anyio.create_task_group() as tasks:
            world = World(opened, tasks)
            for verb, what in [*steps, *(("allocate", kind) for kind in kinds)]:
                await world.step(verb, what)
                await rest()
            while world.waiting:
                for name in list(world.holders.values()):
                    world.release(name)
                await anyio.sleep(0.0005)
            return world.served

    served = anyio.run(scene)

    for kind in ("", "python", "node"):
        numbers = [number for number, wanted, _ in served if wanted == kind]
        assert sorted(numbers) == numbers
