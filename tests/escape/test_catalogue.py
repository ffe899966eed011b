"""The attacks themselves: there are enough, of every kind, and they are what they seem."""

import ast
import subprocess
import sys

import pytest

from saggar.boundary import frames
from saggar.model.policy import Rung
from saggar.model.program import Inline
from saggar.testing.attacks import ATTACKS, FAMILIES, Attack, channel, inside, sessions
from saggar.testing.attacks.program import program

EVERY = pytest.mark.parametrize("attack", ATTACKS, ids=str)


def programs(attack: Attack) -> list[str]:
    return [program(guest) for guest in (attack.guest, attack.first, attack.beside) if guest]


def test_there_are_more_than_two_hundred_of_fourteen_kinds():
    families = {attack.family for attack in ATTACKS}

    assert 200 <= len(ATTACKS)
    assert 14 == len(families)
    assert all(4 <= sum(attack.family == family for attack in ATTACKS) for family in families)


def test_no_two_have_the_same_name():
    names = [attack.name for attack in ATTACKS]

    assert len(names) == len(set(names))


def test_most_of_them_are_stopped_by_less_than_a_jail():
    assert len(ATTACKS) > 10 * sum(attack.stopped_from >= Rung.JAIL for attack in ATTACKS)


@EVERY
def test_it_says_what_it_tries(attack: Attack):
    assert 15 < len(attack.title) < 110
    assert attack.title[-1] in ".:"


@EVERY
def test_its_programs_are_whole_and_need_nothing_of_ours(attack: Attack):
    for text in programs(attack):
        tree = ast.parse(text)
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {n.name for i in ast.walk(tree) if isinstance(i, ast.Import) for n in i.names}

        assert {name.partition(".")[0] for name in imported if name} <= sys.stdlib_module_names
        assert text == Inline(text=text).text


def test_forged_frames_are_frames():
    forged = channel.frame(channel.DONE, {"exit": 0}, b"x")

    assert forged == frames.pack(frames.DONE, b'{"exit": 0}', b"x")
    assert (2, 3, 4, 5, 6, 7) == (
        channel.READY,
        channel.DISPLAY,
        channel.VALUE,
        channel.ERROR,
        channel.DONE,
        channel.STANDING,
    )
    assert (frames.TOLD, frames.CLEARED) == (sessions.TOLD, sessions.CLEARED)
    assert frames.KINDS == {
        channel.READY,
        channel.DISPLAY,
        channel.VALUE,
        channel.ERROR,
        frames.DONE,
        channel.STANDING,
        *range(sessions.TOLD, sessions.CLEARED + 1),
    }


def test_a_program_holds_what_its_attack_names_and_nothing_else():
    attack = next(attack for attack in ATTACKS if attack.name == "read-planted-secrets")

    text = attack.code

    assert "def attempt(" in text
    assert "def denied(" not in text
    assert "@attack" not in text
    assert text.endswith("begin()\nread_planted_secrets()\nend()\n")


def test_an_escape_is_told_by_a_program_without_walls():
    """What an attack prints when it gets out is what the check looks for."""
    attack = next(attack for attack in ATTACKS if attack.name == "change-personality")

    run = subprocess.run(
        [sys.executable, "-I", "-c", attack.code], capture_output=True, text=True, check=True
    )

    assert 4 == run.stdout.count("ESCAPED personality")
    assert "TRIED 4" in run.stdout


def test_every_family_is_a_module_of_its_own():
    assert {module.__name__.rpartition(".")[2] for module in FAMILIES} == {
        attack.family for attack in ATTACKS
    }
    assert {} == inside.scene
