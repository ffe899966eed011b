"""
argparse as we want it: mistakes are `UsageError`s that name the nearest option, nothing is
guessed from the first letters of one, and the program's own arguments stand apart.
"""

import argparse
from collections.abc import Sequence
from typing import NoReturn

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

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The options in `words`. UsageError for what is none of them."""
        found, rest = self.parse_known_args(words)
        if rest:
            raise UsageError(self.unknown(rest[0]))
        return found

    def unknown(self, word: str) -> str:
        """What to say about a word that means nothing here."""
        if not word.startswith("-"):
            return f"{self.prog} has no use for {word!r}; see {self.prog} --help"
        from difflib import get_close_matches

        name = word.partition("=")[0]
        near = get_close_matches(name, self._option_string_actions, n=1)
        hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
        return f"{self.prog} has no option {name}; {hint}"

    def error(self, message: str) -> NoReturn:
        """Argparse found a mistake: it is the caller's, and one line says so."""
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our words, and those after the first `--`, which are the program's."""
    words = list(words)
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]
