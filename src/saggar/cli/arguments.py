"""
argparse as we want it: mistakes are `UsageError`s that name the nearest option, nothing is
guessed from the first letters of one, and the program's own arguments stand apart.
"""

import argparse
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

from saggar.cli.main import say
from saggar.errors import UsageError


class Parser(argparse.ArgumentParser):
    """The arguments of one command."""

    def __init__(self, command: str, summary: str, examples: str = "") -> None:
        super().__init__(
            prog=f"saggar {command}",
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # A new option must not change what an abbreviation meant.
            allow_abbrev=False,
        )
        self.elsewhere = ""
        """Where a word belongs that has no place among ours."""
        self._words: Sequence[str] = ()

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The options in `words`. UsageError for what is none of them."""
        self._words = words
        found, rest = self.parse_known_args(words)
        if rest:
            raise UsageError(self.unknown(rest[0]))
        return found

    def unknown(self, word: str) -> str:
        """What to say about a word that means nothing here."""
        ways = [self.elsewhere] if self.elsewhere else []
        if not word.startswith("-"):
            way_out = "; ".join(ways) or f"see {self.prog} --help"
            return f"{self.prog} has no use for {word!r}; {way_out}"
        from difflib import get_close_matches

        name = word.partition("=")[0]
        near = get_close_matches(name, self._option_string_actions, n=1, cutoff=0.7)
        ways.insert(0, f"did you mean {near[0]}?" if near else f"see {self.prog} --help")
        return f"{self.prog} has no option {name}; {'; '.join(ways)}"

    def error(self, message: str) -> NoReturn:
        """Argparse found a mistake: it is the caller's, and one line says so."""
        message = message.removeprefix("argument ")
        if found := re.fullmatch(r"(-\S+): expected .*one argument", message):
            raise UsageError(f"{found[1]}: {self._without_value(found[1])}")
        raise UsageError(f"{message}; see {self.prog} --help")

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002 - stdout, as for any answer
        """Help is an answer like any other, and its reader may leave."""
        say(self.format_help())

    def _without_value(self, option: str) -> str:
        """What to say of an option whose value is missing, or looks like an option."""
        following = (after for word, after in pairwise(self._words) if word == option)
        word = next((after for after in following if after.startswith("-")), None)
        if word is None:
            return f"wanted a value, found none; see {self.prog} --help"
        return f"wanted a value, found {word!r}; one that begins with - is joined: {option}={word}"


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our words, and those after the first `--`, which are the program's."""
    words = list(words)
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]
