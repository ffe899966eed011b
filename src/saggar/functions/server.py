"""
A Saggar server, to a remote function that names it: runs there, and jobs there.

What is large goes ahead by its digest, and only once: the modules of a project, arrays, long
answers. What is said otherwise is what `saggar serve` takes from anybody.
"""

import base64
import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from time import monotonic
from typing import Any, Final, Protocol
from urllib.parse import quote

import anyio
import anyio.to_thread
from pydantic import TypeAdapter, ValidationError

from saggar.config import load_plain
from saggar.errors import InvalidTask, Overloaded, PlatformError, ServerUnavailable
from saggar.functions.answers import worth_another
from saggar.functions.calling import BYTES, JSON, Grip, Http, Lacking
from saggar.functions.mapped import READY, as_they_come, in_order
from saggar.functions.options import Log, Retry
from saggar.model.codec import Answer, Large
from saggar.model.event import Event, Output, Yielded, fold
from saggar.model.policy import Policy
from saggar.model.program import Pickled
from saggar.model.quantity import KiB, MiB
from saggar.model.result import Result
from saggar.model.secrets import Secrets
from saggar.model.task import Task

SMALL: Final = 2 * KiB
"""Bytes up to which naming something would be no shorter than saying it."""
PIECE: Final = 4 * MiB
"""Bytes of one upload: a body has to come within half a minute, over a slow line as well."""
TRIES: Final = 4
WAIT: Final = 20.0
"""Seconds that one request waits for a job."""
BUSY: Final = 300.0
"""Seconds for which one of many calls is held back, where there is no room for all of them."""
BREATH: Final = 0.5
LINES: Final = "application/x-ndjson"
_EVENT: Final[TypeAdapter[Any]] = TypeAdapter(Event)


class Call(Protocol):
    """What is used of a call that is ready to be made."""

    @property
    def task(self) -> Task:
        """What is to run."""
        ...

    @property
    def policy(self) -> Policy:
        """What it may touch, as far as the server allows."""
        ...

    @property
    def retry(self) -> Retry:
        """When it is made again."""
        ...

    @property
    def log(self) -> Log | None:
        """Who is shown what it prints."""
        ...

    @property
    def secrets(self) -> Secrets:
        """The values that go along."""
        ...

    @property
    def seams(self) -> tuple[int, int]:
        """Where in its code the project's modules begin and end."""
        ...


_SAID_BY: Final = ("SAGGAR_SERVER_KEY", "SAGGAR_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR")


def server(url: str) -> "Server":
    """The server of this address, with the key that this process shows it."""
    return _known(url, os.getpid(), *map(os.environ.get, _SAID_BY))


@lru_cache(maxsize=32)
def _known(url: str, *_: object) -> "Server":
    """Made again in a child, which has connections of its own, and when something else is said."""
    settings = load_plain()
    # The key of this machine's own doors is shown to nobody but them.
    own = settings.key if Http(url, None).local else None
    return Server(Http(url, settings.server_key or own))


