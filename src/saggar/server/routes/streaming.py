"""
Events on their way to whoever watches: as lines of JSON, or as a browser's EventSource takes them.

What was printed is there twice: `data` is its bytes in base64, `text` the same for reading.
"""

import codecs
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

from fastapi import Request

from saggar.errors import SaggarError
from saggar.model.event import Event, Output
from saggar.server.stream import Lines

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
_DECODER: Final = codecs.getincrementaldecoder("utf-8")


class Sent(Lines):
    """Server-sent events: each is named by its kind."""

    media_type = SSE
    no_news = b": nothing new\n\n"

    def line(self, document: Mapping[str, object]) -> bytes:
        """One of them."""
        return b"event: %s\ndata: %s\n" % (str(document["kind"]).encode(), super().line(document))


def streamed(request: Request, documents: AsyncGenerator[Mapping[str, object]]) -> Lines:
    """An answer of these documents, in the form that is asked for."""
    kind = Sent if SSE in request.headers.get("accept", "") else Lines
    return kind(documents, failed)


def wanted(request: Request) -> bool:
    """Whether a stream is asked for where another answer is usual."""
    return any(kind in request.headers.get("accept", "") for kind in (SSE, NDJSON))


async def told(events: AsyncIterator[Event]) -> AsyncGenerator[Mapping[str, object]]:
    """Each event as a document."""
    decoders = {name: _DECODER(errors="replace") for name in ("stdout", "stderr")}
    async for event in events:
        document = event.model_dump(mode="json")
        if isinstance(event, Output):
            # A character may be split between two of them: it comes with the second.
            document["text"] = decoders[event.stream].decode(event.data)
        yield document


def failed(exc: SaggarError) -> Mapping[str, object]:
    """What went wrong on our side, to one who is reading already."""
    return {"kind": "failed", "code": exc.code, "detail": str(exc)}
