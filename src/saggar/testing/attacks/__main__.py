"""
Try this machine's walls: `python -m saggar.testing.attacks [--driver NAME] [--json] [ATTACK ...]`.

One line for each attack; exit code 1 if anything escaped.
"""

import argparse
import json
import sys
import traceback

import anyio

from saggar.model.plan import Capabilities
from saggar.platform import Platform
from saggar.testing.attacks import ATTACKS, Attack, expected_out, lacking, strike, unfair

PATIENCE = 30.0
"""Seconds after which an attack counts as one that hung the host."""
Report = dict[str, str | bool | None]


def main() -> int:
    """Carry out the attacks that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m saggar.testing.attacks")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help="names; all by default")
    parser.add_argument("--driver", default="jail")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    wanted = parser.parse_args()
    known = {attack.name: attack for attack in ATTACKS}
    unknown = sorted({*wanted.attacks} - {*known})
    if unknown:
        parser.error(f"no attack named {', '.join(unknown)}")
    chosen = [known[name] for name in wanted.attacks] or [*ATTACKS]
    return anyio.run(carry_out, wanted.driver, chosen, wanted.json)


async def carry_out(driver: str, attacks: list[Attack], as_json: bool) -> int:  # noqa: FBT001
    """Each attack in turn, told as soon as it is over; how the process is to exit."""
    failed = 0
    async with Platform() as platform:
        capabilities = (await platform.probe())[driver]
        for attack in attacks:
            report = await one(platform, capabilities, attack)
            failed += not (report["skipped"] or report["good"])
            print(json.dumps(report) if as_json else line(report), flush=True)
    return min(failed, 1)


async def one(platform: Platform, capabilities: Capabilities, attack: Attack) -> Report:
    """What came of one attack; a fault of ours is told like an escape."""
    report: Report = {"name": attack.name, "family": attack.family, "title": attack.title}
    skipped = unfair(attack, capabilities) or await lacking(platform, attack)
    if skipped is not None:
        return report | {"skipped": skipped, "good": False, "said": skipped}
    try:
        with anyio.fail_after(PATIENCE):
            outcome = await strike(platform, capabilities, attack)
    except Exception:
        return report | {"skipped": None, "good": False, "said": traceback.format_exc(limit=-4)}
    out = outcome.escaped is not None
    good = out == expected_out(attack, capabilities)
    said = outcome.escaped or f"held: {attack.title}"
    return report | {"skipped": None, "good": good, "said": said}


def line(report: Report) -> str:
    """A report for people."""
    word = "skipped" if report["skipped"] else "good" if report["good"] else "FAILED"
    return f"{word:8}{report['family']}/{report['name']}: {report['said']}"


if __name__ == "__main__":
    sys.exit(main())
