"""`saggar run`: one program behind walls, its output passed on, its end said in one line."""

import gc
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import split
from saggar.cli.main import OURS, READER_GONE, complain
from saggar.cli.options import parser

if TYPE_CHECKING:
    from anyio import CancelScope

    from saggar.config import Settings
    from saggar.model.event import Displayed, Finished, Output
    from saggar.model.policy import Policy
    from saggar.model.result import Outcome
    from saggar.model.secrets import Secrets
    from saggar.model.task import Task
    from saggar.platform import Platform, RunOptions


def main(words: Sequence[str]) -> int:
    """Run what the words ask for; the exit code says how it ended."""
    ours, theirs = split(words)
    options = parser().read(ours)
    # After the options: a mistake in them, or --help, is answered without loading the model.
    with not_collecting():
        if options.driver in {None, "jail"} and options.image is None:
            from saggar.drivers.jail import launch

            launch.ahead()  # it starts on another core while we import
        import anyio

        import saggar.platform  # noqa: F401  (used below; loaded here, where it costs least)
        from saggar.cli.request import driver, request, secrets
        from saggar.config import load

    settings = load()
    task, policy = request(options, theirs, settings.ceiling)
    run = Run(task, policy, settings, driver(options), as_json=options.json, quiet=options.quiet)
    run.secrets = secrets(task.secrets)
    return anyio.run(run.to_its_end)


@contextmanager
def not_collecting() -> Iterator[None]:
    """No search for garbage among modules that stay: a tenth of the time they take to load."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@dataclass(slots=True)
class Run:
    """One run on a terminal."""

    task: "Task"
    policy: "Policy"
    settings: "Settings"
    driver: str | None = None
    as_json: bool = False
    quiet: bool = False
    secrets: "Secrets | None" = None
    """The values of those that the task names."""
    stopped_by: list[int] = field(default_factory=list)
    """Signals that asked us to stop."""

    async def to_its_end(self) -> int:
        """The exit code."""
        from anyio import CancelScope

        from saggar.platform import Platform

        with CancelScope() as scope, self._heeding_signals(scope):
            async with Platform(self.settings) as platform:
                await self._prepare(platform)
                return await (self._document(platform) if self.as_json else self._stream(platform))
        self._say("cancelled")
        return 128 + self.stopped_by[0]

    async def _prepare(self, platform: "Platform") -> None:
        """Build the environment if there is something to build, and say so: it may take a while."""
        from saggar.cli.progress import progress

        environment = self.task.program.environment
        if not environment.packages and not environment.host_packages:
            return
        self.policy.admit(self.task)
        with progress(quiet=self.quiet) as tell:
            await platform.prepare(environment, progress=tell)

    @contextmanager
    def _heeding_signals(self, scope: "CancelScope") -> Iterator[None]:
        """The first Ctrl-C or SIGTERM cancels the run, a second one ends us at once."""
        import asyncio

        def heed(number: int) -> None:
            if self.stopped_by:
                # What runs inside notices that we are gone, and ends as well.
                os._exit(128 + number)
            self.stopped_by.append(number)
            scope.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, heed, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def _stream(self, platform: "Platform") -> int:
        """Pass on what the program says as it says it, then tell how it ended."""
        finished = None
        try:
            async with aclosing(self._events(platform)) as events:
                async for event in events:
                    finished = await self._pass_on(event) or finished
        except BrokenPipeError:
            return READER_GONE
        if finished is None:
            complain("the run ended without a verdict")
            return OURS
        return self.conclude(finished)

    def _events(self, platform: "Platform") -> Any:
        return platform.events(self.task, **self._options())

    def _options(self) -> "RunOptions":
        said: RunOptions = {"policy": self.policy, "driver": self.driver}
        return said if self.secrets is None else {**said, "secrets": self.secrets}

    async def _pass_on(self, event: "Output | Displayed | Finished | Any") -> "Finished | None":
        """Show one event; the last one is handed back."""
        from saggar.cli.stream import STDERR, STDOUT, pour
        from saggar.model.event import Displayed, Finished, Output

        match event:
            case Output(stream=stream, data=data):
                await pour(STDOUT if stream == "stdout" else STDERR, data)
            case Displayed(display=display):
                await pour(STDOUT, display.data.get("text/plain", "").encode() + b"\n")
            case Finished():
                if event.status == "ok" and (self.task.want_value or self.task.program.entry):
                    await pour(STDOUT, as_line(event.value))
                return event
        return None

    async def _document(self, platform: "Platform") -> int:
        """The whole result as one JSON document; its files are in it."""
        from saggar.cli.ending import exit_code, verdict
        from saggar.cli.stream import STDOUT, pour

        result = await platform.run(self.task, **self._options())
        try:
            await pour(STDOUT, result.model_dump_json().encode() + b"\n")
        except BrokenPipeError:
            return READER_GONE
        self._say(verdict(result, self.policy.limits))
        return exit_code(result)

    def conclude(self, outcome: "Outcome") -> int:
        """Write the files, say the verdict."""
        from saggar.cli.ending import exit_code, not_collected, verdict
        from saggar.cli.outputs import hidden, write

        kept_back = hidden(outcome.files, self.task.collect)
        unasked = {each.path for each in kept_back}
        refused = write([file for file in outcome.files if file.path not in unasked])
        lost = unasked | {each.path for each in refused}
        written = [file.path for file in outcome.files if file.path not in lost]
        for line in not_collected([*outcome.files_skipped, *kept_back, *refused]):
            complain(line)
        self._say(verdict(outcome, self.policy.limits, written))
        return exit_code(outcome) or (OURS if refused else 0)

    def _say(self, line: str) -> None:
        if not self.quiet:
            complain(line)


def as_line(value: object) -> bytes:
    """A value as one line of JSON."""
    import json

    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
