"""`saggar dead-letters`: jobs that were given up."""

import json
from collections.abc import Sequence
from typing import Any

from saggar.cli.arguments import Parser
from saggar.cli.jobs import SHORT, chosen, desk, moment
from saggar.cli.main import say
from saggar.cli.ps import lines, plain, plain_json
from saggar.errors import UsageError

SUMMARY = (
    "Jobs that were given up, after all attempts or as none could help: ls, show, replay, drop."
)
EXAMPLES = """\
examples:
  saggar dead-letters ls
  saggar dead-letters show 4f3a
  saggar dead-letters replay 4f3a
  saggar dead-letters drop 4f3a 90bc
  saggar broker cli LRANGE dead_letter 0 -1

The beginning of an id is enough where it is unique. replay starts a job anew, with all attempts.
Exit code: 0; 2 there is no such letter; 70 the queue does not answer.
"""
TITLES = ("ID", "BURIED", "QUEUE", "TENANT", "ATTEMPTS", "ERROR")
WIDEST = 80


def main(words: Sequence[str]) -> int:
    """What the first word asks for."""
    return chosen("dead-letters", SUMMARY, EXAMPLES, ACTIONS, words)


def ls(words: Sequence[str]) -> int:
    """The newest."""
    made = Parser("dead-letters ls", "The newest dead letters.", "")
    made.add_argument("--tenant", metavar="NAME", help="only his")
    made.add_argument("--limit", type=int, default=50, metavar="N", help="how many at most (50)")
    made.add_argument("--json", action="store_true", help="print them as one JSON document")
    options = made.read(words)
    if options.limit < 1:
        raise UsageError(f"--limit: wanted a number above 0, found {options.limit}")

    from saggar.jobs import deadletters

    found = deadletters.ls(desk().store, options.limit, options.tenant)
    if options.json:
        say(plain_json(json.dumps({"dead_letters": found}, ensure_ascii=False)) + "\n")
        return 0
    say("\n".join(lines(TITLES, *map(cells, found))) + "\n")
    return 0


def cells(letter: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    error = letter["error"]
    text = " ".join(f"{error['code']}: {error['message']}".split())
    return (
        letter["job_id"][:SHORT],
        moment(letter["buried"]),
        letter["queue"],
        letter["tenant"],
        str(letter["attempts"]),
        plain(text[:WIDEST]),
    )


def show(words: Sequence[str]) -> int:
    """One of them."""
    made = Parser("dead-letters show", "All that a dead letter says, as JSON.", "")
    made.add_argument("id", metavar="ID", help="its job's id, or how that begins")
    made.add_argument("--json", action="store_true", help="in one line")
    options = made.read(words)

    from saggar.jobs import deadletters

    store = desk().store
    letter = deadletters.entry(store, meant(store, options.id))
    text = json.dumps(letter, ensure_ascii=False, indent=None if options.json else 2)
    say(plain_json(text) + "\n")
    return 0


def replay(words: Sequence[str]) -> int:
    """Start them anew."""
    options = _several("dead-letters replay", "Start jobs anew, with all their attempts.", words)

    from saggar.jobs import deadletters

    at = desk()
    letters = [deadletters.entry(at.store, meant(at.store, word)) for word in options.ids]
    for letter in letters:
        deadletters.replay(at.store, letter["job_id"])
        at.assure(letter["queue"])
    return _told("replayed", letters, as_json=options.json)


def drop(words: Sequence[str]) -> int:
    """Forget them."""
    options = _several("dead-letters drop", "Forget dead letters, and their jobs.", words)

    from saggar.jobs import deadletters

    store = desk().store
    letters = [deadletters.entry(store, meant(store, word)) for word in options.ids]
    for letter in letters:
        deadletters.drop(store, letter["job_id"])
    return _told("dropped", letters, as_json=options.json)


def meant(store: Any, word: str) -> str:
    """The id of the letter that begins so. UsageError if several do."""
    from saggar.jobs import deadletters

    if not word:
        raise UsageError("ID: wanted a job's id, or how it begins, found an empty word")
    every = (letter["job_id"] for letter in deadletters.ls(store, limit=10_000))
    found = sorted({job_id for job_id in every if job_id.startswith(word)})
    if len(found) > 1 and word not in found:
        raise UsageError(f"{word!r} begins {len(found)} ids; type more of it")
    return found[0] if len(found) == 1 else word


def _several(command: str, summary: str, words: Sequence[str]) -> Any:
    made = Parser(command, summary, "")
    made.add_argument("ids", nargs="+", metavar="ID", help="its job's id, or how that begins")
    made.add_argument("--json", action="store_true", help="say which they were as JSON")
    return made.read(words)


def _told(what: str, letters: list[dict[str, Any]], *, as_json: bool) -> int:
    if as_json:
        say(json.dumps({what: [letter["job_id"] for letter in letters]}) + "\n")
    return 0


ACTIONS = {
    "ls": ("the newest of them", ls),
    "show": ("one of them", show),
    "replay": ("start the job anew", replay),
    "drop": ("forget it", drop),
}
