"""
A Python program as `__main__`: its modules, its value, its traceback, its exit code.

Apart from the runner because it is the one part that knows Python rather than the wall.
"""

import _io
import _sitebuiltins
import atexit
import builtins
import gc
import os
import sys
import types

from saggar.boundary import frames
from saggar.boundary import syscalls as sys_
from saggar.boundary.order import Order

REFUSALS = {28: "disk", 122: "disk", 27: "file_size"}  # ENOSPC, EDQUOT, EFBIG
MAX_TEXT = 1 << 16
"""How much of an error's message or of a value's repr travels, in characters."""
INFINITE = float("inf")
LIBRARY = tuple(sys.path)
"""Where the standard library is: all that a bare environment has."""
OURS: list[types.ModuleType] = []
"""Our modules, kept alive: to tear one down would touch the memory of all it defines."""
FINDERS: list[object] = []
"""What finds our modules; off the path of every program's own imports."""
REHEARSAL = "print(end='')\n"
REPRESENTATIONS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Tell = Callable[..., None]


class Outcome:
    """What the program came to: an exit code, and the limit its last error met, if it was one."""

    def __init__(self) -> None:
        self.code = 0
        self.refused = ""
        self.process = os.getpid()


def furnish() -> None:
    """Make this interpreter one that programs expect: what `site` adds, and nothing of ours."""
    quitter, helper = _sitebuiltins.Quitter, _sitebuiltins._Helper  # noqa: SLF001 - as site does
    builtins.exit = quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.help = helper()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # or children overtake
    FINDERS.extend(f for f in sys.meta_path if type(f).__name__ == "Bundle")
    sys.meta_path[:] = [f for f in sys.meta_path if f not in FINDERS]
    ours = [name for name in sys.modules if name == "saggar" or name.startswith("saggar.")]
    OURS.extend(sys.modules.pop(name) for name in ours)
    # Once for all children: the first `compile` makes the hundred types of the syntax tree.
    exec(compile(REHEARSAL, "rehearsal", "exec", dont_inherit=True), {})
    flush()


def has(name: str) -> bool:
    """Whether one of our own modules is here already."""
    return any(module.__name__ == name for module in OURS)


def bring(name: str) -> types.ModuleType:
    """One of our own modules, imported now if it was not before; programs do not find it after."""
    for module in OURS:
        if module.__name__ == name:
            return module
    others = {module.__name__: module for module in OURS}
    sys.modules.update(others)
    sys.meta_path[:0] = FINDERS  # type: ignore[assignment]
    __import__(name)
    del sys.meta_path[: len(FINDERS)]
    ours = [known for known in sys.modules if known == "saggar" or known.startswith("saggar.")]
    OURS.extend(sys.modules.pop(known) for known in ours if known not in others)
    for known in others:
        sys.modules.pop(known, None)
    return OURS[-1] if OURS[-1].__name__ == name else bring(name)


def fill() -> None:
    """Import, once for all children, what many programs do, and what their answers take."""
    import ast  # noqa: F401
    import json  # noqa: F401
    import threading  # noqa: F401
    import traceback  # noqa: F401


def rehearse(order: Order) -> None:
    """Run a program in this interpreter that leaves nothing."""
    outcome = Outcome()
    main = new_main(order, print)
    guarded(lambda: body(order, main, print), order, print, outcome)
    tear_down(main)
    flush()
    reseed()


def run(order: Order, tell: "Tell") -> tuple[int, str]:
    """
    Run the order's code to the end of its threads and exit handlers.

    Returns the exit code, and the limit that the error met which ended it. A child that the program
    forked ends here, as it would in an interpreter: the answer is its parent's to give.
    """
    outcome = Outcome()
    main = new_main(order, tell)
    guarded(lambda: body(order, main, tell), order, tell, outcome)
    # As an interpreter ends: threads first, then exit handlers, then what is still buffered.
    if (threading := sys.modules.get("threading")) is not None:
        guarded(lambda: threading._shutdown(), order, tell, outcome)  # noqa: SLF001, PLW0108 - looked up there
    guarded(atexit._run_exitfuncs, order, tell, outcome)  # noqa: SLF001
    guarded(lambda: tear_down(main), order, tell, outcome)
    flush()
    if os.getpid() != outcome.process:
        os._exit(outcome.code)
    return outcome.code, outcome.refused


