"""
The console script: which command is meant, and what becomes of its errors.

Each command is a module with `main(words) -> exit code`, imported when it is called: a run must
not pay for what only a bench needs.
"""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import saggar
from saggar.errors import (
    DriverUnavailable,
    NotFound,
    PlatformError,
    PrepareFailed,
    SaggarError,
    UsageError,
)

COMMANDS = {
    "run": "run a program behind walls and pass on what it prints",
    "exec": "call a function, JSON in, JSON out; or start a program in a live sandbox",
    "shell": "a prompt in a session that remembers; or cells from stdin",
    "open": "keep a sandbox open, for exec, cp and kill",
    "ps": "the live sandboxes and sessions of your processes",
    "kill": "end some of them",
    "cp": "copy files into a live sandbox, or out of one",
    "doctor": "what each driver can enforce on this machine, why not, and what to do",
    "env": "layers of packages, system packages and models: list, show, remove, build ahead",
    "submit": "leave a program to a worker, now or later",
    "jobs": "what was submitted: look, read along, cancel, start anew",
    "dead-letters": "jobs that were given up: look, start anew, forget",
    "serve": "runs and jobs over HTTP",
    "worker": "work off what was submitted",
    "broker": "where jobs wait: its URL, and a prompt there",
    "gc": "remove what a killed process left behind",
    "instance": "one session over HTTP, behind the four endpoints of an executor instance",
    "manager": "many instances over HTTP: allocate, execute, give back",
    "kernelspec": "give Jupyter a kernel that runs behind walls",
    "runpod": "a worker for RunPod's clients: one event, or a server on this machine",
    "bake": "functions and classes by name: a registry, their environments, an image",
    "compose": "a compose file: instances, their manager, and its list of them",
    "deploy": "files for jobs, for compose or Kubernetes: broker, workers, Flower, API",
    "runner": "answer one document of the container protocol, as the runners' images do",
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
        say("")
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
        case ["help", command, *_] if command in COMMANDS:
            return dispatch([command, "--help"])
        case ["-h" | "--help" | "help", *_]:
            say(overview())
            return 0
        case ["-V" | "--version" | "version", *_]:
            say(f"saggar {saggar.__version__}\n")
            return 0
        case [command, *rest] if command in COMMANDS:
            # Plugins of pydantic's are searched for in every installed package, for nothing.
            os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
            code: int = import_module(f"saggar.cli.{command.replace('-', '')}").main(rest)
            return code
        case [option, *_] if near := nearest(option):
            raise UsageError(f"no option {option}; did you mean saggar {near}?")
        case [option, *_] if option.startswith("-"):
            raise UsageError(f"options go after the command: saggar COMMAND {option}")
        case [path, *_] if os.path.isfile(path):
            raise UsageError(f"no command named {path!r}; did you mean saggar run {path}?")
    raise NotFound.among("command", words[0], COMMANDS)


def nearest(option: str) -> str:
    """Which of the options that stand alone was probably meant; empty for none."""
    from difflib import get_close_matches

    near = get_close_matches(option, ["--help", "--version"], n=1, cutoff=0.8)
    return near[0] if near else ""


def explain(exc: BaseException) -> int:
    """Say what went wrong in one line, and which exit code that is."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    if isinstance(exc, PrepareFailed) and exc.log:
        complain("\n".join(["the installer's last words:", *exc.log.splitlines()[-20:]]))
    if isinstance(exc, DriverUnavailable):
        from saggar.cli.request import in_options

        complain(in_options(str(exc)))
        return OURS
    if isinstance(exc, SaggarError):
        complain(str(exc))
        return USAGE if isinstance(exc, UsageError) else OURS
    complain(f"a mistake of ours: {type(exc).__name__}: {exc} ({origin(exc)})")
    return OURS


def say(text: str) -> None:
    """
    Our own answer on stdout, all of it, with what is waiting there.

    Raises:
        BrokenPipeError: The reader has gone.
        PlatformError: It cannot be written, as on a full disk.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        forget_the_rest()
        reason = os.strerror(exc.errno or 0).lower()
        raise PlatformError(f"the answer cannot be written to stdout: {reason}") from exc


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
    forget_the_rest()
    return READER_GONE


def forget_the_rest() -> None:
    """What waits to be written goes nowhere: the interpreter flushes as it ends, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without UTF-8: a mark is lost, not the answer.
        sys.stdout.reconfigure(errors="backslashreplace")


def overview() -> str:
    """What `saggar --help` shows."""
    lines = (f"  {name:<13}{summary}" for name, summary in COMMANDS.items())
    return HELP.format(commands="\n".join(lines))
