"""
`saggar shell`: a prompt in a session that remembers; from a pipe it runs cells as a script.

The prompt is prompt_toolkit's, which is known here only and not needed for a script.
"""

import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import Parser
from saggar.cli.main import complain, say
from saggar.cli.options import bounds
from saggar.errors import Conflict, UsageError

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from saggar.cli.cells import Cells, Screen
    from saggar.config import Settings
    from saggar.engine.session import Session
    from saggar.model.limits import Limits

SUMMARY = "A prompt in a session behind walls, which remembers. From a pipe: cells, run in order."
EXAMPLES = """\
examples:
  saggar shell
  saggar shell --package numpy --package matplotlib --memory 1GiB --wall 5m
  saggar shell --preload ./my_utilities --input data.csv
  saggar shell < analysis.py
  echo '6 * 7' | saggar shell --json

Tab completes, NAME? explains, NAME?? shows its source. Enter runs what is complete, and else begins
another line. Ctrl-C interrupts, the third one ends the interpreter; Ctrl-D or exit leaves. Images
are saved, and drawn where the terminal can (kitty, iTerm2). A cell may take as long as --wall says.

Cells on stdin are divided by lines that begin with # %%; the first one that fails ends the script.
With --json there is a line for each, its result. Exit code: 0; 1 a cell failed; 124 timeout; 137
killed, or its limit of memory or output met, or the session was ended from elsewhere; 2 a mistake
in the call; 70 the platform failed; 130 Ctrl-C; 143 SIGTERM.
"""
HISTORY = "shell_history"
DIVIDER = re.compile(r"^# ?%%.*$", re.MULTILINE)
QUESTION = re.compile(r"\s*(\?{0,2})\s*([\w.%]+)\s*(\?{0,2})\s*")
LEAVING = frozenset({"exit", "quit", "exit()", "quit()"})
ENDED = 137
LONGEST = 16 << 20
"""Bytes of a script."""


def main(words: Sequence[str]) -> int:
    """The prompt, or the script on stdin."""
    options = parser().read(words)
    terminal = sys.stdin.isatty()
    if terminal and options.json:
        raise UsageError("--json is for cells on stdin: echo '6 * 7' | saggar shell --json")
    if terminal:
        require()
    cells = [] if terminal else script()

    from saggar.config import load

    settings = load()
    asked = request(options)
    with opened(options, asked, settings) as (portal, session):
        from saggar.cli.cells import Cells

        limits = session.policy.limits
        runner = Cells(portal, session)
        if terminal:
            return prompt(runner, portal, screen(options, limits), settings)
        return run(runner, cells, None if options.json else screen(options, limits))


def require() -> None:
    """prompt_toolkit is installed. UsageError says how to install it."""
    from importlib.util import find_spec

    if find_spec("prompt_toolkit") is None:
        raise UsageError("the shell needs prompt_toolkit: pip install 'saggar[shell]'")


def parser() -> Parser:
    """Everything `saggar shell` understands."""
    made = Parser("shell", SUMMARY, EXAMPLES)
    made.add_argument("--language", default="python", metavar="NAME", help="what is typed (python)")
    made.add_argument(
        "--engine",
        choices=("shell", "kernel"),
        help="the interpreter: IPython's shell, or a kernel",
    )
    made.add_argument(
        "--preload", metavar="FOLDER", help="run its *.py first; import from it later"
    )
    made.add_argument(
        "--package",
        metavar="P",
        action="append",
        default=[],
        help="install this first: 'numpy==2.*'",
    )
    made.add_argument(
        "--input",
        metavar="PATH",
        nargs="+",
        action="extend",
        default=[],
        help="files and folders for its work folder; PATH=NAME for another name",
    )
    made.add_argument("--env", metavar="K=V", action="append", default=[], help="a variable")
    made.add_argument("--image", metavar="REF", help="in a container of this image (driver docker)")
    made.add_argument("--python", metavar="X", help="another interpreter: a version or a path")
    made.add_argument("--images", metavar="FOLDER", help="where images are saved (a new one)")
    made.add_argument("--json", action="store_true", help="of cells on stdin, results as JSON")
    made.add_argument("-q", "--quiet", action="store_true", help="say nothing but what cells say")
    bounds(made)
    return made


def request(options: Namespace) -> dict[str, Any]:
    """What the session is opened with."""
    from saggar.cli import inputs
    from saggar.cli import request as words

    with words.as_options():
        bare = Namespace(**{**vars(options), "preload": []})  # modules, of a run
        environment = words.environment(bare)
        return {
            "environment": environment,
            "policy": words.policy(bare, environment),
            "env": words.variables(options.env),
            "files": inputs.gather(options.input),
            "driver": words.driver(options),
            "preload": options.preload,
        }


@contextmanager
def opened(
    options: Namespace, asked: dict[str, Any], settings: "Settings"
) -> "Iterator[tuple[BlockingPortal, Session]]":
    """A session on a thread of its own; it lives as long as we want it, idle or not."""
    import math

    from anyio.from_thread import start_blocking_portal

    from saggar.cli.open import prepare
    from saggar.platform import Platform
    from saggar.sessions.opening import INTERPRETER

    engine = options.engine or settings.engine
    kept: dict[str, Any] = {"idle": math.inf, "max_age": math.inf, "engine": engine, "log": _log}
    environment = asked["environment"]
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Platform(settings)) as platform,
    ):
        quiet = partial(prepare, quiet=options.quiet)
        if engine == "shell":
            portal.call(quiet, platform, INTERPRETER.replace(python=environment.python))
        portal.call(quiet, platform, environment)
        open_session = partial(platform.open_session, options.language, **kept, **asked)
        with portal.wrap_async_context_manager(portal.call(open_session)) as session:
            yield portal, session


