"""
The console script: which command is meant, and what becomes of its errors.

Each command is a module with `main(words) -> exit code`, imported when it is called: a run must
not pay for what only a bench needs.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import saggar
from saggar.errors import NotFound, PrepareFailed, SaggarError, UsageError

COMMANDS = {
    "run": "run a program behind walls and pass on what it prints",
    "doctor": "what each driver can enforce on this machine, why not, and what to do",
    "gc": "remove what a killed process left behind",
    "bench": "the numbers, beside what one would use instead",
}
USAGE, OURS, INTERRUPTED, READER_GONE = 2, 70, 130, 141

HELP = """\
usage: saggar COMMAND [OPTION...]

Run code you did not write behind real walls, on machines you own.

{commands}

  saggar run -c 'print(6 * 7)'
  saggar run analyse.py --input data.csv --output summary.csv --wall 5s --memory 256MiB
  saggar COMMAND --help

The exit code of a run is the program's own; 124 for a timeout, 137 when it was killed or met its
limit of memory or output, 2 for a mistake in the call, 70 when the platform failed, 130 and 143
when the run was cancelled by Ctrl-C or SIGTERM.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Never raises but for `SystemExit`."""
    occupy_standard_streams()
    try:
        code = dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return reader_gone()
    except Exception as exc:  # noqa: BLE001  (the edge: nobody above us could do better)
        code = explain(exc)
    if argv is None and sys.argv[1:2] == ["run"]:
        # All that was open is closed. Taking the interpreter apart would take longer than the run.
        os._exit(code)
    return code


def dispatch(words: list[str]) -> int:
    """What the first word asks for."""
    match words:
        case []:
            sys.stderr.write(overview())
            return USAGE
        case ["-h" | "--help" | "help", *_]:
            sys.stdout.write(overview())
            return 0
        case ["-V" | "--version" | "version", *_]:
            print(f"saggar {saggar.__version__}")
            return 0
        case [command, *rest] if command in COMMANDS:
            # Plugins of pydantic's are searched for in every installed package, for nothing.
            os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
            code: int = import_module(f"saggar.cli.{command}").main(rest)
            return code
        case [option, *_] if option.startswith("-"):
            raise UsageError(f"options go after the command: saggar COMMAND {option}")
        case [path, *_] if os.path.isfile(path):
            raise UsageError(f"no command named {path!r}; did you mean saggar run {path}?")
    raise NotFound.among("command", words[0], COMMANDS)


def explain(exc: BaseException) -> int:
    """Say what went wrong in one line, and which exit code that is."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    if isinstance(exc, PrepareFailed) and exc.log:
        complain("\n".join(["the installer's last words:", *exc.log.splitlines()[-20:]]))
    if isinstance(exc, SaggarError):
        complain(str(exc))
        return USAGE if isinstance(exc, UsageError) else OURS
    complain(f"a mistake of ours: {type(exc).__name__}: {exc} ({origin(exc)})")
    return OURS


def complain(text: str) -> None:
    """A line for the person at the terminal. One that nobody can read is no reason to fail."""
    line = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    try:
        sys.stderr.write(f"saggar: {line}\n")
        sys.stderr.flush()
    except OSError:
        pass


def origin(exc: BaseException) -> str:
    """The file and line that raised."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "nowhere"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"


def reader_gone() -> int:
    """Whoever read our output has left: leave quietly, as `head` expects of everybody."""
    # The interpreter flushes stdout as it ends, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return READER_GONE


def occupy_standard_streams() -> None:
    """Descriptors 0 to 2 are open: else a pipe of ours lands there, and gets the guest's output."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            stream = open(fd, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 (for good)
            setattr(sys, name, stream)


def overview() -> str:
    """What `saggar --help` shows."""
    lines = (f"  {name:<9}{summary}" for name, summary in COMMANDS.items())
    return HELP.format(commands="\n".join(lines))
