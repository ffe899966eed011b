"""
Events on their way to whoever watches: as lines of JSON, or as a browser's EventSource takes them.

What was printed is there twice: `data` is its bytes in base64, `text` the same for reading.
"""

import codecs
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Final

from fastapi import Request
from starlette.responses import Response

from saggar.errors import SaggarError
from saggar.model.event import Event, Output
from saggar.model.result import Result
from saggar.server import pieces
from saggar.server.body import write
from saggar.server.problems import problem
from saggar.server.stream import UNREAD, Lines
from saggar.server.uploads import Uploads

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


def streamed(
    request: Request, documents: AsyncGenerator[Mapping[str, object]], unread: float = UNREAD
) -> Lines:
    """
    An answer of these documents, in the form that is asked for.

    What yields waits up to `unread` seconds for whoever does not read.
    """
    kind = Sent if SSE in request.headers.get("accept", "") else Lines
    return kind(documents, failed, unread=unread)


def wanted(request: Request) -> bool:
    """Whether a stream is asked for where another answer is usual."""
    return any(kind in request.headers.get("accept", "") for kind in (SSE, NDJSON))


async def told(
    events: AsyncIterator[Event], uploads: Uploads | None = None
) -> AsyncGenerator[Mapping[str, object]]:
    """Each event as a document; with `uploads`, what is large in it is left there."""
    decoders = {name: _DECODER(errors="replace") for name in ("stdout", "stderr")}
    async for event in events:
        if uploads is not None and (left := await pieces.shown(event, uploads)) is not None:
            yield left
            continue
        document = event.model_dump(mode="json")
        if isinstance(event, Output):
            # A character may be split between two of them: it comes with the second.
            document["text"] = decoders[event.stream].decode(event.data)
        yield document


async def answered(result: Result[Any], uploads: Uploads | None) -> Response:
    """A result; with `uploads`, what is large in it is left there."""
    if uploads is not None and (answer := pieces.answer_in(result.value)) is not None:
        document = result.model_dump(mode="json", exclude={"value"})
        document["value"] = await pieces.left(answer, uploads)
        return Response(write(document), media_type="application/json")
    return Response(result.model_dump_json(), media_type="application/json")


def lacking_uploads(digests: Sequence[str]) -> Response:
    """What was named is not here: it is to be sent, and the same to be asked again."""
    detail = "some of the uploads that are named are not here: send them, and ask again"
    return problem(409, detail, code="uploads-missing", more={"missing": list(digests)})


def failed(exc: SaggarError) -> Mapping[str, object]:
    """What went wrong on our side, to one who is reading already."""
    return {"kind": "failed", "code": exc.code, "detail": str(exc)}
