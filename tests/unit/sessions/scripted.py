"""Instances that do what a test says, and remember what was done to them."""

from contextlib import asynccontextmanager, contextmanager

import anyio

from saggar.sessions.pool import Patience, Pool
from saggar.sessions.pool_state import InstanceDown, Ledger, Member

QUICK = Patience(allocation=5, retry=0.001)


class Scripted:
    """An instance in this process."""

    def __init__(self, name):
        self.name = name
        self.up = True
        self.left_behind = None
        """What the last one to use it left in it."""
        self.restarts = 0
        self.gate = anyio.Event()
        """A restart ends once this is set."""
        self.gate.set()
        self.speaks = anyio.Event()
        """It answers a question once this is set."""
        self.speaks.set()
        self.begun = False

    async def ready(self):
        await self.speaks.wait()
        if not self.up:
            raise InstanceDown(f"{self.name} is down")

    async def restart(self):
        await self.ready()
        self.restarts += 1
        self.begun = True

    async def settled(self):
        await self.gate.wait()
        await self.ready()
        if self.begun:
            self.left_behind, self.begun = None, False


@contextmanager
def ledger(path=":memory:"):
    """A state file, closed in the end."""
    kept = Ledger(path)
    try:
        yield kept
    finally:
        kept.close()


def members(types, place="here"):
    """One member for each type, numbered."""
    return [
        Member(str(number), kind, place, Scripted(str(number))) for number, kind in enumerate(types)
    ]


@asynccontextmanager
async def pool(types, path=":memory:", patience=QUICK, **more):
    """A pool of scripted instances that have all come up."""
    with ledger(path) as kept:
        async with Pool(members(types), kept, patience, **more) as opened:
            await anyio.wait_all_tasks_blocked()
            yield opened


async def free(opened, count):
    """Wait until so many are free."""
    await until(lambda: len(opened.census().free) == count)


async def until(true):
    """Wait for something that sets no event of ours; the test's own time limit ends it."""
    while not true():  # noqa: ASYNC110
        await anyio.sleep(0.0005)
