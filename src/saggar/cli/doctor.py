"""
`saggar doctor`: what each driver can enforce on this machine, why not, and what to do about it.

Everything it says comes from the drivers' own probes, which try rather than read versions.
"""

import os
import platform as machine
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import Parser
from saggar.cli.main import say
from saggar.errors import NotFound

if TYPE_CHECKING:
    from saggar.config import Settings
    from saggar.model.plan import Capabilities

SUMMARY = "What each driver can enforce on this machine, found by trying it; why not; what to do."
EXAMPLES = """\
Exit code: 0 if the closed policy, Policy(), can run here with every limit enforced; 70 if not.
"""
UNFIT = 70
Found = Mapping[str, "Capabilities"]


def main(words: Sequence[str]) -> int:
    """Probe every driver and show what was found."""
    parser = Parser("doctor", SUMMARY, EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print it as one JSON document")
    options = parser.read(words)

    import anyio

    from saggar.config import load

    settings = load()
    found = anyio.run(probe, settings)
    if settings.driver not in found:
        raise NotFound.among("driver", settings.driver, found)
    fit = can_run_closed(found[settings.driver])
    if options.json:
        say(as_json(found, fit=fit) + "\n")
    else:
        holds = "runs" if fit else "DOES NOT RUN"
        outlook = f"Policy(), the closed one, {holds} here as it stands."
        say("\n".join([*report(found), "", outlook, ""]))
    return 0 if fit else UNFIT


async def probe(settings: "Settings") -> Found:
    """Every driver's own answer."""
    from saggar.platform import Platform

    async with Platform(settings) as platform:
        return await platform.probe()


def can_run_closed(capabilities: "Capabilities") -> bool:
    """Whether `Policy()` is admitted here as it stands."""
    from saggar.model.limits import LIMIT_NAMES
    from saggar.model.policy import Policy

    floor = Policy().isolation
    rung = capabilities.rung
    high_enough = rung is not None and rung >= floor
    return high_enough and all(map(capabilities.enforces, LIMIT_NAMES))


def as_json(found: Found, *, fit: bool) -> str:
    """The same for programs."""
    import json

    drivers = {name: capabilities.model_dump(mode="json") for name, capabilities in found.items()}
    document = {"closed_policy_runs": fit, "machine": surroundings(), "drivers": drivers}
    return json.dumps(document, indent=2)


def surroundings() -> dict[str, str]:
    """The machine, as far as it matters here."""
    system = os.uname()
    return {
        "kernel": f"{system.sysname} {system.release} {system.machine}",
        "python": machine.python_version(),
        "user": "root" if os.geteuid() == 0 else f"uid {os.geteuid()}",
        "cores": str(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else "?",
    }


def report(found: Found) -> Iterator[str]:
    """The whole page, line by line."""
    here = surroundings()
    yield f"{here['kernel']} · Python {here['python']} · {here['user']} · {here['cores']} cores"
    yield ""
    yield from columns(matrix(found))
    for capabilities in found.values():
        yield ""
        yield from details(capabilities)
    yield from recipes(found)


def matrix(found: Found) -> Iterator[list[str]]:
    """Drivers across, what they can do down."""
    from saggar.model.limits import LIMIT_NAMES

    every = found.values()
    yield ["", *found]
    yield ["rung", *(str(each.rung or "-") for each in every)]
    yield ["kept warm", *(yes(holds=each.warm) for each in every)]
    for limit in LIMIT_NAMES:
        yield [limit, *(yes(holds=each.enforces(limit)) for each in every)]


def details(capabilities: "Capabilities") -> Iterator[str]:
    """One driver: by what it enforces each limit, or why not; then why its rung is no higher."""
    from saggar.model.limits import LIMIT_NAMES

    rung = f"rung {capabilities.rung}" if capabilities.available else "not available here"
    yield f"{capabilities.driver}: {rung}"
    # Not every version of the model has them.
    facts: Mapping[str, Any] = capabilities.model_dump().get("facts", {})
    yield from indented([[name, str(value)] for name, value in facts.items()])
    said = capabilities.limits.items()
    yield from indented(
        [
            [limit, support.how if support.enforced else f"NOT ENFORCED: {support.why_not}"]
            for limit, support in sorted(said, key=lambda pair: LIMIT_NAMES.index(pair[0]))
        ]
    )
    for reason in capabilities.reasons:
        yield f"  {reason}"


def recipes(found: Found) -> Iterator[str]:
    """What to do, once for each surroundings."""
    known = {name: text for each in found.values() for name, text in each.recipes.items()}
    if known:
        yield "\nWhat to do where less holds than you want:"
    for name, text in known.items():
        yield f"\n{name}"
        yield textwrap.indent(text.strip("\n"), "  ")


def indented(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns, set off from the margin."""
    yield from (f"  {line}" for line in columns(rows))


def columns(rows: Iterator[list[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows with their cells below each other."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def yes(*, holds: bool) -> str:
    """How a table says it."""
    return "yes" if holds else "NO"
