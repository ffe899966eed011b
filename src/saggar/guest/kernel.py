"""
The kernel: ipykernel as it is, on sockets that the host made.

Imported in the fork server, so that a kernel costs a fork and what it sets up for itself. To import
zmq there is harmless; a context is not, and is made in the child only: what forks while it holds
one stands still sooner or later. The sockets listen already; nothing in here has a path to the
host.
"""
# ruff: noqa: E402 - one import has to look as if it failed, before the others

import _signal as signals  # type: ignore[import-not-found]  # no enum: it costs milliseconds
import asyncio
import atexit
import contextlib
import fcntl
import logging
import os
import resource
import select
import struct
import subprocess
import sys
import termios
import threading
import time
import traceback

sys.modules["debugpy"] = None  # type: ignore[assignment]  # nobody could reach it; 0.1 s of imports
import ipykernel.debugger  # noqa: F401 - for what it learns

del sys.modules["debugpy"]

import zmq
from ipykernel.control import ControlThread
from ipykernel.displayhook import ZMQDisplayHook
from ipykernel.heartbeat import Heartbeat
from ipykernel.iostream import IOPubThread, OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.shellchannel import ShellChannelThread
from ipykernel.zmqshell import ZMQDisplayPublisher, ZMQInteractiveShell, ZMQShellDisplayHook
from IPython.core.error import UsageError
from traitlets import Type
from traitlets.config import Config
from zmq.eventloop.zmqstream import ZMQStream

from saggar.guest import program, shown

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
FIRST = 3
"""The descriptors from here on listen, one for each channel in this order."""
KEPT = 200
"""Where they are kept: programs close the low numbers."""
ASKED = "saggar"
"""Where, in the metadata of a message, stands what Jupyter has no word for."""
LINGER = 1000
PIECE = 1 << 18
"""Characters of output in one message: the host drops what is too long, whole."""
MOST_TRACEBACK = 1 << 18
PATIENCE = 0.1
"""Seconds that output of C code and children is waited for, where it does not stop."""
COUNT = struct.Struct("i")
NO_STDIN = "nobody can answer: a session has no stdin; pass what it asks for as a value"
NO_NETWORK = (
    "packages cannot be installed here: this sandbox has no network; name them when it is opened,"
    " Environment(packages=(...))"
)

LATER = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "faulthandler",
    "tornado.platform.asyncio",
    "unicodedata",
)
"""What a kernel imports as it starts, or at its first cell: better here, once."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Head = dict[str, Any]


def listen(socket: "Any", fd: int) -> None:
    """Give a socket of zmq's the descriptor that listens already; the address is for show."""
    socket.setsockopt(zmq.USE_FD, fd)
    socket.bind(f"ipc://descriptor-{fd}")


class Pulse(Heartbeat):
    """The heartbeat, on a descriptor."""

    def _try_bind_socket(self) -> None:
        listen(self.socket, self.port)


class Publisher(IOPubThread):
    """What is published; children of ours that print reach it without a network."""

    def _setup_pipe_in(self) -> None:
        self._pipe_uuid = os.urandom(16)
        self._pipe_port = f"ipc://{os.environ.get('TMPDIR', '/tmp')}/.iopub-{os.getpid()}"
        inlet = self.socket.context.socket(zmq.PULL)
        inlet.linger = 0
        try:
            inlet.bind(self._pipe_port)
        except zmq.ZMQError:  # no sockets of this family here: what children print is lost
            self._pipe_flag = False
            inlet.close()
            return
        self._pipe_in = ZMQStream(inlet, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self) -> "Any":
        context = zmq.Context()
        outlet = context.socket(zmq.PUSH)
        outlet.linger = 3 * LINGER
        outlet.connect(self._pipe_port)
        return context, outlet


class Stream(OutStream):
    """
    stdout or stderr: in pieces, and published only, not repeated where nobody looks.

    What C code and children write comes through a pipe of ipykernel's; here it is taken in before
    anything is written after it, and before the end of a cell.
    """

    def __init__(self, *words: "Any", **named: "Any") -> None:
        self._taking = threading.Lock()
        self._process = os.getpid()
        super().__init__(*words, **named)

    def write(self, string: str) -> "int | None":
        """After what is in the pipe already."""
        if threading.current_thread() is not self.watch_fd_thread:
            self.take_in()
        written: int | None = super().write(string)
        return written

    def take_in(self) -> None:
        """Wait until what lies in the pipe is ours; not for whoever writes there without end."""
        if os.getpid() != self._process:
            return
        until = time.monotonic() + PATIENCE
        while self._lying() and time.monotonic() < until:
            time.sleep(0.0001)
        with self._taking:
            pass  # it was read; now it is written, too

    def _lying(self) -> int:
        found: int = COUNT.unpack(fcntl.ioctl(self._fid, termios.FIONREAD, b"\0\0\0\0"))[0]
        return found

    def _flush_buffers(self) -> "Iterator[tuple[Any, str]]":
        for parent, text in super()._flush_buffers():
            for start in range(0, len(text), PIECE):
                yield parent, text[start : start + PIECE]

    def _watch_pipe_fd(self) -> None:
        try:
            while select.select([self._fid], [], []):
                with self._taking:
                    said = os.read(self._fid, PIECE)
                    if not said or not self._should_watch:
                        return
                    self.write(said.decode(errors="replace"))
        except Exception:
            self._exc = sys.exc_info()


