"""
The shell: an interpreter that remembers, for sessions. IPython without its terminal.

Imported in the fork server, where it is built once for all children; each of them is forked from
it, so that a new session costs the pages it touches. Nothing here is a safeguard: the host judges
from outside. What it owes is fidelity to what people know from notebooks.
"""

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import base64
import builtins
import fcntl
import getpass
import json
import os
import resource
import sys
import warnings

from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.tokenutil import token_at_cursor
from traitlets.config import Config

from saggar.boundary import frames
from saggar.guest import program
from saggar.guest.line import Line, stream
from saggar.guest.shown import MOST_TEXT, json_of, text_of, variables, without_ours

CHANNEL = 3
HIDDEN = 200
"""Where the channel is kept, or as high as it may be: programs close the low numbers."""
TRACEBACK = 1 << 18
GROUP: "Any" = getattr(builtins, "BaseExceptionGroup", ())
PLAIN = frozenset((int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset))
NO_STDIN = "nobody can answer: a session has no stdin; pass what it asks for as a value"
NO_NETWORK = (
    "packages cannot be installed here: this sandbox has no network; name them when it is opened,"
    " Environment(packages=(...))"
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Head = dict[str, Any]


class Hook(DisplayHook):
    """The value of a cell's last expression: shown, and kept as the value."""

    line: Line
    largest: int
    kept = True
    """Whether the value of this cell is the last one, `_`."""

    def __call__(self, result: object = None) -> None:
        """Where IPython would print it."""
        if result is None or self.quiet():
            return
        bundle, metadata = self.compute_format_data(result)
        if self.kept:
            self.update_user_ns(result)
        self.fill_exec_result(result)
        show(self.line.keep, encoded(bundle), metadata, self.largest, role="result")
        blob, media = as_value(result, bundle, self.largest)
        self.line.keep(frames.VALUE, blob, media_type=media)

    def compute_format_data(self, result: object) -> "Any":
        """As ever; a plain value has one form, unless somebody has said how to show its type."""
        kind = type(result)
        formatters = self.shell.display_formatter.formatters
        if kind in PLAIN and not any(
            kind in one.type_printers for name, one in formatters.items() if name != "text/plain"
        ):
            return {"text/plain": formatters["text/plain"](result)}, {}
        return super().compute_format_data(result)


class Publisher(DisplayPublisher):
    """`display()`: a frame for each."""

    line: Line
    largest: int

    def publish(
        self,
        data: "dict[str, Any]",
        metadata: "dict[str, Any] | None" = None,
        *,
        transient: "dict[str, Any] | None" = None,
        update: bool = False,
        **_: object,
    ) -> None:
        """A mime bundle."""
        head: Head = {"update": update}
        if transient and "display_id" in transient:
            head["id"] = transient["display_id"]
        show(self.line.tell, encoded(data), metadata or {}, self.largest, **head)

    def clear_output(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002 - IPython's
        """What was shown is to go."""
        flush()
        self.line.tell(frames.CLEARED, wait=wait)


class Shell(InteractiveShell):
    """IPython's shell, without files of its own and without a terminal."""

    told = False
    """Whether the host has heard of the last error."""
    db: "dict[str, Any]" = {}  # noqa: RUF012 - there is one shell in a process
    """What magics such as `%cd` remember, for as long as the session lives."""

    def init_ipython_dir(self, ipython_dir: str) -> None:
        """Nothing is kept."""

    def init_profile_dir(self, profile_dir: object) -> None:
        """Nothing is kept."""

    def init_virtualenv(self) -> None:
        """The environment is what it is."""

    def init_sys_modules(self) -> None:
        """Ours is the main module, for pickle and for whoever looks."""
        sys.modules["__main__"] = self.user_module

    def should_run_async(self, raw_cell: str, **more: "Any") -> bool:
        """As ever, without the parsing where no word of the cell could make it so."""
        if "await" not in raw_cell and "async" not in raw_cell:
            return False
        return bool(super().should_run_async(raw_cell, **more))

    def ask_exit(self) -> None:
        """`exit` in a cell."""
        raise SystemExit

    def showtraceback(self, exc_tuple: "Any" = None, **how: "Any") -> None:
        """As ever, without our frames; and what IPython only prints is told as well."""
        self.told = False
        kind, error, trace = self._get_exc_info(exc_tuple)
        trace = without_ours(trace)
        if isinstance(error, GROUP):
            import traceback

            users = trace and trace.tb_next  # the first frame is IPython's
            shown = "".join(traceback.format_exception(kind, error, users))
            self._showtraceback(kind, error, shown.splitlines())
            return
        super().showtraceback((kind, error, trace), **how)
        if not self.told:  # a misused magic, or one that cannot be shown
            self._showtraceback(kind, error, [])

    def _showtraceback(self, etype: type, evalue: BaseException, stb: "list[str]") -> None:
        self.told = True
        flush()
        shown = "\n".join(stb)[-TRACEBACK:]
        message = text_of(evalue)
        line = self.displayhook.line
        line.tell(frames.ERROR, type=etype.__name__, message=message, traceback=shown)

    async def run_code(self, *code: "Any", **how: "Any") -> bool:
        """
        Here the user's own lines begin. An interrupt before that waits for it: IPython takes some
        of those that meet it on its way for errors of callbacks, and goes on.
        """
        self.displayhook.line.begin()
        return bool(await super().run_code(*code, **how))

    def system(self, cmd: str) -> None:
        """`!command`: its output goes where ours goes, at the level of descriptors."""
        import subprocess

        flush()
        command = self.var_expand(cmd, depth=1)
        self.user_ns["_exit_code"] = subprocess.call(command, shell=True)  # noqa: S602 - asked for

    system_raw = system_piped = system

    def getoutput(self, cmd: str, split: bool = True, depth: int = 0) -> "Any":  # noqa: FBT001, FBT002 - IPython's
        """`lines = !command`."""
        import subprocess

        from IPython.utils.text import SList

        found = subprocess.run(  # noqa: PLW1510, S602 - as IPython has it
            self.var_expand(cmd, depth=depth + 1),
            shell=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.user_ns["_exit_code"] = found.returncode
        text = found.stdout.decode(errors="replace")
        return SList(text.splitlines()) if split else text


def configuration() -> Config:
    """No history file, no colours, no guesses of a type checker, pictures in both forms."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.banner1 = ""
    config.InteractiveShell.autocall = 0
    config.InteractiveShell.display_page = True
    config.Completer.use_jedi = False
    config.IPCompleter.use_jedi = False
    config.InlineBackend.figure_formats = {"png", "svg"}
    return config


def build() -> Shell:
    """The one that all sessions are forked from."""
    shell = Shell(config=configuration(), displayhook_class=Hook, display_pub_class=Publisher)
    InteractiveShell._instance = shell  # noqa: SLF001 - what `get_ipython` looks for
    Shell._instance = shell  # noqa: SLF001
    nowhere = Line(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
    for part in (shell.displayhook, shell.display_pub):
        part.line, part.largest = nowhere, 0
    return shell


class Session:
    """What one interpreter serves its host with: cells, and questions about what it knows."""

    def __init__(self, shell: Shell, line: Line, head: "Head") -> None:
        self._shell, self._line = shell, line
        self._kept = kept_aside()
        self._largest = head["largest"]
        self._network = head["network"]
        for part in (shell.displayhook, shell.display_pub):
            part.line, part.largest = line, head["largest"]

    def serve(self) -> None:
        """One request after the other, until the host is gone."""
        while True:
            try:
                head, blob = self._line.request()
            except EOFError:
                os._exit(0)
            try:
                self._mend()
                do = getattr(self, f"do_{head['do']}")
                answer = do(head, blob.decode("utf-8", "surrogatepass"))
            except (Exception, KeyboardInterrupt) as exc:  # an object that cannot be looked at
                self._fail(exc)
                answer = {}
            if not self._line.ours:
                flush()
                os._exit(0)  # a cell forked, and this is its child
            # With the number, as the program could have answered before us.
            self._line.answer(number=head["number"], **answer)

    def _mend(self) -> None:
        """What the last cell closed or took away, and the next one cannot do without."""
        for fd, kept in enumerate(self._kept):
            try:
                os.fstat(fd)
            except OSError:
                os.dup2(kept, fd)
        for fd, name in enumerate(("stdin", "stdout", "stderr")):
            held = getattr(sys, name, None)
            if held is None or getattr(held, "closed", False):
                made = stream(self._line, fd) if fd else open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
                setattr(sys, name, made)
                setattr(sys, f"__{name}__", made)

    def _fail(self, exc: BaseException) -> None:
        self._line.end()
        message = text_of(exc)
        self._line.tell(frames.ERROR, type=type(exc).__name__, message=message, traceback="")

    def do_run(self, head: "Head", code: str) -> "Head":
        """A cell."""
        before = dict(os.environ) if head["env"] else None
        os.environ.update(head["env"])
        outcome = None
        try:
            outcome = self._cell(code, kept=head["kept"])
            self._line.end()
        except KeyboardInterrupt as exc:  # before the cell, or between it and here
            self._fail(exc)
        finally:
            self._line.end()
            if before is not None:
                os.environ.clear()
                os.environ.update(before)
        flush()
        failure = outcome and (outcome.error_before_exec or outcome.error_in_exec)
        refused = program.refused(failure) if failure else ""
        return {"count": self._shell.execution_count - bool(head["kept"]), "refused": refused}

    def _cell(self, code: str, *, kept: bool) -> "Any":
        flush()
        self._shell.displayhook.kept = kept
        outcome = self._shell.run_cell(code, store_history=kept)
        if isinstance(outcome.error_in_exec, SystemExit):
            note = f"a session goes on; what asked it to end: SystemExit({outcome.error_in_exec})"
            self._line.tell(frames.ERROR, type="SystemExit", message=note, traceback="")
        return outcome

    def do_load(self, head: "Head", code: str) -> "Head":
        """A file in the global scope, as if its lines stood in the first cell."""
        names = self._shell.user_ns
        sys.path[:] = [head["folder"], *(path for path in sys.path if path != head["folder"])]
        names["__file__"] = head["path"]
        try:
            self._line.begin()
            exec(compile(code, head["path"], "exec", dont_inherit=True), names)
        except BaseException as exc:
            self._line.end()
            import traceback

            trace = program.own_lines(exc.__traceback__)
            while trace is not None and trace.tb_frame.f_globals is globals():
                trace = trace.tb_next
            shown = "".join(traceback.format_exception(type(exc), exc, trace))
            message = text_of(exc)
            self._line.tell(
                frames.ERROR, type=type(exc).__name__, message=message, traceback=shown[-TRACEBACK:]
            )
        finally:
            self._line.end()
            names.pop("__file__", None)
            flush()
        return {}

    def do_complete(self, head: "Head", code: str) -> "Head":
        """What could stand at the cursor."""
        with provisionalcompleter():
            found = list(rectify_completions(code, self._completions(code, head["cursor"])))
        matches = list(dict.fromkeys(one.text for one in found))[:1000]
        if not found:
            return {"matches": [], "start": head["cursor"], "end": head["cursor"]}
        return {"matches": matches, "start": found[0].start, "end": found[0].end}

    def _completions(self, code: str, cursor: int) -> "Any":
        return self._shell.Completer.completions(code, cursor)

    def do_inspect(self, head: "Head", code: str) -> "Head":
        """What is known of the name at the cursor."""
        name = token_at_cursor(code, head["cursor"])
        try:
            found = self._shell.object_inspect_mime(name, detail_level=head["detail"])
        except KeyError:
            found = {}
        return {"data": {kind: str(text)[:MOST_TEXT] for kind, text in found.items()}}

    def do_is_complete(self, head: "Head", code: str) -> "Head":
        """Whether a line more is expected."""
        status, indent = self._shell.check_complete(code)
        return {"status": status, "indent": indent}

    def do_variables(self, head: "Head", code: str) -> "Head":
        """What the user has named."""
        found = variables(self._shell.user_ns, self._shell.user_ns_hidden)
        return {"variables": found}


def encoded(bundle: "dict[str, Any]") -> dict[str, str]:
    """Every representation as text: images in base64, structures as JSON."""
    made = {}
    for media, data in bundle.items():
        if isinstance(data, bytes):
            made[media] = base64.b64encode(data).decode()
        elif isinstance(data, str):
            made[media] = data
        else:
            made[media] = json.dumps(data, default=repr)
    return made


def as_value(result: object, bundle: "dict[str, Any]", largest: int) -> tuple[bytes, str]:
    """As JSON where it has such a form, else as it was shown."""
    if (blob := json_of(result, largest)) is not None:
        return blob, "application/json"
    return str(bundle.get("text/plain", ""))[:MOST_TEXT].encode("utf-8", "replace"), "text/plain"


def show(
    tell: "Any",
    bundle: dict[str, str],
    metadata: "dict[str, Any]",
    largest: int,
    **head: "Any",
) -> None:
    """One display, unless the host would not take it."""
    flush()
    if not largest:
        return  # nobody listens yet
    said = {**head, "metadata": metadata} if metadata else head
    blob = json.dumps(bundle).encode("utf-8", "replace")
    if len(blob) > largest:
        raise ValueError(f"the display is {len(blob)} bytes long, the limit is {largest}")
    tell(frames.DISPLAY, blob, **said)


def flush() -> None:
    """What Python still holds for stdout and stderr."""
    for held in (sys.stdout, sys.stderr):
        try:
            held.flush()
        except Exception:
            pass  # closed or replaced by the user


def refuse_stdin(*_: object, **__: object) -> str:
    """In place of `input` and `getpass`."""
    __tracebackhide__ = True
    raise EOFError(NO_STDIN)


def refuse_installing(*_: object) -> None:
    """In place of `%pip`, where there is no network."""
    raise UsageError(NO_NETWORK)


def rehearse() -> None:
    """What every session does, ahead of it: the memory that it touches is ours from then on."""
    furnish(SHELL)
    for cell in ("1 + 1", "rehearsed = [1]", "del rehearsed"):
        SHELL.run_cell(cell, store_history=False)
    SHELL.user_ns.pop("_", None)
    program.flush()


def main(head: "Head") -> None:
    """In a process of our own, which the keeper has forked: become a session's interpreter."""
    hidden = min(HIDDEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1)
    os.dup2(CHANNEL, hidden, inheritable=False)
    os.close(CHANNEL)
    signals.signal(signals.SIGPIPE, signals.SIG_IGN)
    line = Line(hidden)
    sys.stdout, sys.stderr = stream(line, 1), stream(line, 2)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    sys.__stdout__, sys.__stderr__, sys.__stdin__ = sys.stdout, sys.stderr, sys.stdin  # type: ignore[misc]
    furnish(SHELL)
    if not head["network"]:
        for name in ("pip", "uv", "conda", "mamba", "micromamba"):
            SHELL.register_magic_function(refuse_installing, "line", name)
    program.reseed()
    line.listen()
    line.send(frames.READY, b"{}")
    Session(SHELL, line, head).serve()


def kept_aside() -> list[int]:
    """Our 0, 1 and 2 once more, where the least is closed by mistake."""
    below = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 4
    return [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, min(HIDDEN + 1, below)) for fd in range(3)]


def furnish(shell: Shell) -> None:
    """What only a session's own process can set up."""
    builtins.input = getpass.getpass = refuse_stdin
    shell.init_sys_modules()
    sys.path[:] = ["", *sys.path]
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    shell.set_hook("show_in_pager", page, 0)
    for beginning in ("To exit: use", "Output cache limit"):  # advice for who sits at a terminal
        warnings.filterwarnings("ignore", beginning, UserWarning)


def page(shell: Shell, data: "Any", start: int = 0, screen_lines: int = 0) -> None:
    """`name?`: shown like anything else, as there is no pager."""
    bundle: Head = data if isinstance(data, dict) else {"text/plain": str(data)}
    bundle = bundle.get("data", bundle)
    shell.display_pub.publish({"text/plain": str(bundle.get("text/plain", ""))})


SHELL = build()
for rehearsal in ("1 + 1", "1 / 0"):
    SHELL.run_cell(rehearsal, store_history=False)
