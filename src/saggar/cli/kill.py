"""`saggar kill`: end live sandboxes and sessions, whichever process of this user has them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saggar.cli.arguments import Parser
from saggar.cli.main import say

if TYPE_CHECKING:
    from saggar.sessions.reach import Place

SUMMARY = "End live sandboxes and sessions, with every process in them."
EXAMPLES = """\
examples:
  saggar kill 4f3a
  saggar kill 4f3a 90bc --json

The beginning of an id is enough where it is unique; saggar ps shows them. What runs there ends as
cancelled. Exit code: 0; 2 there is no such id, or several begin so, and none is ended; 70 the
process that has it does not answer.
"""


def main(words: Sequence[str]) -> int:
    """End them; all of the ids are found first, or nothing is ended."""
    parser = Parser("kill", SUMMARY, EXAMPLES)
    parser.add_argument("ids", nargs="+", metavar="ID", help="its id, or how it begins")
    parser.add_argument("--json", action="store_true", help="say what was ended as JSON")
    options = parser.read(words)

    import anyio

    from saggar.cli.live import table
    from saggar.sessions.reach import find

    rows = table()
    places = {(place := find(rows, word)).id: place for word in options.ids}
    anyio.run(end, list(places.values()))
    if options.json:
        import json

        say(json.dumps({"killed": list(places)}) + "\n")
    return 0


async def end(places: "Sequence[Place]") -> None:
    """All of them at once; the first that could not be ended is said when the others are gone."""
    import anyio

    from saggar.errors import SaggarError
    from saggar.sessions.reach import kill

    failed: list[SaggarError] = []

    async def one(place: "Place") -> None:
        try:
            await kill(place)
        except SaggarError as exc:
            failed.append(exc)

    async with anyio.create_task_group() as tasks:
        for place in places:
            tasks.start_soon(one, place)
    if failed:
        raise failed[0]