class Hook(ZMQShellDisplayHook):
    """The value of a cell's last expression; for a session as JSON beside what is shown."""

    def __call__(self, result: object = None) -> None:
        """Where IPython would print it."""
        self._result = result
        self.shell.kernel.mend_streams()
        try:
            super().__call__(result)
        finally:
            self._result = None

    def update_user_ns(self, result: object) -> None:
        """Its value in `_` and `Out`, if that is to be kept."""
        if self.shell.kernel.asked.get("kept", True):
            super().update_user_ns(result)

    def write_format_data(self, format_dict: "Head", md_dict: "Head | None" = None) -> None:
        """Into the message that goes out."""
        asked = self.shell.kernel.asked
        refuse_large(format_dict, asked)
        super().write_format_data(format_dict, md_dict)
        if asked and (blob := shown.json_of(self._result, asked["largest"])) is not None:
            self.msg["metadata"][ASKED] = {"value": blob.decode()}


class Displays(ZMQDisplayPublisher):
    """`display()`."""

    def publish(self, data: "Head", *words: "Any", **named: "Any") -> None:
        """A mime bundle, unless the host would not take it."""
        refuse_large(data, self.shell.kernel.asked)
        super().publish(data, *words, **named)


class Shell(ZMQInteractiveShell):
    """IPython's shell for kernels, without files of its own."""

    db: "dict[str, Any]" = {}  # type: ignore[assignment, unused-ignore]  # noqa: RUF012 - one process, one shell
    """What magics such as `%cd` remember, for as long as the session lives."""
    displayhook_class = Type(Hook)
    display_pub_class = Type(Displays)
    stays = False
    """Whether `exit` in a cell leaves the kernel alive."""

    def init_ipython_dir(self, ipython_dir: str) -> None:
        """Nothing is kept."""

    def init_profile_dir(self, profile_dir: object) -> None:
        """Nothing is kept."""

    def init_virtualenv(self) -> None:
        """The environment is what it is."""

    def ask_exit(self) -> None:
        """`exit` in a cell."""
        if self.stays:
            raise SystemExit
        super().ask_exit()

    def _get_exc_info(self, exc_tuple: "Any" = None) -> "Any":
        kind, value, trace = super()._get_exc_info(exc_tuple)
        return kind, value, shown.without_ours(trace)

    def _showtraceback(self, etype: type, evalue: BaseException, stb: "list[str]") -> None:
        """As ever, but not without an end."""
        self.kernel.mend_streams()
        lines = [shortened(line) for line in stb]
        super()._showtraceback(etype, shown.text_of(evalue), lines)

    def system(self, cmd: str) -> None:
        """`!command`: its output goes where ours goes; there are no terminals here."""
        command = self.var_expand(cmd, depth=1)
        self.user_ns["_exit_code"] = subprocess.call(command, shell=True)  # noqa: S602 - the user's

    system_raw = system_piped = system


