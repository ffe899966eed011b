"""
Bytes in pieces: what is small stands in a document, what is large is named by its digest.

So a function's modules are sent once, and arrays neither become text nor lie in one body. What the
pieces are put together to is handed on as it is: nothing of it is read here, let alone unpickled.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import anyio.to_thread

from saggar.errors import InvalidTask
from saggar.model.codec import Answer, Payload
from saggar.model.event import Event, Finished, Yielded
from saggar.model.program import Pickled
from saggar.model.quantity import MiB, format_bytes
from saggar.model.task import LARGEST_TASK, Task
from saggar.server.uploads import Uploads, check_digest

LARGE: Final = 64 << 10
"""Bytes of an answer from which on they are left behind to be fetched."""
PIECE: Final = 8 * MiB
MOST: Final = 1024
LARGEST_INPUT: Final = 256 * MiB


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a task came in pieces."""

    code: tuple[Any, ...] = ()
    input: tuple[Any, ...] = ()
    media_type: str = ""


def divided(document: Any) -> tuple[Any, Parts]:
    """A document without what is in pieces, and that. InvalidTask."""
    if not isinstance(document, dict):
        return document, Parts()
    code, given, media_type = (), (), ""
    found = dict(document)
    match found:
        case {"program": {"code": {"kind": "pickled", "pieces": said, **rest}}} if not rest:
            code = _pieces("program.code", said)
            program = {**found["program"], "code": {"kind": "pickled", "payload": ""}}
            found["program"] = program
    match found:
        case {"input": {"media_type": str(media_type), "pieces": said, **rest}} if not rest:
            given = _pieces("input", said)
            found["input"] = {"media_type": media_type, "data": ""}
    return found, Parts(code, given, media_type)


def _pieces(what: str, said: Any) -> tuple[Any, ...]:
    if not isinstance(said, list) or len(said) > MOST:
        raise InvalidTask(f"{what}.pieces: wanted a list of up to {MOST}")
    return tuple(_piece(what, one) for one in said)


def _piece(what: str, one: Any) -> bytes | str:
    """What stands there as bytes; a digest of what is to be found as text."""
    match one:
        case {"data": str(text), **rest} if not rest:
            try:
                return base64.b64decode(text, altchars=b"-_", validate=True)
            except (binascii.Error, ValueError):
                raise InvalidTask(f"{what}.pieces: data is not base64") from None
        case {"upload": digest, **rest} if not rest:
            return check_digest(digest)
    raise InvalidTask(f'{what}.pieces: wanted {{"data": ...}} or {{"upload": ...}}')


async def lacking(parts: Parts, uploads: Uploads) -> list[str]:
    """What of it has to be sent first."""
    named = [one for one in (*parts.code, *parts.input) if isinstance(one, str)]
    return await anyio.to_thread.run_sync(uploads.lacking, named) if named else []


async def weight(parts: Parts, uploads: Uploads) -> int:
    """Bytes that a task has when it is put together of what was left here; 0 if that is nothing."""
    pieces = (*parts.code, *parts.input)
    if not any(isinstance(one, str) for one in pieces):
        return 0
    return await anyio.to_thread.run_sync(_weight, pieces, uploads)


async def whole(task: Task, parts: Parts, uploads: Uploads, most_input: int) -> Task:
    """
    The task with what came in pieces.

    Raises:
        Gone: One of them is not here any more.
        InvalidTask: Together they are more than may be.
    """
    if not parts.code and not parts.input:
        return task
    return await anyio.to_thread.run_sync(_whole, task, parts, uploads, most_input)


def _whole(task: Task, parts: Parts, uploads: Uploads, most_input: int) -> Task:
    changes: dict[str, Any] = {}
    if parts.code:
        payload = _joined("program.code", parts.code, uploads, LARGEST_TASK)
        changes["program"] = task.program.replace(code=Pickled(payload=payload))
    if parts.input:
        most = min(most_input, LARGEST_INPUT)
        data = _joined("input", parts.input, uploads, most)
        changes["input"] = Payload(media_type=parts.media_type, data=data)
    return task.replace(**changes)


def _joined(what: str, pieces: Sequence[Any], uploads: Uploads, most: int) -> bytes:
    # Counted before anything is read: one small upload may be named a thousand times.
    if (found := _weight(pieces, uploads)) > most:
        raise InvalidTask(
            f"{what}: weighs {format_bytes(found)}, at most {format_bytes(most)} may come; the"
            " limit of memory says how much of an input a sandbox has room for"
        )
    return b"".join(one if isinstance(one, bytes) else uploads.get(one) for one in pieces)


def _weight(pieces: Sequence[Any], uploads: Uploads) -> int:
    return sum(len(one) if isinstance(one, bytes) else uploads.touched(one) or 0 for one in pieces)


async def shown(event: Event, uploads: Uploads) -> dict[str, Any] | None:
    """An event with something large in it, which is left to be fetched; None for any other."""
    match event:
        case Finished(value=Answer() as answer) if answer.size >= LARGE:
            document = event.model_dump(mode="json", exclude={"value"})
            return {**document, "value": await left(answer, uploads)}
        case Yielded(beside=memoryview() as memory):
            data = base64.urlsafe_b64encode(event.data).decode()
            said = {"kind": event.kind, "media_type": event.media_type, "data": data}
            return {**said, "pieces": await _kept(memory, uploads)}
    return None


def answer_in(value: Any) -> Answer | None:
    """What a remote function answered; a queue keeps it as JSON."""
    match value:
        case Answer():
            return value
        case {"document": dict(document), "data": str(data), **rest} if not rest:
            with suppress(ValueError):  # a guest's JSON that only looks like one
                return Answer(document=document, data=base64.b64decode(data, b"-_", validate=True))
    return None


async def left(answer: Answer, uploads: Uploads) -> dict[str, Any]:
    """An answer as its document, and the names of what is to be fetched."""
    if answer.size < LARGE:
        return answer.model_dump(mode="json")
    return {"document": answer.document, "pieces": await _kept(answer.buffers, uploads)}


async def _kept(data: memoryview, uploads: Uploads) -> list[dict[str, str]]:
    return await anyio.to_thread.run_sync(_keep, data, uploads)


def _keep(data: memoryview, uploads: Uploads) -> list[dict[str, str]]:
    from hashlib import sha256

    found = []
    uploads.admit(data.nbytes)
    for piece in _cut(data):
        digest = sha256(piece).hexdigest()
        uploads.put(digest, bytes(piece))
        found.append({"upload": digest})
    return found


def _cut(data: memoryview) -> Iterator[memoryview]:
    for start in range(0, data.nbytes, PIECE):
        yield data[start : start + PIECE]
