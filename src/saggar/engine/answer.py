"""
The events of a program that speaks the container protocol, with its answer taken out of them.

What it writes to stdout is no output but an answer; it becomes the value of the run, or its error.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio

from saggar.model.event import Event, Finished, Output
from saggar.model.protocol import INVALID, TOO_LARGE, Answered, decode_answer, quoted
from saggar.model.result import ErrorInfo, Status

SMALL = 1 << 16
CRASH = "CRASH"
DECIDED = (Status.OK, Status.ERROR, Status.KILLED)
"""How a program ends by its own doing; what else there is was decided by a limit, or by us."""


async def answered(events: AsyncGenerator[Event], largest: int) -> AsyncGenerator[Event]:
    """The same events without stdout, and an end that knows the answer."""
    said = bytearray()
    async with aclosing(events):
        async for event in events:
            match event:
                case Output(stream="stdout", data=data):
                    said += data
                case Finished():
                    yield await judged(event, bytes(said), largest)
                case _:
                    yield event


async def judged(end: Finished, said: bytes, largest: int) -> Finished:
    """The end of a run, with what its program answered; a limit that it met goes first."""
    if end.status is Status.OUTPUT:
        message = f"the answer and the output are larger than allowed: {quoted(said)}"
        return end.replace(error=ErrorInfo(type=TOO_LARGE, message=message))
    if end.status not in DECIDED or end.error is not None or end.limit is not None:
        return end
    match end.status, await _decoded(said, largest):
        case Status.OK, Answered(value=value):
            return end.replace(value=value)
        case (Status.OK, ErrorInfo() as error):
            return end.replace(status=Status.ERROR, error=error)
        case (Status.ERROR, ErrorInfo() as error) if error.type not in {INVALID, TOO_LARGE}:
            return end.replace(error=error)
    return end.replace(error=ErrorInfo(type=CRASH, message=_ended(end, said)))


async def _decoded(said: bytes, largest: int) -> Answered | ErrorInfo:
    """A large answer beside the event loop."""
    if len(said) < SMALL:
        return decode_answer(said, largest)
    return await anyio.to_thread.run_sync(decode_answer, said, largest)


def _ended(end: Finished, said: bytes) -> str:
    how = f"by {end.signal}" if end.signal else f"with exit code {end.exit_code}"
    when = "after" if said.strip() else "before"
    return f"the program was ended {how} {when} it had answered"
