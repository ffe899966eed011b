"""
Programs that are compiled first: in a sandbox of its own, once for the same sources.

The compiler reads what a stranger wrote, so it stands behind the same walls as the program will,
without a network, and with limits of its own; what it makes is kept by its digest.
"""

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import anyio

from saggar.environments import runtimes
from saggar.environments.programs import INSIDE, Programs
from saggar.environments.runtimes import Found
from saggar.errors import DriverUnavailable, PrepareFailed
from saggar.model.digest import canonical
from saggar.model.event import Event, Finished, Output
from saggar.model.limits import Limits
from saggar.model.paths import is_inside
from saggar.model.plan import Compile, Layer, Plan
from saggar.model.policy import Network, Policy, Rung
from saggar.model.program import Command, Program
from saggar.model.quantity import GiB, MiB
from saggar.model.result import ErrorInfo, Status
from saggar.model.task import Task

LIMITS: Final = Limits(
    wall=120,
    cpu=120,
    cpu_share=2,
    memory=GiB,
    disk=GiB,
    file_size=256 * MiB,
    inodes=100_000,
    processes=256,
    open_files=1024,
)
"""What a compiler may consume; an operator's ceiling is the ceiling of this, too."""
COMPILE_ERROR: Final = "CompileError"
QUOTED: Final = 16_000
"""Characters of a compiler's words that the error holds; all of them are in stderr."""


Execute: TypeAlias = Callable[[Task, Plan, Policy, Sequence[Layer]], AsyncGenerator[Event]]
"""Runs a plan in a sandbox of its own, behind what a policy asks for."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A plan that can be executed as it is, and what has to be shown for that."""

    plan: Plan
    layers: tuple[Layer, ...] = ()
    lacking: str = ""
    """What it means if its program is not there; nobody has looked where this is not empty."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where programs are made ready."""

    cache: Path
    policy: Policy
    """The walls of the compiler, from `around`."""
    execute: Execute
    image: str | None = None
    """Whose programs the sandbox sees. None: those of this machine."""


def around(policy: Policy, ceiling: Policy | None) -> Policy:
    """The walls of the compiler: those of the program, closed further, its limits its own."""
    limits = LIMITS if ceiling is None else LIMITS.within(ceiling.limits)
    # Where there is no wall there is no way to have less of the network than there is.
    network = policy.network if policy.isolation is Rung.PROCESS else Network.NONE
    return policy.replace(limits=limits, network=network, mounts=(), shares=(), gpu=0)


async def prepared(plan: Plan, site: Site) -> AsyncGenerator[Event | Ready]:
    """
    Find what a plan needs, and compile what is to be compiled; what the compiler says is output.

    The last thing is a plan that is ready, or the end of a run that comes to nothing more.

    Raises:
        DriverUnavailable: The runtime is not installed; names the package that brings it.
        InvalidTask: It is too old for this task.
        PrepareFailed: What was made cannot be kept.
    """
    found = await _found(plan, site)
    if plan.compile is None:
        lacking = "" if found else _lacking(plan, site)
        yield Ready(_named(plan, found), found.layers if found else (), lacking)
        return
    programs = Programs(site.cache)
    key = digest(plan.compile, found.version if found else f"image {site.image}")
    if programs.find(key) is None:
        async with aclosing(_compiled(plan.compile, found, programs, key, site)) as events:
            async for event in events:
                yield event
                if isinstance(event, Finished):
                    return
    layer = Layer(path=str(programs.place(key)), target=f"{INSIDE}/{key[:32]}")
    assert plan.argv is not None  # noqa: S101 - a plan that compiles executes what comes of it
    yield Ready(plan.replace(argv=(f"{layer.target}/program", *plan.argv[1:])), (layer,))


async def _found(plan: Plan, site: Site) -> Found | None:
    """The runtime of this machine; None where an image's own is to be used."""
    if plan.runtime is None:
        return None
    if site.image is None:
        return await runtimes.find(plan.runtime)
    # A compiler can be shown to any image, and few images for running have one.
    return await runtimes.movable(plan.runtime) if plan.compile is not None else None


def digest(compile_: Compile, toolchain: str) -> str:
    """What a program is made of: its sources, how it is compiled, and by what."""
    return hashlib.sha256(canonical(compile_) + b"\0" + toolchain.encode()).hexdigest()


