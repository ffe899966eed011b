"""
The executor instance: one session behind four endpoints, as managers of other systems expect it.

`GET /health`, `GET /ready`, `POST /execute`, `POST /restart`, and `GET /restart-status`. Programs
that fail are outputs and come with 200; a session that cannot be had is ours, and comes with 503.
"""

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import anyio
from fastapi import FastAPI, Request
from starlette.responses import Response

from saggar.compat.outputs import Outputs, Said, Telling
from saggar.config import Settings
from saggar.errors import Overloaded, PlatformError, SaggarError
from saggar.model.event import Finished
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.result import Status
from saggar.model.value import Value
from saggar.platform import Platform
from saggar.server import body
from saggar.server.app import create_app
from saggar.server.auth import Doors
from saggar.server.stream import Lines, while_connected

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from saggar.engine.session import Session

NOT_STARTED: Final = "kernel_not_started"
RESTARTING: Final = "kernel_restarting"
PAUSES: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between two tries to open a session; the last one again and again."""
TIMEOUT: Final = 3.0
"""Seconds that one execution may take, unless somebody says otherwise."""
MEMORY: Final = "256MiB"
CPUS: Final = 0.25
GRACE: Final = 2.0
LOADING: Final = 60.0
"""Seconds that each file may take that is run first."""
LONGEST: Final = 7 * 86400.0
PATIENCE: Final = 30.0
"""Seconds that an execution waits for a session that is not there."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What an instance is to be."""

    timeout: float = TIMEOUT
    """Seconds that one execution may take."""
    folder: Path | None = None
    """Whose *.py files run before anything else."""
    engine: Literal["shell", "kernel"] = "shell"
    policy: Policy = field(default_factory=lambda: Policy(limits=limits(TIMEOUT)))
    driver: str | None = None
    log: Callable[[str], None] = print
    """Is told what preloaded files print, and what goes wrong."""


def limits(timeout: float, **said: Any) -> Limits:
    """
    The limits of a session whose executions may take `timeout` seconds: 256 MiB, a quarter core.

    Files that are loaded first may take longer than an execution. Processor time is as long as
    either could use: the clock is what ends things here. Whoever is interrupted has a while longer
    than elsewhere to heed it: a traceback takes its time on a quarter of a core.
    """
    wall = max(timeout, LOADING)
    usual = {"wall": wall, "grace": GRACE, "memory": MEMORY, "cpu_share": CPUS}
    found = Limits(**{**usual, **said})
    return found.replace(cpu=min(wall * max(1.0, found.cpu_share), LONGEST))


class Execute(Value):
    """What `POST /execute` takes."""

    code: str