def tear_down(main: types.ModuleType) -> None:
    """What the program still holds goes, and no file that it left open loses its end."""
    threading = sys.modules.get("threading")
    if threading is None or threading.active_count() == 1:  # or somebody stumbles over what is gone
        for name in [name for name in main.__dict__ if name != "__builtins__"]:
            main.__dict__[name] = None
    for thing in gc.get_objects():
        if issubclass(type(thing), _io._IOBase):  # noqa: SLF001 - of the abstract one users make more
            try:
                thing.flush()
            except BaseException:
                pass  # closed, or nowhere to write to: an interpreter's end goes on as well


def refused(exc: BaseException) -> str:
    """The limit behind an error of the operating system, by its name."""
    return REFUSALS.get(exc.errno or 0, "") if isinstance(exc, OSError) else ""


def new_main(order: Order, tell: "Tell") -> types.ModuleType:
    """The main module and its surroundings, as the program expects to find them."""
    builtins.display = lambda *things: show(things, order, tell)  # type: ignore[attr-defined]
    sys.argv[:] = [order.filename, *order.args]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    sys.path[:] = [order.cwd, *LIBRARY, *order.site]
    main = types.ModuleType("__main__")
    main.__file__ = os.path.join(order.cwd, order.filename)
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    return main


def reseed() -> None:
    """Children of one server start alike; `random` reseeds itself after a fork, numpy does not."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def body(order: Order, main: types.ModuleType, tell: "Tell") -> None:
    """The code itself, then its value or its entry function's answer where one is wanted."""
    filename = str(main.__file__)
    if order.entry is not None:
        report(call_entry(order, order.entry, main, filename), order, tell)
    elif order.want_value:
        report(last_value(order.code, main, filename), order, tell)
    else:
        exec(compile(order.code, filename, "exec", dont_inherit=True), main.__dict__)


def last_value(source: str, main: types.ModuleType, filename: str) -> object:
    """Run a script; the value of its last statement if that is an expression."""
    import ast

    tree = ast.parse(source, filename)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, filename, "exec", dont_inherit=True), main.__dict__)
    if not isinstance(last, ast.Expr):
        return None
    expression = compile(ast.Expression(last.value), filename, "eval", dont_inherit=True)
    return eval(expression, main.__dict__)


def call_entry(order: Order, entry: str, main: types.ModuleType, filename: str) -> object:
    """Define the program, then call one function of it with the input."""
    import json

    # Not the main program: what a script does under `if __name__ == "__main__"` stays undone.
    main.__name__ = "program"
    sys.modules["program"] = main
    exec(compile(order.code, filename, "exec", dont_inherit=True), main.__dict__)
    function = main.__dict__.get(entry)
    if not callable(function):
        raise NameError(f"the program defines no function {entry!r}")
    arguments = [] if order.input is None else [json.loads(order.input)]
    answer = function(*arguments)
    if hasattr(answer, "__await__"):
        import asyncio

        async def answered() -> object:
            return await answer

        return asyncio.run(answered())
    return answer


def report(value: object, order: Order, tell: "Tell") -> None:
    """The value as JSON; as its repr where JSON cannot say it and nobody relies on the type."""
    import json

    if order.entry is not None and (problem := misfit(value)):
        raise ValueError(f"the answer has no JSON form: {problem}")
    try:
        blob, media = json.dumps(value, allow_nan=False).encode(), "application/json"
    except (TypeError, ValueError, RecursionError):
        if order.entry is not None:
            raise
        blob, media = repr(value)[:MAX_TEXT].encode("utf-8", "replace"), "text/plain"
    tell(frames.VALUE, fitting(blob, order, "value"), media_type=media)


def misfit(value: object) -> str:
    """
    Where in an answer something has no JSON form, as a JSON pointer, and what; empty if none.

    What contains itself is left to the encoder.
    """
    seen: set[int] = set()
    level: list[tuple[str, object]] = [("", value)]
    while level:
        inner: list[tuple[str, object]] = []
        for path, item in level:
            if isinstance(item, (dict, list, tuple)):
                if id(item) not in seen:
                    seen.add(id(item))
                    for name, held in parts(item):
                        if name is None:
                            return f"{at(path)}the key {held!r:.60} is not text"
                        inner.append((f"{path}/{name}", held))
            elif isinstance(item, float) and not -INFINITE < item < INFINITE:
                return f"{at(path)}{item}"
            elif not isinstance(item, (str, int, float, type(None))):
                return f"{at(path)}{type(item).__name__}"
        level = inner
    return ""


