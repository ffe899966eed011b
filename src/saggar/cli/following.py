"""A job on a terminal: found by how its id begins, read along while it runs."""

import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from saggar.cli.main import complain
from saggar.errors import UsageError

if TYPE_CHECKING:
    from anyio import CancelScope

    from saggar.config import Settings
    from saggar.jobs.submission import SyncDesk, SyncJob
    from saggar.model.event import Event, Finished

WHOLE = 36
"""Characters of an id."""


def found(desk: "SyncDesk", word: str) -> "SyncJob":
    """The job that is meant. UsageError if several are."""
    from saggar.jobs import listing

    if not word:
        raise UsageError("ID: wanted a job's id, or how it begins, found an empty word")
    if len(word) >= WHOLE:
        return desk.of(word)
    ids = listing.beginning(desk.store, word)
    if len(ids) > 1:
        raise UsageError(f"{word!r} begins {len(ids)} ids; type more of it")
    return desk.of(ids[0] if ids else word)  # what is unknown is said where it is looked at


async def follow(settings: "Settings", job_id: str) -> "Finished | None":
    """
    All that it prints, from the beginning to its end; how that was, if it had one.

    Raises:
        KeyboardInterrupt: Somebody does not want to read on.
    """
    import anyio

    from saggar.jobs.store import AStore

    found: list[Finished | None] = []
    store = await AStore.of(settings)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_heed, tasks.cancel_scope)
            async with aclosing(store.events(job_id)) as events:
                found.append(await shown(events))
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise (group.exceptions[0] if len(group.exceptions) == 1 else group) from None
    finally:
        await store.aclose()
    if not found:
        raise KeyboardInterrupt
    return found[0]


async def _heed(scope: "CancelScope") -> None:
    """
    Ctrl-C ends the reading.

    asyncio's own way of that cancels once, which the client of the broker may take for its own.
    """
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def shown(events: "AsyncIterator[Event]") -> "Finished | None":
    """What these say, where it belongs; the last one is handed back."""
    from saggar.cli.stream import STDERR, STDOUT, pour
    from saggar.model.event import Displayed, Finished, Output, Started

    attempts = 0
    async for event in events:
        match event:
            case Started():
                attempts += 1
                if attempts > 1:
                    complain("what follows is another attempt")
            case Output(stream=stream, data=data):
                await pour(STDOUT if stream == "stdout" else STDERR, data)
            case Displayed(display=display):
                await pour(STDOUT, display.data.get("text/plain", "").encode() + b"\n")
            case Finished():
                return event
    return None