class Kernel(IPythonKernel):
    """ipykernel's own, with what a session asks beside it: variables, files to load, values."""

    shell_class = Type(Shell)

    def __init__(self, **named: "Any") -> None:
        self._process = os.getpid()
        self.asked: Head = {}
        super().__init__(**named)
        self.shell_handlers["variables_request"] = self.variables_request

    async def do_execute(
        self, code: str, silent: "Any", *rest: "Any", cell_meta: "Any" = None, **named: "Any"
    ) -> "Head":
        """A cell, with what the host says of it."""
        self.asked = (cell_meta or {}).get(ASKED) or {}
        env = self.asked.get("env") or {}
        before = dict(os.environ) if env else None
        os.environ.update(env)
        try:
            if "path" in self.asked:
                return self._load(code)
            named["cell_meta"] = cell_meta
            reply: Head = await super().do_execute(code, silent, *rest, **named)
        finally:
            if os.getpid() != self._process:
                sys.stdout.flush()
                os._exit(0)  # a cell forked, and this is its child
            self.mend_streams()
            for stream in (self._stdout, self._stderr):
                stream.take_in()
                if stream not in {sys.stdout, sys.stderr}:
                    stream.flush()
            if before is not None:
                os.environ.clear()
                os.environ.update(before)
        if reply["status"] == "error":
            reply["evalue"] = shortened(reply["evalue"])[: shown.MOST_TEXT]
            failure = getattr(sys, "last_value", None)
            reply["refused"] = program.refused(failure) if failure is not None else ""
        return reply

    async def execute_request(self, stream: "Any", ident: "Any", parent: "Head") -> None:
        """Answered even where an interrupt comes just before the cell, or after it."""
        try:
            await super().execute_request(stream, ident, parent)
        except KeyboardInterrupt:
            reply = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
            self.session.send(stream, "execute_reply", reply, parent, ident=ident)

    def do_complete(self, code: str, cursor_pos: "int | None") -> "Head":
        """What could stand there; nothing where an object cannot be looked at."""
        try:
            found: Head = super().do_complete(code, cursor_pos)
        except BaseException:
            place = len(code) if cursor_pos is None else cursor_pos
            found = {"matches": [], "cursor_start": place, "cursor_end": place, "metadata": {}}
        return {"status": "ok", **found}

    def do_inspect(self, *words: "Any", **named: "Any") -> "Head":
        """What is known of a name; nothing where an object cannot be looked at."""
        try:
            found: Head = super().do_inspect(*words, **named)
        except BaseException:
            found = {"status": "ok", "found": False, "data": {}, "metadata": {}}
        return found

    def raw_input(self, prompt: object = "") -> str:
        """`input`; nobody can answer in a session."""
        if self.asked:
            __tracebackhide__ = True
            raise EOFError(NO_STDIN)
        said: str = super().raw_input(prompt)
        return said

    def getpass(self, prompt: str = "", stream: object = None) -> str:
        """`getpass`; as above."""
        if self.asked:
            __tracebackhide__ = True
            raise EOFError(NO_STDIN)
        said: str = super().getpass(prompt, stream)
        return said

    def mend_streams(self) -> None:
        """A cell may have put something there that is none: ipykernel would stumble over it."""
        for name, ours in (("stdout", self._stdout), ("stderr", self._stderr)):
            try:
                getattr(sys, name).flush()
            except Exception:
                setattr(sys, name, ours)

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: "Any") -> "Iterator[None]":
        """What awaits is told even where nothing else would wake the loop."""
        loop = asyncio.get_running_loop()

        def cancel(*_: object) -> None:
            loop.call_soon_threadsafe(future.cancel)

        before = signals.signal(signals.SIGINT, cancel)
        try:
            yield
        finally:
            signals.signal(signals.SIGINT, before)

    def _load(self, code: str) -> "Head":
        """A file in the global scope, as if its lines stood in the first cell."""
        path, folder = self.asked["path"], self.asked["folder"]
        names = self.shell.user_ns
        sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]
        names["__file__"] = path
        reply: Head = {"status": "ok", "execution_count": 0, "user_expressions": {}, "payload": []}
        try:
            exec(compile(code, path, "exec", dont_inherit=True), names)
        except BaseException as exc:
            trace = shown.without_ours(exc.__traceback__)
            lines = "".join(traceback.format_exception(type(exc), exc, trace))
            self.shell._showtraceback(type(exc), exc, [lines])  # noqa: SLF001 - IPython's
            name, message = type(exc).__name__, shown.text_of(exc)
            reply |= {"status": "error", "ename": name, "evalue": message, "traceback": []}
        finally:
            names.pop("__file__", None)
        return reply

    async def variables_request(self, stream: "Any", ident: "Any", parent: "Head") -> None:
        """What the user has named; Jupyter has no question for it."""
        found = shown.variables(self.shell.user_ns, self.shell.user_ns_hidden)
        self.session.send(stream, "variables_reply", {"variables": found}, parent, ident=ident)


