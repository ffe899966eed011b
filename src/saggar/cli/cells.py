"""
Cells on a terminal or in a log: what a session says while one runs, shown to a person or a program.

The session lives on another thread. Its events come through a queue, and so does Ctrl-C: a signal
handler may put something there and do no more, and nothing that is being printed is torn.
"""

import queue
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from saggar.cli.images import Gallery, Protocol, drawn, image
from saggar.cli.main import complain
from saggar.model.event import Cleared, Displayed, Event, Finished, Output
from saggar.model.result import Status

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from saggar.engine.session import Session
    from saggar.model.limits import Limits

RED, GREEN, BOLD, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"
ERASE = "\r\x1b[K"
Say = Callable[[Event], None]


class Cells:
    """Runs cells of one session, from the main thread."""

    def __init__(self, portal: "BlockingPortal", session: "Session") -> None:
        self._portal, self.session = portal, session
        self.stopped = 0
        """The signal that somebody stopped the last cell with; 0 if nobody did."""

    def run(self, code: str, say: Say) -> Finished:
        """
        One cell to its end, each event said as it comes.

        Ctrl-C interrupts it, the third one takes its interpreter away. SaggarError when it cannot
        be run at all.
        """
        events: queue.SimpleQueue[Event | BaseException | int] = queue.SimpleQueue()
        self.stopped = 0
        asked = 0
        with heard(events):
            done = self._portal.start_task_soon(_pump, self.session, code, events)
            while True:
                match events.get():
                    case int(number):
                        self.stopped, asked = number, asked + 1
                        self._stop(asked)
                    case BaseException() as exc:
                        raise exc
                    case event:
                        say(event)
                        if isinstance(event, Finished):
                            done.result()
                            return event

    def _stop(self, asked: int) -> None:
        if asked < 3:
            if asked == 2:
                complain("it was interrupted, and goes on; once more ends its interpreter")
            self._portal.start_task_soon(self.session.interrupt)
        else:
            self._portal.start_task_soon(self.session.restart)


@contextmanager
def heard(events: "queue.SimpleQueue[Any]") -> Iterator[None]:
    """Ctrl-C and SIGTERM go into the queue."""

    def put(number: int, _: object) -> None:
        events.put(int(number))

    before = {number: signal.signal(number, put) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _pump(session: "Session", code: str, events: "queue.SimpleQueue[Any]") -> None:
    """A cell's events into the queue; what goes wrong comes out of it where it is waited for."""
    from contextlib import aclosing

    try:
        async with aclosing(session.events(code)) as happening:
            async for event in happening:
                events.put(event)
    except Exception as exc:  # noqa: BLE001 - raised again on the thread that asked
        events.put(exc)


class Screen:
    """Events as text: results and errors in colours on a terminal, images as files."""

    def __init__(
        self, limits: "Limits", gallery: Gallery, *, colours: bool, inline: Protocol | None = None
    ) -> None:
        self._limits, self._gallery = limits, gallery
        self._colours, self._inline = colours, inline
        self._label = ""
        self._clearing = False
        self._column = 0

    def begin(self, label: str = "") -> None:
        """A cell whose result is introduced with `label`."""
        self._label, self._clearing = label, False

    def say(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Output(stream=stream, data=data):
                self._write(data, sys.stdout if stream == "stdout" else sys.stderr)
            case Cleared(wait=wait):
                self._clearing = True
                if not wait:
                    self._clear()
            case Displayed(display=display):
                self._display(display.data, result=display.role == "result")
            case Finished():
                self._finish(event)

    def _write(self, data: bytes, to: Any) -> None:
        self._clear()
        self._column = len(data) if data and not data.endswith(b"\n") else 0
        to.flush()
        to.buffer.write(data)
        to.flush()

    def _clear(self) -> None:
        """The line that stands there goes, as a terminal's notebook has it; a log keeps it."""
        if self._clearing and self._colours:
            sys.stdout.write(ERASE)
        self._clearing = False

    def _display(self, bundle: Any, *, result: bool) -> None:
        self._new_line()
        if found := image(bundle):
            path = self._gallery.save(*found)
            if picture := drawn(*found, self._inline):
                self._line(picture)
            self._line(f"{self._coloured(GREEN, self._label) if result else ''}{path}")
            return
        text = bundle.get("text/plain") or next(iter(bundle.values()), "")
        if not result or not self._label:
            self._line(text)
        else:
            gap = "\n" if "\n" in text else ""
            self._line(f"{self._coloured(GREEN, self._label)}{gap}{text}")

    def _finish(self, finished: Finished) -> None:
        self._new_line()
        if finished.error is not None and not finished.session_reset:
            error = finished.error
            *trace, last = (error.traceback or f"{error.type}: {error.message}").splitlines()
            sys.stderr.write("".join(f"{line}\n" for line in trace))
            sys.stderr.write(f"{self._coloured(RED, last)}\n")
            sys.stderr.flush()
        if said := ending(finished, self._limits):
            complain(said)
        if finished.session_reset:
            sys.stderr.write(BOLD if self._colours else "")
            complain(f"session reset: {_why(finished)}")
            sys.stderr.write(PLAIN if self._colours else "")
            sys.stderr.flush()

    def _new_line(self) -> None:
        if self._column and self._colours:
            self._line("")
        self._column = 0

    def _line(self, text: str) -> None:
        self._clear()
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def _coloured(self, colour: str, text: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._colours and text else text


def ending(finished: Finished, limits: "Limits") -> str:
    """A line about an end that the cell's own words do not tell; empty for all others."""
    from saggar.cli.ending import shown

    if finished.status in {Status.OK, Status.ERROR} and not finished.limit:
        return "output truncated" if finished.truncated else ""
    said = str(finished.status)
    if finished.limit is not None:
        option = "output-limit" if finished.limit == "output" else finished.limit.replace("_", "-")
        said += f": its limit of {finished.limit} is {shown(finished.limit, limits)} (--{option})"
    return said


def _why(finished: Finished) -> str:
    if finished.error is None:
        return "what it remembered is lost, the next cell has a fresh interpreter"
    return finished.error.message


def colourful(environ: Any) -> bool:
    """Whether there is somebody to see colours."""
    return sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