def _log(text: str) -> None:
    sys.stderr.write(text if text.endswith("\n") else f"{text}\n")


def screen(options: Namespace, limits: "Limits") -> "Screen":
    """Where events are shown."""
    from saggar.cli.cells import Screen, colourful
    from saggar.cli.images import Gallery, protocol

    inline = protocol(os.environ) if sys.stdout.isatty() else None
    return Screen(limits, Gallery(options.images), colours=colourful(os.environ), inline=inline)


def script() -> list[str]:
    """The cells on stdin."""
    content = sys.stdin.buffer.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise UsageError(f"a script has at most {LONGEST >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(f"stdin is not UTF-8: {exc.reason} at byte {exc.start}") from None
    return [cell.strip("\n") for cell in DIVIDER.split(text) if cell.strip()]


def run(runner: "Cells", cells: Sequence[str], screen: "Screen | None") -> int:
    """One after the other until one fails; the exit code."""
    from saggar.cli.ending import exit_code
    from saggar.model.event import Event, fold

    for cell in cells:
        events: list[Event] = []
        if screen is None:
            finished = runner.run(cell, events.append)
            say(fold(events).model_dump_json() + "\n")
        else:
            screen.begin()
            finished = runner.run(cell, screen.say)
        if runner.stopped:
            return 128 + runner.stopped
        if runner.session.closed:
            complain("the session was ended from elsewhere")
            return ENDED
        if code := exit_code(finished):
            return code
    return 0


def prompt(
    runner: "Cells", portal: "BlockingPortal", screen: "Screen", settings: "Settings"
) -> int:
    """The dialogue; the exit code."""
    ask = asking(portal, runner.session, settings)
    count = 0
    while True:
        count = max(count, runner.session.execution_count) + 1
        try:
            code = ask(count)
        except KeyboardInterrupt:
            count -= 1
            continue
        except EOFError:
            return 0
        if code.strip() in LEAVING:
            return 0
        with suppress(Conflict):
            answer(runner, portal, screen, code, count)
        if runner.session.closed:
            complain("the session was ended from elsewhere")
            return ENDED


def answer(
    runner: "Cells", portal: "BlockingPortal", screen: "Screen", code: str, count: int
) -> None:
    """What comes of one entry."""
    if not code.strip():
        return
    if question := asked_about(code):
        say(explained(portal, runner.session, *question) + "\n")
        return
    screen.begin(f"Out[{count}]: ")
    runner.run(code, screen.say)


def asked_about(code: str) -> tuple[str, int] | None:
    """The name in `NAME?` or `?NAME`, and how much of it is to be told."""
    found = QUESTION.fullmatch(code)
    if found is None or not (found[1] or found[3]):
        return None
    return found[2], max(len(found[1]), len(found[3])) - 1


def explained(portal: "BlockingPortal", session: "Session", name: str, detail: int) -> str:
    """What the session knows of it."""
    known = portal.call(partial(session.inspect, name, len(name), detail=detail))
    return known.get("text/plain") or f"nothing is known of {name}"


def asking(portal: "BlockingPortal", session: "Session", settings: "Settings") -> Any:
    """A function that asks for the next entry, by its number."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings

    from saggar.config import state_dir
    from saggar.errors import SaggarError

    class Names(Completer):
        """What the session proposes; it is asked on a thread, and the prompt does not wait."""

        def get_completions(self, document: Any, _: Any) -> Iterator[Completion]:
            try:
                found = portal.call(session.complete, document.text, document.cursor_position)
            except SaggarError:
                return  # it is gone, and the next entry says so
            start = found.start - document.cursor_position
            yield from (Completion(name, start_position=start) for name in found.matches)

    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: Any) -> None:
        """Run what is complete; an empty line ends what the session cannot judge."""
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # the proposal is taken, and no more
            return
        indent = more(portal, session, buffer.document)
        if indent is None:
            buffer.validate_and_handle()
        else:
            buffer.insert_text(f"\n{indent}")

    history = FileHistory(str(state_dir(settings) / HISTORY))
    dialogue: PromptSession[str] = PromptSession(
        history=history,
        completer=Names(),
        complete_in_thread=True,
        complete_while_typing=False,
        key_bindings=keys,
        multiline=True,
        prompt_continuation=lambda width, *_: f"{'...: ':>{width}}",
    )

    def ask(count: int) -> str:
        return dialogue.prompt(f"In [{count}]: ")

    return ask


def more(portal: "BlockingPortal", session: "Session", document: Any) -> str | None:
    """How the next line is indented, if one is expected; None when this is all."""
    from saggar.errors import SaggarError

    if not document.is_cursor_at_the_end and "\n" in document.text:
        return ""  # in the middle of several lines it is a new one
    if not document.text.strip() or asked_about(document.text):
        return None
    try:
        judged = portal.call(session.is_complete, document.text)
    except SaggarError:
        return None
    return judged.indent if judged.status == "incomplete" else None
