"""
What happens during a run, in order. A `Result` is the fold of its events.

Streaming, logs, metrics and notebooks all read this one stream.
"""

import base64
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_serializer

from saggar.errors import SandboxBroken
from saggar.model.codec import decode_value
from saggar.model.result import Display, Outcome, Result
from saggar.model.value import Value


class Started(Value):
    """The program is about to run behind walls of this rung."""

    kind: Literal["started"] = "started"
    isolation: str


class Output(Value):
    """Bytes that the program wrote; a character may be split between two of them."""

    kind: Literal["output"] = "output"
    stream: Literal["stdout", "stderr"]
    data: bytes


class Displayed(Value):
    """Something that the program wants shown."""

    kind: Literal["displayed"] = "displayed"
    display: Display


class Cleared(Value):
    """What was shown so far is to go; with `wait`, when the next thing comes."""

    kind: Literal["cleared"] = "cleared"
    wait: bool = False


class Yielded(Value):
    """One of the values that a streaming function gives, before its end."""

    kind: Literal["yielded"] = "yielded"
    data: bytes = b""
    media_type: str = ""
    _memory: memoryview | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, data: bytes, media_type: str, memory: memoryview | None) -> Self:
        """One that has not been looked at yet; `memory` is what came beside it."""
        made = cls(data=data, media_type=media_type)
        made._memory = memory
        return made

    @property
    def beside(self) -> memoryview | None:
        """What came in shared memory."""
        return self._memory

    @field_serializer("data", when_used="json")
    def _whole(self, data: bytes) -> str:
        # As it would have come where there is no shared memory: the buffers behind the document.
        return base64.urlsafe_b64encode(b"".join([data, self._memory or b""])).decode()

    def value(self) -> Any:
        """What was given. ValueError if it is nothing that can be read."""
        return decode_value(self.data, self.media_type, self._memory)


class Finished(Outcome):
    """The last event: everything of a result that is not a stream."""

    kind: Literal["finished"] = "finished"


Event = Annotated[
    Started | Output | Displayed | Cleared | Yielded | Finished, Field(discriminator="kind")
]
"""One thing that happened, told apart by `kind`."""


@dataclass(slots=True)
class _Folding:
    stdout: list[bytes] = field(default_factory=list)
    stderr: list[bytes] = field(default_factory=list)
    displays: list[Display] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, event: Event) -> None:
        match event:
            case Output(stream=stream, data=data):
                (self.stdout if stream == "stdout" else self.stderr).append(data)
            case Displayed(display=display):
                self.displays.append(display)
            case Finished():
                # The first one counts: whatever follows an end was not part of the run.
                self.finished = self.finished or event

    def result(self) -> Result[Any]:
        if self.finished is None:
            raise SandboxBroken("the run ended without a verdict")
        return Result(
            stdout_bytes=b"".join(self.stdout),
            stderr_bytes=b"".join(self.stderr),
            displays=tuple(self.displays),
            **{name: kept for name, kept in vars(self.finished).items() if name != "kind"},
        )


def fold(events: Iterable[Event]) -> Result[Any]:
    """The result that these events add up to. SandboxBroken if they have no end."""
    folding = _Folding()
    for event in events:
        folding.add(event)
    return folding.result()


async def afold(events: AsyncIterable[Event]) -> Result[Any]:
    """`fold` for events as they happen."""
    folding = _Folding()
    async for event in events:
        folding.add(event)
    return folding.result()
