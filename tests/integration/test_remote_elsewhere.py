"""Instances of remote classes that another process of the same user has opened."""

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import Any

import anyio
import numpy as np
import pytest
from tests.unit.child import in_child

import saggar
from saggar.errors import Conflict, NotFound
from saggar.functions.errors import RemoteCrash, StateLost
from saggar.functions.remote import remote

HOLDER = """
import sys
import saggar
from saggar.functions.remote import remote
from tests.integration.test_remote_elsewhere import Tally
with Tally(5) as made:
    print(made.id, flush=True)
    sys.stdin.read()
"""


class Counting:
    """One that counts what is asked of it."""

    def __init__(self, start: int = 0) -> None:
        self.n = start

    def add(self, x: int = 1) -> int:
        self.n += x
        return self.n

    def said(self) -> None:
        print("said")  # noqa: T201

    def twice(self, a: Any) -> Any:
        return a * 2

    def up_to(self, end: int) -> Any:
        yield from range(self.n, end)

    def fail(self) -> None:
        raise KeyError(self.n)

    def loop(self) -> None:
        while True:
            pass

    def die(self) -> None:
        os._exit(3)


Tally: Any = remote(
    environment=saggar.Environment(host_packages=True),
    policy=saggar.Policy(host_packages=True),
    limits={"memory": "512MiB", "wall": 20},
)(Counting)


@contextmanager
def elsewhere():
    """A process that has one, and the id of that."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            yield holder, holder.stdout.readline().strip()
        finally:
            holder.kill()


@pytest.fixture(scope="module")
def held():
    with elsewhere() as (_, name):
        yield name


@pytest.fixture
def counter(held):
    found = Tally.get(held)
    found.restart()
    return found


def test_the_same_id_finds_the_same_instance_in_another_process(counter, held):
    before = counter.metadata
    found = [counter.add(), Tally.get(held).add(), counter.n]

    assert [6, 7, 7] == found
    assert held == counter.id
    assert 2 == counter.metadata.method_calls - before.method_calls
    assert "Counting" == before.class_name


def test_arrays_go_there_and_come_back(counter):
    given = np.arange(500_000)

    assert (given * 2 == counter.twice(given)).all()


def test_what_it_raises_is_raised_here_and_what_it_prints_is_shown_here(held, capsys):
    counter = Tally.options(log=True).get(held)
    counter.restart()
    counter.said()
    with pytest.raises(KeyError, match="5"):
        counter.fail()

    assert "said\n" == capsys.readouterr().out


def test_what_it_yields_comes_one_by_one(counter):
    assert list(range(5, 105)) == list(counter.up_to.stream(105))
    assert 5 == next(counter.up_to.stream(10**9))
    assert 6 == counter.add()


def test_calls_from_several_processes_take_turns(counter, held):
    def add():
        found = Tally.get(held)
        return [found.add() for _ in range(5)]

    there = in_child(add)
    here = [counter.add() for _ in range(5)]

    assert (list(range(6, 11)), list(range(11, 16))) == (there, here)


def test_a_call_that_nobody_waits_for_is_interrupted_there_and_the_instance_lives(held):
    """The one who asked has given up: nobody waits for it any more."""

    async def given_up():
        found = Tally.get(held)
        found.restart()
        with anyio.move_on_after(0.3) as waited:
            await found.loop.aremote()
        return waited.cancelled_caught, await found.add.aremote()

    assert (True, 6) == anyio.run(given_up)


def test_its_death_is_named_and_it_can_be_made_again(counter):
    with pytest.raises(RemoteCrash, match="ended itself with exit code 3"):
        counter.die()
    with pytest.raises(StateLost, match="ended itself with exit code 3"):
        counter.add()
    counter.restart()

    assert 6 == counter.add()


def test_who_closes_it_closes_it_for_all():
    with elsewhere() as (_, name):
        first, second = Tally.get(name), Tally.get(name)
        first.close()
        first.close()

        with pytest.raises(Conflict, match="Counting is closed"):
            second.add()


def test_with_its_process_it_is_lost():
    with elsewhere() as (holder, name):
        found = Tally.get(name)
        holder.kill()
        holder.wait()

        with pytest.raises(StateLost, match=f"process {holder.pid}, which had it, has ended"):
            found.add()
        with pytest.raises(NotFound, match="in no process of this user on this machine"):
            Tally.get(name)


def test_an_id_of_another_class_is_not_found(held):
    other: Any = remote(type("Other", (), {}))

    with pytest.raises(NotFound):
        other.get(held)


def test_a_fork_finds_the_instance_of_its_parent_by_its_id():
    with Tally(1) as made:
        there = in_child(lambda: Tally.get(made.id).add())

        assert (2, 3) == (there, made.add())