def parts(
    holder: "dict[object, object] | list[object] | tuple[object, ...]",
) -> "Iterator[tuple[str | None, object]]":
    """What a dict or a list holds, with its name in a pointer; a key that is no text has none."""
    if not isinstance(holder, dict):
        yield from ((str(number), held) for number, held in enumerate(holder))
        return
    for key, held in holder.items():
        if isinstance(key, str):
            yield key.replace("~", "~0").replace("/", "~1"), held
        else:
            yield None, key


def at(path: str) -> str:
    """The beginning of a complaint."""
    return f"at {path}: " if path else ""


def show(things: tuple[object, ...], order: Order, tell: "Tell") -> None:
    """`display(...)`: every representation an object offers, as a mime bundle."""
    import json

    for thing in things:
        bundle = json.dumps(bundle_of(thing)).encode()
        tell(frames.DISPLAY, fitting(bundle, order, "display"))


def bundle_of(thing: object) -> dict[str, str]:
    """Media types and texts; a dictionary that is such a bundle already is taken as it is."""
    if isinstance(thing, dict) and "text/plain" in thing:
        return dict(thing)
    bundle = {"text/plain": repr(thing)}
    for method, media in REPRESENTATIONS:
        found = getattr(type(thing), method, None)
        made = found(thing) if found else None
        if made is not None:
            bundle[media] = as_text(made)
    return bundle


def as_text(made: object) -> str:
    """Images travel as base64 text, as notebooks have it."""
    if isinstance(made, bytes):
        import base64

        return base64.b64encode(made).decode()
    return made if isinstance(made, str) else str(made)


def fitting(blob: bytes, order: Order, what: str) -> bytes:
    """The same bytes, unless the host would not take them."""
    if len(blob) > order.largest:
        raise ValueError(f"the {what} is {len(blob)} bytes long, the limit is {order.largest}")
    return blob


def guarded(step: "Callable[[], object]", order: Order, tell: "Tell", outcome: Outcome) -> None:
    """One step of the program's life; what it raises becomes an exit code and an error frame."""
    try:
        step()
    except SystemExit as exc:
        outcome.code = exit_code(exc.code)
    except BaseException as exc:
        outcome.code = 130 if isinstance(exc, KeyboardInterrupt) else 1
        outcome.refused = refused(exc)
        told = explain(exc, order)
        if os.getpid() == outcome.process:
            tell(frames.ERROR, **told)


def exit_code(code: object) -> int:
    """What the interpreter makes of `SystemExit.code`."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    try:
        print(code, file=sys.stderr)
    except BaseException:
        pass  # an object whose text never comes; an interpreter ignores it as well
    return 1


def explain(exc: BaseException, order: Order) -> dict[str, str]:
    """The traceback as the program's author would see it: on stderr, and for a frame."""
    import linecache
    import traceback

    # From memory: the program may have removed its file, or filled the disk.
    filename = os.path.join(order.cwd, order.filename)
    lines = _io.StringIO(order.code + "\n", newline=None).readlines()
    linecache.cache[filename] = (len(order.code), None, lines, filename)
    trace = own_lines(exc.__traceback__)
    try:
        shown = "".join(traceback.format_exception(type(exc), exc, trace))
        message = str(exc)
    except BaseException as broken:  # an exception class of the user's whose own methods raise
        shown = message = f"<unprintable: {type(broken).__name__}>"
    try:
        mourn(exc, trace, shown)
    except BaseException:
        pass  # the program closed or replaced its stderr; the frame still says it
    name = type(exc).__name__
    return {"type": name, "message": message[:MAX_TEXT], "traceback": shown[-MAX_TEXT:]}


def mourn(exc: BaseException, trace: types.TracebackType | None, shown: str) -> None:
    """On stderr, or as the program's own hook has it."""
    if sys.excepthook is not sys.__excepthook__:
        try:
            sys.excepthook(type(exc), exc, trace)
            return
        except BaseException:
            pass  # then at least what it was called for
    sys.stderr.write(shown)


def own_lines(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback from the first frame that is not ours."""
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    return trace


def flush() -> None:
    """What Python and C still hold for 1 and 2 belongs to the output."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass  # closed or replaced by the program; an interpreter's end ignores it as well
    sys_.flush_stdio()
