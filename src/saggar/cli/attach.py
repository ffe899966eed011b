"""
`saggar exec ID -- PROGRAM`: a program in a live sandbox of another process, as if it were ours.

Its streams come over that process: on a terminal it has one of its own, whose size follows ours,
and ours is raw meanwhile, so that Ctrl-C is the program's to read. It ends when we do.
"""

import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import Parser, split
from saggar.cli.main import READER_GONE
from saggar.errors import NotFound, UsageError

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from saggar.sessions.line import Line
    from saggar.sessions.reach import Place

SUMMARY = "Start a program in a live sandbox: its streams are ours, and its exit code."
EXAMPLES = """\
examples:
  saggar exec 4f3a -- ls -l
  saggar exec 4f3a -- bash
  tar c src | saggar exec 4f3a -- tar x

On a terminal the program has one, too. Ctrl-C and SIGTERM are passed on; the third one leaves.
Exit code: the program's own, 128 and the number of a signal that ended it, 2 a mistake in the call,
70 the process that has the sandbox is gone.
"""
BOTH = (
    "a function of a file is called with saggar exec FILE --entry NAME, a program in a live sandbox"
    " is started with saggar exec ID -- PROGRAM, ID as saggar ps shows it"
)
PIECE = 1 << 16
PATIENCE = 3
"""How often one may ask a program to end before one leaves it."""


def main(words: Sequence[str]) -> int:
    """Start it, and stay with it."""
    import anyio

    ours, argv = split(words)
    options = parser().read(ours)
    if not argv:
        raise UsageError(f"no program after --; {BOTH}")

    from saggar.cli.request import variables

    request = {"argv": argv, "env": variables(options.env), "cwd": options.cwd or ""}
    place = found(options.id)
    pty = sys.stdin.isatty() and sys.stdout.isatty() and not options.no_pty
    code: int = anyio.run(attend, place, request, pty)
    return code


def parser() -> Parser:
    """Everything that stands before `--`."""
    made = Parser("exec", SUMMARY, EXAMPLES)
    made.usage = "saggar exec ID [OPTION...] -- PROGRAM [ARGUMENT...]"
    made.elsewhere = BOTH
    made.add_argument("id", metavar="ID", help="the sandbox or session, or how its id begins")
    made.add_argument(
        "--env", metavar="K=V", action="append", default=[], help="a variable of the program"
    )
    made.add_argument("--cwd", metavar="FOLDER", help="where it starts (the work folder)")
    made.add_argument("--no-pty", action="store_true", help="pipes, on a terminal as well")
    return made


def found(word: str) -> "Place":
    """Where it lives. NotFound or UsageError, which say what else may have been meant."""
    from saggar.cli.live import table
    from saggar.sessions.reach import find

    try:
        return find(table(), word)
    except NotFound as exc:
        raise type(exc)(f"{exc}; {BOTH}") from None


def refuse_an_id(words: Sequence[str]) -> None:
    """An id in the place of a file: its program was meant. UsageError says how that is written."""
    word = words[0] if words else ""
    if not word or word.startswith("-") or os.path.exists(word):
        return
    from saggar.cli.live import table
    from saggar.sessions.reach import living

    if any(row.id.startswith(word) for _, row in living(table())):
        raise UsageError(f"there is no file {word!r}, but a live sandbox; {BOTH}")


async def attend(place: "Place", request: dict[str, Any], pty: bool) -> int:  # noqa: FBT001
    """The program's exit code."""
    import anyio

    from saggar.sessions.reach import heard, reached

    async with reached(place.holder) as line:
        size = list(_size()) if pty else None
        await line.send("exec", id=place.id, pty=size, **request)
        await heard(line)
        tell, taken = anyio.create_memory_object_stream[bool](4)
        with raw(pty), tell, taken:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(feed, line, taken)
                await tasks.start(heed, line, tasks.cancel_scope, pty)
                code = await follow(line, tell)
                tasks.cancel_scope.cancel()
                return code
    return 128 + signal.SIGINT


async def follow(line: "Line", tell: "MemoryObjectSendStream[bool]") -> int:
    """What it says, passed on, until its end."""
    from saggar.cli.stream import STDERR, STDOUT, pour
    from saggar.sessions.reach import heard

    while True:
        message = await heard(line)
        try:
            match message.head:
                case {"say": "stdout"}:
                    await pour(STDOUT, message.data)
                case {"say": "stderr"}:
                    await pour(STDERR, message.data)
                case {"say": "taken"}:
                    await tell.send(bool(message.head.get("closed")))
                case {"say": "exit", "code": code, "signal": number}:
                    return int(code) if code is not None else 128 + int(number or signal.SIGKILL)
        except BrokenPipeError:
            return READER_GONE


async def feed(line: "Line", taken: "MemoryObjectReceiveStream[bool]") -> None:
    """Our stdin to the program, as fast as it takes it."""
    import anyio

    with suppress(anyio.BrokenResourceError):  # it has ended, and we are about to hear of it
        while data := await read():
            await line.send("stdin", data)
            if await taken.receive():
                return
        await line.send("eof")


async def read() -> bytes:
    """What stdin has, nothing at its end. A file is always ready, and no loop waits for one."""
    import anyio

    poll = select.poll()
    poll.register(0, select.POLLIN)
    while not poll.poll(0):
        await anyio.wait_readable(0)
    try:
        return os.read(0, PIECE)
    except OSError:
        return b""  # a terminal that was closed


async def heed(line: "Line", scope: Any, pty: bool, *, task_status: Any) -> None:  # noqa: FBT001
    """Signals that reach us are the program's; on a terminal its size as well."""
    import anyio

    asked = 0
    kinds = [signal.SIGINT, signal.SIGTERM, *([signal.SIGWINCH] if pty else [])]
    with anyio.open_signal_receiver(*kinds) as signals:
        task_status.started()
        async for number in signals:
            asked += number != signal.SIGWINCH
            if asked >= PATIENCE:
                scope.cancel()
            with suppress(anyio.BrokenResourceError):
                if number == signal.SIGWINCH:
                    rows, columns = _size()
                    await line.send("resize", rows=rows, columns=columns)
                else:
                    await line.send("signal", number=int(number))


@contextmanager
def raw(pty: bool) -> Iterator[None]:  # noqa: FBT001
    """Our terminal passes on every key, for the length of a block."""
    if not pty:
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is the program's
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _size() -> tuple[int, int]:
    try:
        found = os.get_terminal_size(0)
    except OSError:
        return 24, 80
    return found.lines or 24, found.columns or 80