class Instance:
    """One session, held open; another one when that is closed."""

    def __init__(self, platform: Platform, setup: Setup, tasks: "TaskGroup") -> None:
        self._setup = setup
        self._platform, self._tasks = platform, tasks
        self._session: Session | None = None
        self._reason = NOT_STARTED
        self._there = anyio.Event()
        self._gone = anyio.Event()
        self._again = anyio.Event()
        self._restarting = False

    async def keep(self) -> None:
        """Hold a session open, for ever."""
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            try:
                async with await self._open() as session:
                    self._session, self._gone = session, anyio.Event()
                    self._reason = NOT_STARTED
                    self._there.set()
                    await self._gone.wait()
            except SaggarError as exc:
                self._missing(str(exc))
            except Exception as exc:  # noqa: BLE001 - the edge: nobody else would try again
                self._missing(f"a mistake of ours: {type(exc).__name__}: {exc}")
            finally:
                self._session = None
                if self._there.is_set():
                    self._there = anyio.Event()
            with anyio.move_on_after(pause):
                await self._again.wait()
            self._again = anyio.Event()

    def _missing(self, reason: str) -> None:
        self._reason = reason
        self._setup.log(f"no session: {reason}")

    async def _open(self) -> "Session":
        setup = self._setup
        return await self._platform.open_session(
            "python",
            engine=setup.engine,
            policy=setup.policy,
            driver=setup.driver,
            preload=setup.folder,
            timeout=setup.timeout,
            idle=math.inf,
            max_age=math.inf,
            log=setup.log,
        )

    @property
    def there(self) -> bool:
        """Whether there is a session, ready or not."""
        if self._session is not None and self._session.closed:
            # Somebody else ended it. Whoever holds it is told to open another one.
            self._session, self._there = None, anyio.Event()
            self._gone.set()
            self._again.set()
        return self._session is not None

    @property
    def restarting(self) -> bool:
        """Whether an interpreter is being replaced."""
        return self._restarting or (self._session is not None and self._session.restarting)

    def ready(self) -> dict[str, Any]:
        """Whether something sent now would run now, and what there is to say about it."""
        if not self.there or self._session is None:
            return {"ready": False, "reason": self._reason}
        if self.restarting:
            return {"ready": False, "reason": RESTARTING}
        state = self._session.ready
        if not state.ready:
            # Whoever asks this sends nothing until it is ready: so asking has it tried again.
            self.restart()
        if state.reason is None:
            return {"ready": state.ready}
        return {"ready": state.ready, "reason": state.reason}

    def restart(self) -> dict[str, Any]:
        """Begin to replace the interpreter; nobody waits for it here."""
        if self.restarting:
            return {"status": "already_restarting"}
        if self._session is None:
            self._again.set()
            if self._reason == NOT_STARTED:
                return {"status": "already_restarting"}
            return {"status": "error", "reason": self._reason}
        self._restarting = True
        self._tasks.start_soon(self._restart, self._session)
        return {"status": "restarting"}

    async def _restart(self, session: "Session") -> None:
        try:
            await session.restart()
        except Exception as exc:  # noqa: BLE001 - the edge: who asked for it has his answer
            self._setup.log(f"restart failed: {type(exc).__name__}: {exc}")
        finally:
            self._restarting = False

    async def outputs(self, code: str) -> AsyncGenerator[Said]:
        """What the execution of `code` says, as it says it; closing it interrupts."""
        session = await self.available()
        telling = Telling(self._setup.timeout, self._setup.policy.limits)
        async with aclosing(session.events(code)) as events:
            async for event in events:
                if isinstance(event, Finished) and event.status is Status.FAULT:
                    raise PlatformError("the session did not answer as it was built to")
                for output in telling.of(event):
                    yield output

    async def available(self) -> "Session":
        """The session. Overloaded if there is none in good time."""
        with anyio.move_on_after(PATIENCE):
            while not self.there or self._session is None:
                await self._there.wait()
            return self._session
        raise Overloaded(f"the session is not there: {self._reason}", retry_after=PAUSES[-1])


def application(setup: Setup, settings: Settings, doors: Doors) -> FastAPI:
    """The instance as an application; its session is open as long as it serves."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with Platform(settings) as platform, anyio.create_task_group() as tasks:
            app.state.instance = Instance(platform, setup, tasks)
            tasks.start_soon(app.state.instance.keep)
            yield
            tasks.cancel_scope.cancel()

    app = create_app("Saggar executor instance", doors, lifespan)
    app.add_api_route("/ready", ready)
    app.add_api_route("/restart-status", restart_status)
    app.add_api_route("/restart", restart, methods=["POST"])
    described = body.described(Execute)
    app.add_api_route(
        "/execute", execute, methods=["POST"], openapi_extra=described, response_model=None
    )
    return app


async def ready(request: Request) -> dict[str, Any]:
    """Whether code that is sent now would run now."""
    return _of(request).ready()


async def restart_status(request: Request) -> dict[str, bool]:
    """Whether the interpreter is being replaced."""
    return {"restarting": _of(request).restarting}


async def restart(request: Request) -> dict[str, Any]:
    """Replace the interpreter: all it remembers is gone, preloaded files run again."""
    return _of(request).restart()


async def execute(
    request: Request, given: Annotated[Execute, body.of(Execute)], *, stream: bool = False
) -> Response:
    """Execute code in the session, after all that came before; with `stream` tell it as it runs."""
    instance = _of(request)
    if not instance.there:
        # Before there is anything to stream this is still a status of its own.
        await while_connected(request, instance.available)
    documents = instance.outputs(given.code)
    if stream:
        return Lines(documents, failed)

    async def gather() -> list[Said]:
        outputs = Outputs()
        async with aclosing(documents):
            async for output in documents:
                outputs.add(output)
        return outputs.all()

    return body.Answer({"outputs": await while_connected(request, gather)})


def failed(exc: SaggarError) -> Said:
    """What went wrong on our side, to one who is reading outputs already."""
    return {"type": "error", "name": "KernelError", "value": str(exc), "traceback": []}


def _of(request: Request) -> Instance:
    found: Instance = request.app.state.instance
    return found
