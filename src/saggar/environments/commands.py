"""
Commands: every program of the host's that this room starts, and what is heard of it.

One way for all of them, so that none is left behind at work, none waits for ever, and what an
installer says reaches the log line by line, without the passwords that it was told.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, Process

from saggar.errors import PrepareFailed

TIMEOUT: Final = 300.0
"""Seconds, where nobody says otherwise."""
LOG_KEPT: Final = 64 << 10
"""Characters of the log: its last ones."""
OUTPUT_KEPT: Final = 32 << 20
"""Bytes of an answer; one that is longer is none."""
_LONGEST_LINE: Final = 8 << 10
_SECRET: Final = re.compile(r"(?i)(token|password|passwd|secret|credential|api_?key)")
_SHORTEST_SECRET: Final = 6
_NOTHING: Final[Mapping[str, str]] = {}
_LEASHED: Final = """\
exec 3<&0 </dev/null
(read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 &
exec 3<&-
unset PWD OLDPWD SHLVL
exec "$@"
"""
"""
A program in whose group somebody waits for our end: its stdin is a pipe that only we hold open.

A kill of ours reaches it so as well, and whom it has started; a signal for the death of a parent
would reach it alone, and needs code of ours in a child that threads were forked into.
"""

_logger = logging.getLogger("saggar.environments")


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments, and what is around it."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """All of it: nothing of ours is passed on by itself."""
    cwd: Path | None = None
    timeout: float = TIMEOUT
    keeps: tuple[int, ...] = ()
    """Descriptors that it inherits: a lock that shall last for as long as it is at work."""
    hear: Callable[[str], None] | None = None
    """Is called with each line, of either stream, as it comes."""

    @property
    def name(self) -> str:
        """What people call it."""
        return os.path.basename(self.argv[0])


@dataclass(frozen=True, slots=True)
class Said:
    """What a command has printed, with everything secret taken out of the log."""

    code: int
    output: bytes
    """Its stdout."""
    log: str
    """Both streams, the last part if it is much."""


async def run(command: Command, explain: Callable[[str], str]) -> Said:
    """
    Run a command to its end.

    `explain` makes a message for people from the log of one that failed.

    Raises:
        PrepareFailed: It cannot be started, failed, or took too long; with the log.
    """
    said = await attempt(command)
    if said.code != 0:
        raise PrepareFailed(explain(said.log) or f"{command.name} ended with {said.code}", said.log)
    return said


async def attempt(command: Command) -> Said:
    """
    The same, where one that fails has something to say as well.

    Raises:
        PrepareFailed: It cannot be started, or took too long.
    """
    leash, ours = os.pipe()
    try:
        process = await _started(command, leash)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(leash)
    listener = _Listener(command, _secrets(command.env))
    try:
        with anyio.move_on_after(command.timeout) as deadline:
            async with anyio.create_task_group() as ears:
                ears.start_soon(listener.attend, process.stdout, True)
                ears.start_soon(listener.attend, process.stderr, False)
                await process.wait()
                # What it left behind has the pipes open, and nobody would wait for it any more.
                _kill_rest(process.pid)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:  # afterwards the number may be somebody else's
                _kill_tree(process.pid)
            os.close(ours)
            await process.aclose()
    if deadline.cancelled_caught:
        raise PrepareFailed(
            f"{command.name} did not end within {command.timeout:g} s", listener.log
        )
    if listener.too_much:
        raise PrepareFailed(f"{command.name} said more than {OUTPUT_KEPT >> 20} MiB", listener.log)
    assert process.returncode is not None  # noqa: S101 (it was waited for)
    return Said(process.returncode, bytes(listener.output), listener.log)


async def _started(command: Command, leash: int) -> Process:
    _logger.debug("%s: started", command.name)
    first = command.argv[0]
    if shutil.which(first, path=command.env.get("PATH", os.defpath)) is None:
        raise PrepareFailed(f"{first} cannot be started: no such file, or no program")
    try:
        return await anyio.open_process(
            ["/bin/sh", "-c", _LEASHED, command.name, *command.argv],
            cwd=command.cwd,
            env=dict(command.env),
            stdin=leash,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=command.keeps,
            umask=0o022,
            # A group of its own: it is ended as a whole, and Ctrl-C is the caller's to act on.
            start_new_session=True,
        )
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise PrepareFailed(f"{first} cannot be started: {reason.lower()}") from exc


class _Listener:
    """Both streams of one command, line by line."""

    def __init__(self, command: Command, secrets: tuple[str, ...]) -> None:
        self.output = bytearray()
        self.too_much = False
        self._name = command.name
        self._hear = command.hear
        self._secrets = secrets
        self._lines: list[str] = []
        self._size = 0

    @property
    def log(self) -> str:
        """What was said, its last part if it is much."""
        return "".join(f"{line}\n" for line in self._lines)[-LOG_KEPT:]

    async def attend(self, stream: ByteReceiveStream | None, is_output: bool) -> None:  # noqa: FBT001
        """Listen to one of them until it ends."""
        assert stream is not None  # noqa: S101 (asked for above)
        rest = b""
        async for piece in stream:
            if is_output:
                self._keep(piece)
            # A bar that is drawn over itself is a line each time.
            *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                self._line(line)
            rest = rest[-_LONGEST_LINE:]
        self._line(rest)

    def _keep(self, piece: bytes) -> None:
        self.too_much = self.too_much or len(self.output) + len(piece) > OUTPUT_KEPT
        if not self.too_much:
            self.output += piece

    def _line(self, raw: bytes) -> None:
        line = redacted(raw[:_LONGEST_LINE].decode(errors="replace").rstrip(), self._secrets)
        if not line:
            return
        _logger.debug("%s: %s", self._name, line)
        self._lines.append(line)
        self._size += len(line)
        while self._size > 2 * LOG_KEPT:
            self._size -= len(self._lines.pop(0))
        if self._hear is not None:
            self._hear(line)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without these, and without what stands before the @ of a URL."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return re.sub(r"://[^/\s@]+@", "://***@", text)


def _secrets(env: Mapping[str, str]) -> tuple[str, ...]:
    """The values of an environment that no log should show, the longest first."""
    found = {
        value
        for name, value in env.items()
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET
    }
    return tuple(sorted(found, key=len, reverse=True))


def _kill_tree(pid: int) -> None:
    """A process, whom it has started, and whom these have: also who left for his own session."""
    for other in (pid, *_descendants(pid)):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(other, signal.SIGKILL)
    _kill_rest(pid)


def _kill_rest(session: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.isdecimal() and (parent := _parent(entry)):
            children.setdefault(parent, []).append(int(entry))
    found, pending = list[int](), [pid]
    while pending:
        pending += (below := children.get(pending.pop(), []))
        found += below
    return found


def _parent(entry: str) -> int:
    """Whose child a process is; 0 for one that has ended meanwhile."""
    try:
        with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
            # The name before it may hold anything, brackets as well.
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def inherited(*names: str, given: Mapping[str, str] = _NOTHING) -> dict[str, str]:
    """These variables of our own that are set, and what else is given."""
    return {name: os.environ[name] for name in names if name in os.environ} | dict(given)
