"""
A Python program as `__main__`: its modules, its value, its traceback, its exit code.

Apart from the runner because it is the one part that knows Python rather than the wall.
"""

import _sitebuiltins
import atexit
import builtins
import os
import sys
import threading
import types
from collections.abc import Callable

from saggar.boundary import frames
from saggar.boundary import syscalls as sys_

REFUSALS = {28: "disk", 122: "disk", 27: "file_size"}  # ENOSPC, EDQUOT, EFBIG
MAX_TEXT = 1 << 16
"""How much of an error's message or of a value's repr travels, in characters."""

Tell = Callable[..., None]


class Outcome:
    """What the program came to: an exit code, and the limit its last error met, if it was one."""

    def __init__(self) -> None:
        self.code = 0
        self.refused = ""


def run(task: dict, tell: Tell) -> tuple[int, str]:
    """Run the task's code to the end of its threads and exit handlers; the exit code."""
    outcome = Outcome()
    main = new_main(task, tell)
    guarded(lambda: body(task, main, tell), task, tell, outcome)
    # As an interpreter ends: threads first, then exit handlers, then what is still buffered.
    guarded(threading._shutdown, task, tell, outcome)
    guarded(atexit._run_exitfuncs, task, tell, outcome)
    flush(outcome)
    return outcome.code, outcome.refused


def refused(exc: BaseException) -> str:
    """The limit behind an error of the operating system, by its name."""
    return REFUSALS.get(exc.errno or 0, "") if isinstance(exc, OSError) else ""


REHEARSAL = """
import sys
class Thing:
    def method(self, value: int = 1, *rest, **named) -> str:
        return f"{value!r:>4}{[x for x in rest if x]}{ {**named} }"
try:
    with open("/dev/null", "w") as nowhere:
        print(Thing().method(1, 2, a=3), file=nowhere)
    raise KeyError("rehearsed")
except KeyError as exc:
    str(exc)
for number in range(3):
    number += 1
"""


def rehearse() -> None:
    """
    Do, while parked, what every program does first: half of a short run is pages touched once.

    Nothing of it stays but memory that is already ours when the task arrives.
    """
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.help = _sitebuiltins._Helper()
    sys.stdout.reconfigure(line_buffering=True)  # or children's output would overtake ours
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "Bundle"]
    for name in [n for n in sys.modules if n == "saggar" or n.startswith("saggar.")]:
        del sys.modules[name]
    exec(compile(REHEARSAL, "rehearsal", "exec", dont_inherit=True), {"__name__": "rehearsal"})
    sys.stdout.flush()
    reseed()


def preload(names: "tuple[str, ...]", site: "tuple[str, ...]") -> None:
    """
    Import what a tenant wants imported before the task arrives; here it can harm nobody else.

    What fails to import now fails again where the program imports it, and is seen there.
    """
    sys.path += site
    for name in names:
        try:
            __import__(name)
        except BaseException:
            break
    if site:
        del sys.path[-len(site) :]


def new_main(task: dict, tell: Tell) -> types.ModuleType:
    """The main module and its surroundings, as the program expects to find them."""
    builtins.display = lambda *objects: show(objects, task, tell)
    sys.argv[:] = [task["filename"], *task["args"]]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    sys.path[:0] = [task["cwd"]]
    sys.path += task["site"]
    main = types.ModuleType("__main__")
    main.__file__ = os.path.join(task["cwd"], task["filename"])
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    return main


def reseed() -> None:
    """Children of one server start alike; `random` reseeds itself after a fork, numpy does not."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def body(task: dict, main: types.ModuleType, tell: Tell) -> None:
    """The code itself, then its value or its entry function's answer where one is wanted."""
    source, filename = task["code"], main.__file__
    if task["entry"] is None and not task["want_value"]:
        exec(compile(source, filename, "exec", dont_inherit=True), main.__dict__)
        return
    value = call_entry(task, main) if task["entry"] else last_value(source, main)
    report(value, task, tell)


def last_value(source: "str | bytes", main: types.ModuleType) -> object:
    """Run a script; the value of its last statement if that is an expression."""
    import ast

    tree = ast.parse(source, main.__file__)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, main.__file__, "exec", dont_inherit=True), main.__dict__)
    if last is None:
        return None
    expression = ast.Expression(last.value)
    return eval(compile(expression, main.__file__, "eval", dont_inherit=True), main.__dict__)


