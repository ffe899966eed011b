"""Where children are started, and seen to their ends: dead, reaped, their folders gone."""

import os
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from saggar.drivers.interpreter import OPTIONS, bootstrap, bundle, memory_file
from saggar.drivers.process.child import BareProcess, Surroundings, environment_variables
from saggar.drivers.process.folders import make_child_folder, own_folder
from saggar.drivers.process.promises import admit
from saggar.errors import SandboxBroken
from saggar.model.plan import Layer, around
from saggar.model.policy import Policy

REMOVERS = 4
"""Folders removed at once: large ones must not take every thread the engine has."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all children of one nursery stand on."""

    interpreter: str
    site: tuple[str, ...]
    folder: str
    bundle: int
    """A descriptor of the guest's modules."""
    host: tuple[int, ...]
    """A descriptor that becomes readable when this process is dead, where the kernel has any."""
    layers: tuple[Layer, ...]


class ProcessNursery:
    """Starts a child when it is asked for one."""

    def __init__(self, ground: Ground, tasks: TaskGroup) -> None:
        self.alive = True
        self.born = 0
        self._ground = ground
        self._tasks = tasks
        self._removers = anyio.CapacityLimiter(REMOVERS)

    def admit(self, policy: Policy) -> None:
        """Let a policy pass that asks for no more than is kept here. DriverUnavailable if not."""
        admit(policy)

    async def park(self, *, hurried: bool = False) -> BareProcess:  # noqa: ARG002 - always is
        """
        One more child, which waits for its task.

        Raises:
            SandboxBroken: It could not be started, or did not come to where it waits; says why.
        """
        self.born += 1
        try:
            process = self._start(os.path.join(self._ground.folder, str(self.born)))
        except (OSError, subprocess.SubprocessError) as exc:
            raise SandboxBroken(f"cannot start a process: {exc}") from exc
        self._tasks.start_soon(self._tend, process)
        try:
            await process.stand()
        except BaseException:
            process.release()
            raise
        return process

    def _start(self, folder: str) -> BareProcess:
        ground = self._ground
        work, temporary = make_child_folder(folder)
        bare = environment_variables(ground.interpreter, work, temporary)
        environment = around(bare, ground.layers, inside=False)
        with ExitStack() as ours, ExitStack() as theirs:
            control, guardians = _connection(ours, theirs)
            channel, programs = _connection(ours, theirs)
            directory = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            ours.callback(os.close, directory)
            passed = [guardians.fileno(), programs.fileno(), ground.bundle, *ground.host]
            guardian = self._spawn(passed, environment, work)
            ours.pop_all()
        surroundings = Surroundings(folder, work, environment, ground.site)
        return BareProcess(guardian, control, channel, directory, surroundings)

    def _spawn(
        self, passed: Sequence[int], environment: Mapping[str, str], work: str
    ) -> "subprocess.Popen[bytes]":
        interpreter = self._ground.interpreter
        words = ["saggar.guest.guardian", str(self._ground.bundle), *map(str, passed)]
        return subprocess.Popen(
            [interpreter, *OPTIONS, "-c", bootstrap(), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=passed,
            env=environment,
            cwd=work,
            # Ctrl-C in the caller's terminal is the caller's to act on.
            start_new_session=True,
        )

    async def _tend(self, process: BareProcess) -> None:
        """A child's whole life, to the removal of its folder; short when the nursery closes."""
        try:
            await process.end()
            await process.released.wait()
        finally:
            with anyio.CancelScope(shield=True):
                process.release()
                with suppress(RuntimeError):  # no thread to be had: a sweep removes the folder
                    await anyio.to_thread.run_sync(process.bury, limiter=self._removers)
                process.ended.set()


@asynccontextmanager
async def open_nursery(
    interpreter: str, site: tuple[str, ...], layers: tuple[Layer, ...] = ()
) -> AsyncIterator[ProcessNursery]:
    """A nursery for the length of a block; all that came of it ends with the block."""
    with ExitStack() as kept:
        try:
            ground = _ground(interpreter, site, layers, kept)
        except OSError as exc:
            raise SandboxBroken(f"there is no room for a process: {exc}") from exc
        async with anyio.create_task_group() as tasks:
            nursery = ProcessNursery(ground, tasks)
            try:
                yield nursery
            finally:
                nursery.alive = False
                tasks.cancel_scope.cancel()


def _ground(
    interpreter: str, site: tuple[str, ...], layers: tuple[Layer, ...], kept: ExitStack
) -> Ground:
    folder = kept.enter_context(own_folder())
    modules = _bundle_file()
    kept.callback(os.close, modules)
    host = [os.pidfd_open(os.getpid())] if hasattr(os, "pidfd_open") else []
    for fd in host:
        kept.callback(os.close, fd)
    return Ground(interpreter, site, folder, modules, tuple(host), layers)


def _connection(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    one.setblocking(False)
    return ours.enter_context(one), theirs.enter_context(other)


def _bundle_file() -> int:
    """A descriptor of the guest's modules: in memory where there are such files."""
    if hasattr(os, "memfd_create"):
        return memory_file("saggar-guest", bundle())
    with tempfile.TemporaryFile() as file:
        file.write(bundle())
        file.flush()
        return os.dup(file.fileno())