class Server:
    """Runs and jobs at one server; called by many threads."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def run(self, call: Call, grip: Grip | None = None) -> Result[Any]:
        """Run it there, and wait for its end."""
        kept: list[Event] = []
        with closing(self.events(call, grip)) as events:
            for event in events:
                if isinstance(event, Yielded):
                    continue  # nobody has asked for several
                kept.append(event)
                if isinstance(event, Output) and call.log is not None:
                    call.log(event.stream, event.data.decode(errors="replace"))
        return fold(kept)

    def events(self, call: Call, grip: Grip | None = None) -> Generator[Event]:
        """What happens there, as it happens. Closed before its end, the run is ended."""
        document, parts = self._document(call, call.policy)
        if call.secrets:
            if not self._http.secure and not self._http.local:
                raise InvalidTask(
                    f"secrets: {self._http.url} would be sent them in clear; use https"
                )
            document["secrets"] = call.secrets.reveal()
        for left in reversed(range(TRIES)):
            try:
                yield from self._told(document, parts, grip or Grip())
            except Lacking as exc:  # others pushed out what was there a moment ago
                if not left:
                    raise self._crowded(exc) from None
            else:
                return

    def _told(self, document: dict[str, Any], parts: "Parts", grip: Grip) -> Iterator[Event]:
        with self._sent("/v1/runs", document, parts, grip, LINES) as reply:
            for line in reply.lines():
                if (event := self._event(line)) is not None:
                    yield event
                    if event.kind == "finished":
                        for _ in reply.lines():  # its end, after which the connection is free
                            pass
                        return
        raise ServerUnavailable(f"the server at {self._http.url} broke off before the end")

    def submit(self, call: Call, policy: Policy | None) -> "ServerJob":
        """Leave it to a worker of the server's; without a policy it has that of a job."""
        document, parts = self._document(call, policy)
        with self._sent("/v1/jobs", document, parts, Grip()) as reply:
            return ServerJob(self, str(self._field(reply.document(), "id")))

    def job(self, job_id: str) -> "ServerJob":
        """A job that was submitted before."""
        return ServerJob(self, job_id)

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        """What the server says at a path, and the status it says it with."""
        with self._http.send(method, path) as reply:
            return reply.status, reply.document()

    def watch(self, path: str) -> Iterator[Event]:
        """Events at a path, to their end."""
        with self._http.send("GET", path, accept=LINES) as reply:
            for line in reply.lines():
                if (event := self._event(line)) is not None:
                    yield event

    def result(self, document: Any) -> Result[Any]:
        """A result that came as a document."""
        value = document.pop("value", None) if isinstance(document, dict) else None
        try:
            found: Result[Any] = Result.model_validate_json(json.dumps(document))
        except (ValidationError, ValueError):
            raise self._strange() from None
        return found.model_copy(update={"value": self._answer(value)})

    def _document(self, call: Call, policy: Policy | None) -> tuple[dict[str, Any], "Parts"]:
        task, parts = call.task, Parts()
        document: dict[str, Any] = task.model_dump(
            mode="json", exclude={"program": {"code"}, "input": True}, exclude_defaults=True
        )
        code = task.program.code
        if not isinstance(code, Pickled):
            raise InvalidTask("a remote function is pickled code")
        start, end = call.seams
        whole = memoryview(code.payload)
        segments = [whole[:start], whole[start:end], whole[end:]]
        program = document.setdefault("program", {})
        program["code"] = {"kind": "pickled", "pieces": parts.add(segments, once=True)}
        given = task.input
        if not given.is_none:
            beside = given.beside if isinstance(given, Large) else ()
            pieces = parts.add([memoryview(given.data), *beside])
            document["input"] = {"media_type": given.media_type, "pieces": pieces}
        if policy is not None:
            document["policy"] = policy.model_dump(mode="json")
        return {**document, "leave": True}, parts

    def _sent(
        self, path: str, document: dict[str, Any], parts: "Parts", grip: Grip, accept: str = JSON
    ) -> Any:
        """A request; what it names and the server lacks goes ahead."""
        if path == "/v1/jobs":
            document.pop("leave", None)
        body = json.dumps(document, separators=(",", ":")).encode()
        for left in reversed(range(TRIES)):
            try:
                return self._http.send("POST", path, body, grip=grip, accept=accept)
            except Lacking as exc:
                if not left:
                    raise self._crowded(exc) from None
                for digest in exc.digests:
                    self._upload(digest, parts, grip)
        raise AssertionError

    def _crowded(self, exc: Lacking) -> PlatformError:
        return PlatformError(
            f"{exc}: what is under way at once has more to carry than its operator lets it keep,"
            " SAGGAR_UPLOADS_SIZE"
        )

    def _upload(self, digest: str, parts: "Parts", grip: Grip) -> None:
        data = parts.named.get(digest)
        if data is None:
            raise self._strange()
        path = f"/v1/uploads/{digest}"
        with self._http.send("PUT", path, data, kind=BYTES, grip=grip) as reply:
            reply.read()

    def _fetched(self, pieces: Any) -> bytes:
        """What was left there, put together. Whoever has it is asked for nothing else."""
        found = []
        for piece in pieces if isinstance(pieces, list) else ():
            digest = str(self._field(piece, "upload"))
            try:
                with self._http.send("GET", f"/v1/uploads/{quote(digest)}", accept=BYTES) as reply:
                    data = reply.read()
            except Lacking as exc:  # not to be taken for what the call itself names
                raise self._crowded(exc) from None
            if sha256(data).hexdigest() != digest:
                raise ServerUnavailable(f"{self._http.url} sent something else than {digest}")
            found.append(data)
        return b"".join(found)

    def _event(self, line: dict[str, Any]) -> Event | None:
        kind = line.get("kind")
        if kind is None:
            return None  # no news
        if kind == "failed":
            raise self._http.said(str(line.get("code")), str(line.get("detail")))
        if kind == "yielded" and "pieces" in line:
            memory = memoryview(bytearray(self._fetched(line["pieces"])))
            return Yielded.of(_plain(line.get("data")), str(line.get("media_type")), memory)
        value = line.pop("value", None)
        line.pop("text", None)
        try:
            event: Event = _EVENT.validate_json(json.dumps(line))
        except ValidationError:
            raise self._strange() from None
        if value is not None:
            return event.model_copy(update={"value": self._answer(value)})
        return event

    def _answer(self, value: Any) -> Any:
        match value:
            case {"document": dict(document), "pieces": pieces}:
                return Answer(document=document, data=self._fetched(pieces))
            case {"document": dict(document), "data": str(data)}:
                return Answer(document=document, data=_plain(data))
        return value

    def _field(self, document: Any, name: str) -> Any:
        if not isinstance(document, dict) or name not in document:
            raise self._strange()
        return document[name]

    def _strange(self) -> ServerUnavailable:
        return ServerUnavailable(f"{self._http.url} answered what is no answer of Saggar's")