def call_entry(task: dict, main: types.ModuleType) -> object:
    """Define the program, then call one function of it with the input."""
    import json

    # Not the main program: what a script does under `if __name__ == "__main__"` stays undone.
    main.__name__ = "program"
    sys.modules["program"] = main
    exec(compile(task["code"], main.__file__, "exec", dont_inherit=True), main.__dict__)
    function = main.__dict__.get(task["entry"])
    if not callable(function):
        raise NameError(f"the program defines no function {task['entry']!r}")
    arguments = [] if task["input"] is None else [json.loads(task["input"])]
    answer = function(*arguments)
    if hasattr(answer, "__await__"):
        import asyncio

        answer = asyncio.run(waited(answer))
    return answer


async def waited(answer: object) -> object:
    return await answer


def report(value: object, task: dict, tell: Tell) -> None:
    """The value as JSON; as its repr where JSON cannot say it and nobody relies on the type."""
    import json

    try:
        blob, media = json.dumps(value, allow_nan=False).encode(), "application/json"
    except (TypeError, ValueError, RecursionError):
        if task["entry"]:
            raise
        blob, media = repr(value)[:MAX_TEXT].encode("utf-8", "replace"), "text/plain"
    tell(frames.VALUE, fitting(blob, task, "value"), media_type=media)


def show(objects: tuple[object, ...], task: dict, tell: Tell) -> None:
    """`display(...)`: every representation an object offers, as a mime bundle."""
    import json

    for thing in objects:
        bundle = dict(thing) if isinstance(thing, dict) and "text/plain" in thing else {}
        if not bundle:
            bundle = {"text/plain": repr(thing)}
            for method, media in REPRESENTATIONS:
                found = getattr(type(thing), method, None)
                made = found(thing) if found else None
                if made is not None:
                    bundle[media] = as_text(made)
        tell(frames.DISPLAY, fitting(json.dumps(bundle).encode(), task, "display"))


def fitting(blob: bytes, task: dict, what: str) -> bytes:
    """The same bytes, unless the host would not take them."""
    if len(blob) > task["largest"]:
        raise ValueError(f"the {what} is {len(blob)} bytes long, the limit is {task['largest']}")
    return blob


REPRESENTATIONS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
)


def as_text(made: object) -> str:
    """Images travel as base64 text, as notebooks have it."""
    if isinstance(made, bytes):
        import base64

        return base64.b64encode(made).decode()
    return made if isinstance(made, str) else str(made)


def guarded(step: Callable[[], object], task: dict, tell: Tell, outcome: Outcome) -> None:
    """One step of the program's life; whatever it raises becomes an exit code and an error frame."""
    try:
        step()
    except SystemExit as exc:
        outcome.code = exit_code(exc.code)
    except BaseException as exc:
        outcome.code = 130 if isinstance(exc, KeyboardInterrupt) else 1
        outcome.refused = refused(exc)
        explain(exc, task, tell)


def exit_code(code: object) -> int:
    """What the interpreter makes of `SystemExit.code`."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def explain(exc: BaseException, task: dict, tell: Tell) -> None:
    """The traceback as the program's author would see it: on stderr, and in a frame."""
    import linecache
    import traceback

    text = (
        task["code"] if isinstance(task["code"], str) else task["code"].decode("utf-8", "replace")
    )
    filename = os.path.join(task["cwd"], task["filename"])
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    try:
        shown = "".join(traceback.format_exception(type(exc), exc, own_lines(exc.__traceback__)))
        message = str(exc)
    except BaseException as broken:  # an exception class of the user's whose own methods raise
        shown = message = f"<unprintable: {type(broken).__name__}>"
    try:
        sys.stderr.write(shown)
    except BaseException:
        pass  # the program closed or replaced its stderr; the frame still says it
    name = type(exc).__name__
    tell(frames.ERROR, type=name, message=message[:MAX_TEXT], traceback=shown[-MAX_TEXT:])


def own_lines(trace: "types.TracebackType | None") -> "types.TracebackType | None":
    """The traceback from the first frame that is not ours."""
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    return trace


def flush(outcome: Outcome) -> None:
    """What Python and C still hold for 1 and 2 belongs to the output."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass  # closed or replaced by the program; an interpreter's end ignores it as well
    sys_.flush_stdio()
