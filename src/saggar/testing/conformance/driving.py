"""What the checks have in common: running something behind whatever the driver has here."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from saggar.errors import DriverUnavailable
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.plan import Capabilities
from saggar.model.policy import Network, Policy, Rung
from saggar.model.result import Result
from saggar.platform import Platform

Check = Callable[[Platform, str], Awaitable[None]]
LIMITS = Limits(wall=20, cpu=20, memory="512MiB")
EVERYTHING = frozenset(LIMIT_NAMES)


async def policy(
    platform: Platform,
    driver: str,
    limits: Mapping[str, Any] | None = None,
    *,
    insist: str | None = None,
    network: Network = Network.NONE,
) -> Policy:
    """The driver's own rung, and no limit has to be enforced but the one that is insisted on."""
    rung = (await capabilities(platform, driver)).rung or Rung.PROCESS
    return Policy(
        isolation=rung,
        limits=LIMITS.replace(**(limits or {})),
        best_effort=EVERYTHING - {insist},
        network=network if rung > Rung.PROCESS else Network.HOST,  # without walls there is no other
    )


async def run(
    platform: Platform,
    driver: str,
    code: Any,
    *,
    limits: Mapping[str, Any] | None = None,
    **options: Any,
) -> Result[Any]:
    """Run something under limits that do not get in the way."""
    wanted = await policy(platform, driver, limits)
    return await platform.run(code, driver=driver, policy=wanted, **options)


async def output(platform: Platform, driver: str, code: Any, **options: Any) -> str:
    """What a program prints that must end well."""
    result = await run(platform, driver, code, **options)
    assert result.ok, f"{result.status}: {result.stderr}"
    return result.stdout


async def capabilities(platform: Platform, driver: str) -> Capabilities:
    """What the driver says of itself here."""
    return (await platform.probe())[driver]


async def refusal(kind: type[Exception], running: Awaitable[Any]) -> str:
    """What was said instead of running it."""
    try:
        got = await running
    except kind as exc:
        return str(exc)
    raise AssertionError(f"should have been refused as {kind.__name__}, and came to {got}")


async def limited(
    platform: Platform, driver: str, name: str, code: str, **limits: Any
) -> Result[Any] | None:
    """
    Run `code` with the limit `name` insisted on.

    Returns nothing where the driver says that it cannot enforce it; then it must also refuse.
    """
    wanted = await policy(platform, driver, limits, insist=name)
    if (await capabilities(platform, driver)).enforces(name):
        return await platform.run(code, driver=driver, policy=wanted)
    said = await refusal(DriverUnavailable, platform.run(code, driver=driver, policy=wanted))
    assert name in said, f"the refusal does not name the limit: {said}"
    return None