class Parts:
    """What a request names instead of saying it."""

    def __init__(self) -> None:
        self.named: dict[str, memoryview] = {}

    def add(self, segments: Iterable[memoryview], *, once: bool = False) -> list[dict[str, str]]:
        """
        Segments as they stand in a document; short ones that follow each other become one.

        `once`: they will be the same the next time, so that less is worth a name.
        """
        least = SMALL if once else 64 * KiB
        found: list[dict[str, str]] = []
        for run in _joined(segments, least):
            if len(run) < least:
                found.append({"data": base64.b64encode(run).decode()})
                continue
            for start in range(0, len(run), PIECE):
                piece = run[start : start + PIECE]
                digest = sha256(piece).hexdigest()
                self.named[digest] = piece
                found.append({"upload": digest})
        return found


def _joined(segments: Iterable[memoryview], least: int) -> Iterator[memoryview]:
    """The same bytes, the large segments by themselves: they may be known there already."""
    short: list[memoryview] = []
    for segment in segments:
        flat = segment.cast("B") if segment.nbytes else memoryview(b"")
        if flat.nbytes < least:
            short.append(flat)
            continue
        if short:
            yield memoryview(b"".join(short))
        short = []
        yield flat
    if short:
        yield memoryview(b"".join(short))


def _plain(text: Any) -> bytes:
    return base64.b64decode(text, altchars=b"-_") if isinstance(text, str) else b""


class ServerJob:
    """A job at a server; as one of a queue of our own is used."""

    def __init__(self, at: Server, job_id: str) -> None:
        self._server, self.id = at, job_id
        self._path = f"/v1/jobs/{quote(job_id, safe='')}"

    def result(self, timeout: float | None = None) -> Result[Any]:
        """What came of it. TimeoutError if it has not ended in time; it goes on."""
        end = None if timeout is None else monotonic() + timeout
        while True:
            left = WAIT if end is None else max(0.0, min(WAIT, end - monotonic()))
            status, document = self._server.ask(
                "GET", f"{self._path}/result?wait={left:.3f}&leave=true"
            )
            if status == 200:
                return self._server.result(document)
            if end is not None and monotonic() >= end:
                raise TimeoutError(f"job {self.id} has not ended after {timeout:g} s; it goes on")

    def job(self) -> "Standing":
        """How it stands."""
        _, document = self._server.ask("GET", self._path)
        return Standing(str(document.get("state")) if isinstance(document, dict) else "")

    def events(self) -> Iterator[Event]:
        """What it does, from the beginning, while it does it."""
        return self._server.watch(f"{self._path}/events")

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._server.ask("POST", f"{self._path}/cancel")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands."""

    state: str


def performed(url: str, call: Call, grip: Grip | None = None, patience: float = 0.0) -> Result[Any]:
    """
    Make a call at a server, and make it again as often as was said.

    A server that has no room for it is asked again for as many seconds as `patience` says.
    """
    grip = grip or Grip()
    left, delay = call.retry.times, call.retry.delay
    end = monotonic() + patience
    while True:
        try:
            result = server(url).run(call, grip)
        except Overloaded:
            if monotonic() >= end or grip.let:
                raise
            time.sleep(min(BREATH, patience))  # it has let us wait already
            continue
        except PlatformError:
            if not left or grip.let:
                raise
        else:
            if not left or not worth_another(result, call.retry.on):
                return result
        left -= 1
        time.sleep(delay)
        delay *= 2


async def aperformed(url: str, call: Call) -> Result[Any]:
    """The same for code with an event loop; cancelled, the run there is ended."""
    grip = Grip()
    try:
        return await anyio.to_thread.run_sync(performed, url, call, grip, abandon_on_cancel=True)
    except BaseException:
        grip.let_go()
        raise


def worked_off(
    url: str, calls: Iterator[Call], many: int, *, ordered: bool
) -> Iterator[Future[Result[Any]]]:
    """What comes of calls that are taken as they are needed; see `mapped.worked_off`."""
    under_way: set[Grip] = set()
    crew = ThreadPoolExecutor(many, thread_name_prefix="saggar-call")

    def begin(call: Call) -> Future[Result[Any]]:
        grip = Grip()
        under_way.add(grip)
        future = crew.submit(performed, url, call, grip, BUSY)
        future.add_done_callback(lambda _: under_way.discard(grip))
        return future

    try:
        yield from (in_order if ordered else as_they_come)(map(begin, calls), many * READY)
    finally:
        crew.shutdown(wait=False, cancel_futures=True)
        for grip in list(under_way):
            grip.let_go()


async def stepped(items: Callable[[Grip], Iterator[Any]]) -> AsyncGenerator[Any]:
    """Items that are waited for in a thread, for code with an event loop."""
    grip, end = Grip(), object()
    found: Any = items(grip)
    try:
        while True:
            item = await anyio.to_thread.run_sync(next, found, end, abandon_on_cancel=True)
            if item is end:
                return
            yield item
    finally:
        grip.let_go()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_close, found)


def _close(items: Any) -> None:
    """End a generator; a thread that is still within it is about to leave: its wire was cut."""
    deadline = monotonic() + 5
    while monotonic() < deadline:
        try:
            items.close()
        except ValueError:  # it is executing
            time.sleep(0.01)
        else:
            return