async def _compiled(
    compile_: Compile, found: Found | None, programs: Programs, key: str, site: Site
) -> AsyncGenerator[Event]:
    """Compile a program and keep it; where that fails the last event is the end of the run."""
    async with programs.turn(key):
        if programs.find(key) is not None:
            return  # whoever had the turn before us has built it
        if found is not None:
            found = await _workshop(found, compile_, site.cache)
        said = bytearray()
        async with aclosing(_executed(compile_, found, site)) as events:
            async for event in events:
                match event:
                    case Output(data=data):
                        said += data
                        yield Output(stream="stderr", data=data)
                    case Finished(status=Status.OK, files=(program,)):
                        await anyio.to_thread.run_sync(programs.keep, key, program.content)
                    case Finished(exit_code=127, error=ErrorInfo()):
                        raise DriverUnavailable(_missing(compile_, site))
                    case Finished():
                        yield failed(event, said.decode(errors="replace"))


async def _workshop(found: Found, compile_: Compile, cache: Path) -> Found:
    """
    The toolchain with the parts of its library that a program seems to want.

    A part that is none on this machine is the program's mistake, and its compiler's to tell.
    """
    try:
        return await runtimes.workshop(found, compile_, cache)
    except PrepareFailed:
        for name in compile_.libraries:
            with suppress(PrepareFailed):
                await runtimes.workshop(found, compile_.replace(libraries=(name,)), cache)
        return await runtimes.workshop(found, compile_.replace(libraries=()), cache)


async def present(events: AsyncGenerator[Event], lacking: str) -> AsyncGenerator[Event]:
    """
    The same events, but for the end of a run whose program was not there.

    That is what the runner said when it could not become that program: of a program that has
    begun nothing comes over the channel any more, so none can say it of itself.

    Raises:
        DriverUnavailable: It was not there.
    """
    async with aclosing(events):
        async for event in events:
            match event:
                case Finished(exit_code=127, error=ErrorInfo(type="FileNotFoundError")):
                    raise DriverUnavailable(lacking)
            yield event


def _lacking(plan: Plan, site: Site) -> str:
    assert plan.argv is not None  # noqa: S101 - a runtime is there to execute something
    name = plan.argv[0]
    return f"{name} is not in the image {site.image}; name one that has it, or add it to that one"


def _executed(compile_: Compile, found: Found | None, site: Site) -> AsyncGenerator[Event]:
    argv, env = compile_.argv, compile_.env
    if found is not None:
        argv, env = (found.program, *argv[1:]), {**env, **found.env}
    task = Task(program=Program(code=Command(argv=argv)), collect=(compile_.output,))
    plan = Plan(argv=argv, files=compile_.files, env=env)
    return site.execute(task, plan, site.policy, found.layers if found else ())


def _missing(compile_: Compile, site: Site) -> str:
    name = compile_.argv[0]
    return f"{name} is not installed, nor is it in {site.image}; {runtimes.package(name)}"


def failed(end: Finished, said: str) -> Finished:
    """The end of a run whose program does not compile."""
    words = said.strip() or "the compiler made no program, and said nothing"
    if end.limit is not None:
        words = f"the compiler met its limit of {end.limit}\n{words}"
    error = ErrorInfo(type=COMPILE_ERROR, message=words[:QUOTED])
    status = Status.ERROR if end.status is Status.OK else end.status
    return end.replace(status=status, error=error, files=(), files_skipped=(), value=None)


def _named(plan: Plan, found: Found | None) -> Plan:
    """A plan in which the runtime's name has become its path."""
    if found is None or plan.runtime is None or plan.argv is None:
        return plan
    # The first word of that name is the language's own: a task's arguments come after it.
    at = plan.argv.index(plan.runtime.name)
    named = (found.program, *found.options)
    return plan.replace(argv=(*plan.argv[:at], *named, *plan.argv[at + 1 :]))


def located(plan: Plan, layers: Sequence[Layer], isolation: str) -> Plan:
    """The plan for walls without a root of their own, which show a layer where it lies."""
    if plan.argv is None or isolation not in {Rung.PROCESS, Rung.LANDLOCK} or not layers:
        return plan
    argv = tuple(_located(word, layers) for word in plan.argv)
    env = {name: _located(word, layers) for name, word in plan.env.items()}
    return plan.replace(argv=argv, env=env)


def _located(word: str, layers: Sequence[Layer]) -> str:
    for layer in layers:
        if is_inside(word, layer.target):
            return layer.path + word.removeprefix(layer.target)
    return word
