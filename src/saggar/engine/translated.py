"""What a Jupyter kernel says, in the frames and words that our own shell would have said it in."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from saggar.boundary import frames
from saggar.engine import words

ASKED = "saggar"
"""Where, in the metadata of a message, stands what Jupyter has no word for."""


def frame(kind: int, blob: bytes = b"", **head: object) -> frames.Frame:
    """One of ours."""
    return frames.Frame(kind, json.dumps(head).encode(), blob)


def display(content: Mapping[str, Any], **head: object) -> frames.Frame:
    """Something shown, in all its representations."""
    metadata, transient = content.get("metadata"), content.get("transient")
    if isinstance(transient, dict) and isinstance(name := transient.get("display_id"), str):
        head["id"] = name
    if isinstance(metadata, dict) and metadata:
        head["metadata"] = metadata
    return frame(frames.DISPLAY, json.dumps(bundle(content)).encode(), **head)


def bundle(content: Mapping[str, Any]) -> dict[str, str]:
    """Every representation as text: lines joined, structures as JSON."""
    data = content.get("data")
    made = {}
    for media, said in data.items() if isinstance(data, dict) else ():
        if isinstance(said, str):
            made[media] = said
        elif isinstance(said, list) and all(isinstance(line, str) for line in said):
            made[media] = "".join(said)
        else:
            made[media] = json.dumps(said)
    return made


def value(content: Mapping[str, Any], metadata: Mapping[str, Any]) -> frames.Frame:
    """As JSON where the kernel said it, else as it was shown."""
    asked = metadata.get(ASKED)
    said = asked.get("value") if isinstance(asked, dict) else None
    if isinstance(said, str):
        blob, media = said, "application/json"
    else:
        blob, media = bundle(content).get("text/plain", ""), "text/plain"
    return frame(frames.VALUE, blob.encode("utf-8", "replace"), media_type=media)


def error(content: Mapping[str, Any]) -> frames.Frame:
    """What went wrong; an answer that names no error was never begun, or is too long to be read."""
    if content.get("status") in {"aborted", "abort"}:
        return frame(frames.ERROR, type="ExecutionAborted", message="the kernel did not begin it")
    lines = content.get("traceback")
    trace = "\n".join(map(str, lines)) if isinstance(lines, list) else ""
    return frame(
        frames.ERROR,
        type=words.text(content.get("ename") or "Error"),
        message=words.text(content.get("evalue", "")),
        traceback=words.text(trace, frames.MAX_HEAD // 2),
    )


def pages(reply: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What would go to a pager."""
    payload = reply.get("payload")
    for one in payload if isinstance(payload, list) else ():
        if isinstance(one, dict) and one.get("source") == "page":
            data = one.get("data")
            if isinstance(data, dict):
                yield {"text/plain": str(data.get("text/plain", ""))}


def answer(do: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """A reply in the words of our own shell."""
    match do:
        case "complete":
            names = {"matches": "matches", "cursor_start": "start", "cursor_end": "end"}
            return {ours: said.get(theirs) for theirs, ours in names.items()}
        case "inspect":
            return {"data": bundle(said)}
    return dict(said)
