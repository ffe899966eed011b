"""
A call in a forked copy of this process, which is killed when its time is over.

The copy says what came of it in one frame: a kind, a length, and JSON. Its end is seen as well: a
pipe alone tells nothing while some other copy, forked meanwhile, still holds its other end.
"""

import asyncio
import ctypes
import errno
import inspect
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, NoReturn
from warnings import filterwarnings

from pydantic_core import from_json

from saggar.errors import ExecutionFailed, InvalidOutput, InvalidTask, PlatformError
from saggar.functions.executor import named
from saggar.model.codec import Payload

SLICE: Final = 0.05
"""Seconds of waiting at once: a cancellation, or a deadline around this call, comes in between."""
VALUE, FAILURE, MISFIT = b"v", b"e", b"o"
_HEAD: Final = 9
"""Bytes of a kind and a length."""
_SET_PARENT_DEATH_SIGNAL: Final = 1
_PIDFD_SIGNAL_PROCESS_GROUP: Final = 1 << 2

_libc = ctypes.CDLL(None)
# The copy runs one function of the caller's, who asked for exactly this.
filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning, __name__)


def call(
    function: Callable[[Any], Any],
    argument: Any,
    *,
    timeout: float,
    lower: Callable[[Any], Any],
    check: Callable[[], None] | None = None,
) -> Any:
    """
    The answer of `function`, lowered to its JSON form.

    `check` is called now and then, to give up by raising.

    Raises:
        TimeoutError: It took longer than `timeout` seconds.
        ExecutionFailed: It raised, or its process ended without an answer.
        InvalidOutput: The answer has no JSON form.
    """
    ours, theirs = os.pipe()
    try:
        try:
            pid = _fork()
            if pid == 0:
                _answer_and_end(function, argument, lower, theirs)
        finally:
            os.close(theirs)
        return _opened(_heard(pid, ours, time.monotonic() + timeout, check))
    finally:
        os.close(ours)


def _fork() -> int:
    _flush()  # else both would write what waits there
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as exc:
        raise PlatformError(f"this machine has no room for a process now: {exc}") from exc
    if pid == 0:
        _libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we could ask for that
            os._exit(1)
    return pid


def _answer_and_end(
    function: Callable[[Any], Any], argument: Any, lower: Callable[[Any], Any], pipe: int
) -> NoReturn:
    """In the copy. It must never go on as if it were the parent, whatever happens here."""
    try:
        os.setpgid(0, 0)
        kind, data = _answer(function, argument, lower)
        _flush()
        with open(pipe, "wb", closefd=False) as file:
            file.write(kind + len(data).to_bytes(_HEAD - 1, "big") + data)
    finally:
        os._exit(0)


def _answer(
    function: Callable[[Any], Any], argument: Any, lower: Callable[[Any], Any]
) -> tuple[bytes, bytes]:
    try:
        answer = function(argument)
        if inspect.isawaitable(answer):
            answer = asyncio.run(_awaited(answer))
    except BaseException as exc:  # noqa: BLE001 - a copy that is told to exit failed as well
        return FAILURE, _text(named(exc), "".join(traceback.format_exception(exc)))
    try:
        return VALUE, Payload.json(lower(answer)).data
    except InvalidTask as exc:
        return MISFIT, _text(str(exc).removeprefix("input: ").removeprefix("input "))
    except ValueError as exc:
        return MISFIT, _text(str(exc))
    except BaseException as exc:  # noqa: BLE001 - no memory for it, say
        return FAILURE, _text(named(exc))


def _text(*texts: str) -> bytes:
    # A lone surrogate would make what we say no JSON.
    kept = [text.encode(errors="backslashreplace").decode()[:10_000] for text in texts]
    return json.dumps(kept).encode()


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def _opened(said: bytes) -> Any:
    """The answer in a frame, or the failure it tells of."""
    try:
        value = from_json(memoryview(said)[_HEAD:].tobytes())
    except ValueError as exc:
        raise InvalidOutput(None, str(exc)) from None
    match said[:1]:
        case b"v":
            return value
        case b"o":
            raise InvalidOutput(None, value[0])
    failure = ExecutionFailed(None, value[0])
    failure.add_note("".join(["in the forked process:\n", *value[1:]]))
    raise failure


def _heard(pid: int, pipe: int, deadline: float, check: Callable[[], None] | None) -> bytes:
    """What the process said. It is gone afterwards, and whatever it left in its group."""
    said = bytearray()
    # Of a child of ours that nobody has reaped the number is nobody else's yet; then the handle is.
    process = _handle(pid)
    try:
        waiting = select.poll()
        for source in (pipe, process):
            if source is not None:
                waiting.register(source, select.POLLIN)
        while not _whole(said):
            if check is not None:
                check()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            ready = [source for source, _ in waiting.poll(min(left, SLICE) * 1000)]
            if not ready:
                continue
            chunk = os.read(pipe, 1 << 20) if pipe in ready else b""
            if not chunk:
                break  # it is dead, and all that it said is read
            said += chunk
    finally:
        how = ""
        if process is not None:
            how = _end(pid, process)
            os.close(process)
    if not _whole(said):
        raise ExecutionFailed(None, f"the forked process ended without an answer{how}")
    return bytes(said)


def _handle(pid: int) -> int | None:
    """One that stays this process's; None if it is gone and reaped, where SIGCHLD is ignored."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as exc:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it was forked a moment ago
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise PlatformError(f"this machine has no room for a process now: {exc}") from exc


def _whole(said: bytearray) -> bool:
    return len(said) >= _HEAD and len(said) - _HEAD >= int.from_bytes(said[1:_HEAD], "big")


def _end(pid: int, process: int) -> str:
    """Kill what is left of a forked process and its group; how it had ended."""
    with suppress(ProcessLookupError, PermissionError):
        _strike_group(pid, process)
    with suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(process, signal.SIGKILL)  # it may have had no time to make a group
    try:
        ended = os.waitid(os.P_PIDFD, process, os.WEXITED)
    except ChildProcessError:  # reaped for us, where SIGCHLD is ignored
        return ""
    if ended is None or ended.si_code == os.CLD_EXITED:
        return f", exit code {ended.si_status if ended else 0}"
    return f", killed by signal {ended.si_status}"


def _strike_group(pid: int, process: int) -> None:
    """By its handle; before Linux 6.9 by its number, if the kernel says that it is still ours."""
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL, None, _PIDFD_SIGNAL_PROCESS_GROUP)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        with suppress(ChildProcessError):  # reaped by somebody else: the number may be, too
            os.waitid(os.P_PIDFD, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.kill(-pid, signal.SIGKILL)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # none, closed, or somebody's own
            stream.flush()
