"""
Events as the outputs of an executor instance: `stream`, `result`, `display`, `error`.

Pure. `Telling` says them one by one, as they happen; `Outputs` gathers them to what one reads at
the end: neighbouring text joined, what was replaced or cleared gone.
"""

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from saggar.model.event import Cleared, Displayed, Event, Finished, Output
from saggar.model.limits import Limits
from saggar.model.quantity import format_bytes
from saggar.model.result import Display, Outcome, Status
from saggar.server.body import DEEPEST, deeper_than

Said = dict[str, Any]

OUTSIDE = " (of its own, or because the memory around it ran out)"
RESET = "the session was reset: what it remembered is gone"


class Telling:
    """What happens during one execution, as outputs."""

    def __init__(self, timeout: float, limits: Limits) -> None:
        self._timeout, self._limits = timeout, limits
        utf8 = codecs.getincrementaldecoder("utf-8")
        self._decoders = {"stdout": utf8("replace"), "stderr": utf8("replace")}

    def of(self, event: Event) -> Iterator[Said]:
        """The outputs of one event; often one, sometimes none."""
        match event:
            case Output(stream=name, data=data):
                yield from self._text(name, data)
            case Displayed(display=display):
                yield _shown(display)
            case Cleared(wait=wait):
                yield {"type": "clear", "wait": wait}
            case Finished():
                for stream in self._decoders:
                    yield from self._text(stream, b"", final=True)
                if (error := ending(event, self._timeout, self._limits)) is not None:
                    yield error

    def _text(self, name: str, data: bytes, *, final: bool = False) -> Iterator[Said]:
        # A character may be split between two events.
        if text := self._decoders[name].decode(data, final):
            yield {"type": "stream", "name": name, "text": text}


@dataclass(slots=True)
class Outputs:
    """What all that was said adds up to."""

    _said: list[Said] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)
    """The parts of the last output, where that is a stream."""
    _clear: bool = False
    """Whether the next output replaces all there is."""

    def add(self, output: Said) -> None:
        """One more."""
        if output["type"] == "clear":
            self._clear = True
            if not output["wait"]:
                self._emptied()
            return
        self._emptied()
        if output["type"] == "stream":
            self._stream(output)
            return
        self._joined()
        if not output.get("update"):
            self._said.append(output)
        else:
            self._replace(output)

    def all(self) -> list[Said]:
        """All of it, as the contract has it."""
        self._joined()
        return [_plain(output) for output in self._said]

    def _stream(self, output: Said) -> None:
        if not self._text or self._said[-1]["name"] != output["name"]:
            self._joined()
            self._said.append({"type": "stream", "name": output["name"], "text": ""})
        self._text.append(output["text"])

    def _joined(self) -> None:
        # Once for all parts: joined one by one, a million of them would take minutes.
        if self._text:
            self._said[-1]["text"] = "".join(self._text)
            self._text = []

    def _emptied(self) -> None:
        if self._clear:
            self._said, self._text, self._clear = [], [], False

    def _replace(self, output: Said) -> None:
        named = output["display_id"]
        for place, earlier in enumerate(self._said):
            if earlier.get("display_id") == named:
                self._said[place] = output | {"type": earlier["type"]}


def ending(finished: Outcome, timeout: float, limits: Limits) -> Said | None:
    """How an execution ended, as an error output; None if it ended well."""
    if finished.status is Status.OK and not finished.session_reset:
        return None
    name, value = _named(finished, timeout, limits)
    error = finished.error
    traceback = error.traceback.splitlines() if error is not None else []
    if finished.session_reset and finished.status is Status.TIMEOUT:
        # What is said of a timeout is part of the contract, to the letter.
        traceback.append(RESET)
    elif finished.session_reset:
        value = f"{value}; {RESET}"
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def _named(finished: Outcome, timeout: float, limits: Limits) -> tuple[str, str]:
    """The name and the words of an error, by what was seen from outside."""
    match finished.status:
        case Status.TIMEOUT if finished.limit == "cpu":
            said = "TimeoutError", f"Execution used {limits.cpu:g} seconds of processor time"
        case Status.TIMEOUT:
            said = "TimeoutError", f"Execution timed out after {timeout:g} seconds"
        case Status.MEMORY:
            most = format_bytes(limits.memory)
            said = "MemoryError", f"out of memory (OOM): more than {most} were used"
        case Status.OUTPUT:
            said = "OutputLimit", f"more than {format_bytes(limits.output)} were printed"
        case Status.CANCELLED:
            said = "Cancelled", "the execution was cancelled before it ended"
        case _ if finished.signal is not None:
            # Nothing of ours did it: whatever limit of ours was met has its own status.
            by = f"{finished.signal}{OUTSIDE if finished.signal == 'SIGKILL' else ''}"
            said = "KernelDied", f"the interpreter was killed by {by}"
        case _ if finished.session_reset:
            said = "KernelDied", f"the interpreter ended with exit code {finished.exit_code}"
        case _ if finished.error is not None:
            said = finished.error.type, finished.error.message
        case _:
            said = "Error", finished.limit or "it did not end well"
    return said


def _shown(display: Display) -> Said:
    data: Mapping[str, str] = dict(display.data)
    if display.role == "result":
        said: Said = {"type": "result", "data": data}
    else:
        said = {"type": "display", "data": data, "metadata": _fit(display.metadata)}
    if display.id is not None:
        said["display_id"] = display.id
        if display.update:
            said["update"] = True
    return said


def _fit(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a guest says about its display, unless that has no JSON form that all can read."""
    try:
        if not deeper_than(metadata, DEEPEST // 2):
            json.dumps(metadata, allow_nan=False)
            return metadata
    except ValueError:
        pass
    return {}


def _plain(output: Said) -> Said:
    """Without what only says which output replaces which."""
    return {name: value for name, value in output.items() if name not in ("display_id", "update")}
