"""Turns: in the order in which they came, and never lost."""

import random

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from saggar.engine.turns import Aborted, Turns


async def test_the_first_one_does_not_wait():
    turns = Turns()
    with anyio.fail_after(0):
        await turns.take()

    assert turns.taken
    assert 0 == len(turns)


async def test_a_turn_that_is_given_back_is_there_for_the_next_one():
    turns = Turns()
    await turns.take()
    turns.give()

    assert not turns.taken


@given(st.lists(st.sampled_from(["wait", "cancel"]), min_size=1, max_size=20))
def test_whoever_stays_gets_his_turn_in_the_order_in_which_he_came(deeds: list[str]):
    anyio.run(_stay_or_go, deeds)


async def _stay_or_go(deeds: list[str]) -> None:
    """Some give up while they wait; the others come in order, one at a time."""
    turns, came = Turns(), []

    async def one(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            await turns.take()
            came.append(number)
            await checkpoint()
            turns.give()

    await turns.take()
    async with anyio.create_task_group() as tasks:
        scopes = [anyio.CancelScope() for _ in deeds]
        for number, scope in enumerate(scopes):
            tasks.start_soon(one, number, scope)
        await anyio.wait_all_tasks_blocked()
        for deed, scope in zip(deeds, scopes, strict=True):
            if deed == "cancel":
                scope.cancel()
        turns.give()

    assert [number for number, deed in enumerate(deeds) if deed == "wait"] == came
    assert not turns.taken
    assert 0 == len(turns)


async def test_a_turn_that_comes_as_its_taker_leaves_goes_to_the_next_one():
    """The call and the cancellation meet: the turn must be used by somebody."""
    turns, came = Turns(), []

    async def one(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            await turns.take()
            came.append(number)
            turns.give()

    await turns.take()
    first, second = anyio.CancelScope(), anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one, 1, first)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(one, 2, second)
        await anyio.wait_all_tasks_blocked()
        turns.give()
        first.cancel()

    assert 2 == came[-1]
    assert not turns.taken


@pytest.mark.parametrize("seed", range(20))
async def test_no_turn_is_lost_in_a_storm(seed: int):
    """Takers, leavers and those who send others away, in any order: in the end it is free."""
    dice, turns, holding = random.Random(seed), Turns(), []

    async def one() -> None:
        with anyio.move_on_after(dice.random() / 100):
            try:
                await turns.take()
            except Aborted:
                return
            try:
                holding.append(1)
                assert 1 == len(holding)
                await anyio.sleep(dice.random() / 1000)
            finally:
                holding.pop()
                turns.give()

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
            if dice.random() < 0.1:
                turns.abort()
            await checkpoint()

    assert not turns.taken
    assert 0 == len(turns)


async def test_those_who_are_sent_away_hear_of_it_and_whoever_has_the_turn_keeps_it():
    turns, heard = Turns(), []

    async def one() -> None:
        try:
            await turns.take()
        except Aborted:
            heard.append("aborted")

    await turns.take()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        count = turns.abort()

    assert 3 == count
    assert ["aborted"] * 3 == heard
    assert turns.taken
