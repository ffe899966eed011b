"""
The workers of a resource on this machine: at most so many calls at once, the rest wait in order.

Thin on purpose. Which sandboxes stay warm, and for how long, is the engine's to do: it is told the
resource's numbers with each call.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.lowlevel import RunVar

from saggar.drivers import gpu
from saggar.functions.resources import LiveServerless

_turns: Final[RunVar[dict[LiveServerless, anyio.CapacityLimiter]]] = RunVar("saggar-resources")
"""Of each platform's own loop: those of another process, or an earlier platform, are not ours."""


@asynccontextmanager
async def turn(resource: LiveServerless | None) -> AsyncIterator[None]:
    """
    A worker for the length of a block, in the order of those who ask; equal resources share theirs.

    Raises:
        DriverUnavailable: It names GPUs, and this machine's are others.
    """
    if resource is None:
        yield
        return
    if resource.named:
        resource.refuse_others(gpu.look())
    limiter, who = of(resource), object()
    # Not by task: what a stream yields is asked for by one task after the other.
    await limiter.acquire_on_behalf_of(who)
    try:
        yield
    finally:
        limiter.release_on_behalf_of(who)


def of(resource: LiveServerless) -> anyio.CapacityLimiter:
    """The turns of a resource, on the platform whose loop this is."""
    try:
        known = _turns.get()
    except LookupError:
        _turns.set(known := {})
    if resource not in known:
        known[resource] = anyio.CapacityLimiter(resource.workersMax)
    return known[resource]
