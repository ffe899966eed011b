"""
Check a driver: `python -m saggar.testing.conformance [--driver NAME] [--json] [CHECK ...]`.

One line for each check; exit code 1 if one does not hold.
"""

import argparse
import json
import sys
import traceback

import anyio

from saggar.platform import Platform
from saggar.testing.conformance import CHECKS, Check, name

PATIENCE = 30.0
"""Seconds after which a check counts as one that hangs."""
Report = dict[str, str | bool | None]


def main() -> int:
    """Make the checks that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m saggar.testing.conformance")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="names; all by default")
    parser.add_argument("--driver", default="jail")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    wanted = parser.parse_args()
    known = {name(check): check for check in CHECKS}
    unknown = sorted({*wanted.checks} - {*known})
    if unknown:
        parser.error(f"no check named {', '.join(unknown)}")
    chosen = [known[one] for one in wanted.checks] or [*CHECKS]
    return anyio.run(go_through, wanted.driver, chosen, wanted.json)


async def go_through(driver: str, checks: list[Check], as_json: bool) -> int:  # noqa: FBT001
    """Each check in turn, told as soon as it is over; how the process is to exit."""
    failed = 0
    async with Platform() as platform:
        for check in checks:
            report = await one(platform, driver, check)
            failed += not report["good"]
            sys.stdout.write((json.dumps(report) if as_json else line(report)) + "\n")
            sys.stdout.flush()
    return min(failed, 1)


async def one(platform: Platform, driver: str, check: Check) -> Report:
    """Whether one check holds, and if not, what was seen instead."""
    try:
        with anyio.fail_after(PATIENCE):
            await check(platform, driver)
    except Exception:  # noqa: BLE001 (the others must still be made)
        good, said = False, traceback.format_exc(limit=-4)
    else:
        good, said = True, (check.__doc__ or "").strip()
    return {"name": name(check), "skipped": None, "good": good, "said": said}


def line(report: Report) -> str:
    """A report for people."""
    return f"{'good' if report['good'] else 'FAILED':8}{report['name']}: {report['said']}"


if __name__ == "__main__":
    sys.exit(main())
