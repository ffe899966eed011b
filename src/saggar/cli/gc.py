"""`saggar gc`: remove what a killed process left behind, and say what it was."""

from collections.abc import Mapping, Sequence

from saggar.cli.arguments import Parser
from saggar.cli.main import say

SUMMARY = "Remove what a killed process left: control groups, user id leases, mounts, layers."
EXAMPLES = """\
Nothing that a living process uses is touched: each thing carries the mark of its holder.
"""


def main(words: Sequence[str]) -> int:
    """Sweep, and report."""
    parser = Parser("gc", SUMMARY, EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print it as one JSON document")
    options = parser.read(words)

    import anyio

    swept = anyio.run(sweep)
    say((as_json(swept) if options.json else report(swept)) + "\n")
    return 0


async def sweep() -> Mapping[str, int]:
    """What was removed, by kind."""
    from saggar.config import load
    from saggar.platform import Platform

    async with Platform(load()) as platform:
        return await platform.sweep()


def report(swept: Mapping[str, int]) -> str:
    """One line for each kind of thing there was."""
    lines = [f"{kind.replace('_', ' ')}: {count} removed" for kind, count in swept.items() if count]
    return "\n".join(lines) or "nothing to remove"


def as_json(swept: Mapping[str, int]) -> str:
    """The same for programs."""
    import json

    return json.dumps(dict(swept))