class App(IPKernelApp):
    """ipykernel's application on descriptors instead of ports, and without files."""

    kernel_class = Type(Kernel)

    def initialize(self, argv: object = None) -> None:
        """All but its files: configuration, profile, startup scripts, connection file."""
        self.init_pdb()
        self.init_sockets()
        self.init_heartbeat()
        self.init_io()
        self.init_signal()
        self.init_kernel()
        self.init_shell()
        sys.stdout.flush()
        sys.stderr.flush()

    def _bind_socket(self, s: "Any", port: int) -> int:
        listen(s, port)
        return port

    def init_control(self, context: "Any") -> None:
        """Without the debugger's way to the shell channel: it would try to connect for ever."""
        self.control_socket = context.socket(zmq.ROUTER)
        self.control_socket.linger = LINGER
        self.control_socket.router_handover = 1
        self._bind_socket(self.control_socket, self.control_port)
        self.debugpy_socket = context.socket(zmq.STREAM)
        self.debug_shell_socket = context.socket(zmq.DEALER)
        self.control_thread = ControlThread(daemon=True)
        self.shell_channel_thread = ShellChannelThread(context, daemon=True)

    def init_iopub(self, context: "Any") -> None:
        """What nobody has read yet is kept here, on the kernel's account, and not dropped."""
        self.iopub_socket = context.socket(zmq.XPUB)
        self.iopub_socket.linger = LINGER
        self.iopub_socket.sndhwm = 0
        self._bind_socket(self.iopub_socket, self.iopub_port)
        logging.getLogger("tornado").addHandler(logging.StreamHandler())
        self.iopub_thread = Publisher(self.iopub_socket, pipe=True, session=self.session)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_io(self) -> None:
        """What is written goes out by our own streams."""
        sys.stdout = Stream(self.session, self.iopub_thread, "stdout")
        sys.stderr = Stream(self.session, self.iopub_thread, "stderr")
        self.displayhook = ZMQDisplayHook(self.session, self.iopub_socket)
        sys.displayhook = self.displayhook
        self.patch_io()

    def init_heartbeat(self) -> None:
        """On a context of its own: it beats while the others are held."""
        self.heartbeat = Pulse(zmq.Context(), ("ipc", "", self.hb_port))
        self.heartbeat.start()


def configuration(*, session: bool) -> Config:
    """History in memory; for a session what its shell has: no colours, pictures in both forms."""
    config = Config()
    config.HistoryManager.enabled = not session
    config.HistoryManager.hist_file = ":memory:"
    if session:
        # The host waits for the end of what is published.
        config.Kernel._execute_sleep = 0.0  # noqa: SLF001 - its name
        config.InteractiveShell.colors = "nocolor"
        config.InteractiveShell.autocall = 0
        config.Completer.use_jedi = False
        config.IPCompleter.use_jedi = False
        config.InlineBackend.figure_formats = {"png", "svg"}
    return config


def shortened(line: str) -> str:
    """A line of a traceback, or its beginning, as text that can be sent."""
    kept = line if len(line) <= MOST_TRACEBACK else f"{line[:MOST_TRACEBACK]}..."
    return shown.writable(kept)


def refuse_large(bundle: "Head", asked: "Head") -> None:
    """Nothing is shown in a session that its host would drop."""
    if asked:
        size = sum(len(one) for one in bundle.values() if isinstance(one, (str, bytes)))
        if size > asked["largest"]:
            raise ValueError(f"the display is {size} bytes long, the limit is {asked['largest']}")


def refuse_installing(*_: object) -> None:
    """In place of `%pip`, where there is no network."""
    raise UsageError(NO_NETWORK)


def furnish(app: App, head: "Head") -> None:
    """What only the kernel's own process can set up."""
    shell = app.shell
    shell.stays = head["session"]
    if not head["network"]:
        for name in ("pip", "uv", "conda", "mamba", "micromamba"):
            shell.register_magic_function(refuse_installing, "line", name)


def adopt() -> "list[int]":
    """The listening descriptors, out of the way of programs."""
    kept = []
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(CHANNELS)
    for number in range(FIRST, FIRST + len(CHANNELS)):
        kept.append(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, min(KEPT, highest)))
        os.close(number)
    return kept


def main(head: "Head") -> None:
    """In a process of our own, which the keeper has forked: become a kernel."""
    try:
        app = build(head)
        app.start()
        atexit._run_exitfuncs()  # noqa: SLF001 - the answer to a request to end is given there
    except BaseException:  # the edge: the host reads what we could not become
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        os._exit(1)
    os._exit(0)


def build(head: "Head") -> App:
    """The application, with all that it listens on."""
    ports = dict(zip(CHANNELS, adopt(), strict=True))
    signals.signal(signals.SIGPIPE, signals.SIG_IGN)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    sys.path[:] = ["", *sys.path]
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    program.reseed()
    app = App(config=configuration(session=head["session"]))
    for name, port in ports.items():
        setattr(app, f"{name}_port", port)
    app.transport, app.ip = "ipc", "descriptor"
    app.session.key = head["key"].encode()
    app.initialize()
    furnish(app, head)
    return app


for later in LATER:
    try:
        __import__(later)
    except ImportError:
        pass  # of a version of theirs that has no need of it
