"""
Functions behind walls: a program's entry function, called with JSON, in a sandbox of its own.

The host validates on both sides of the wall: what runs inside is not asked whether it was right.
"""

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from saggar import registry
from saggar.errors import ExecutionFailed, ExecutionTimeout, InvalidInput, InvalidTask
from saggar.functions.executor import A, B, Executor
from saggar.model.codec import Payload
from saggar.model.environment import Environment
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.program import LANGUAGES, Inline, Program
from saggar.model.result import Result, Status
from saggar.model.task import File, Task
from saggar.platform import Platform, arun, run

if TYPE_CHECKING:
    from saggar.model.schema import Source

TIMEOUT = 30.0
"""Seconds, unless said otherwise."""


class TaskExecutor(Executor[A, B]):
    """An executor whose call is one task on a platform."""

    def __init__(  # noqa: PLR0913 - what runs, where, and what may go in and out
        self,
        task: Task,
        policy: Policy,
        *,
        driver: str | None = None,
        platform: Platform | None = None,
        schema_in: "Source | None" = None,
        schema_out: "Source | None" = None,
    ) -> None:
        super().__init__(schema_in, schema_out)
        self.task, self.policy, self.driver = task, policy, driver
        self._platform = platform

    def execute(self, value: A) -> B:
        """The answer to `value`; see `Executor.execute`."""
        return self.judge(self.call(value))

    async def aexecute(self, value: A) -> B:
        """The same for code with an event loop; on the `platform` it was given, if it was."""
        task = self.request(value)
        if self._platform is None:
            return self.judge(await arun(task, policy=self.policy, driver=self.driver))
        return self.judge(await self._platform.run(task, policy=self.policy, driver=self.driver))

    def call(self, value: A) -> Result[Any]:
        """All that came of a call with `value`: also what it printed, and what it used."""
        return run(self.request(value), policy=self.policy, driver=self.driver)

    def request(self, value: A) -> Task:
        """The task that a call with `value` is."""
        try:
            payload = Payload.json(self._lower(value))
        except InvalidInput:
            raise
        except InvalidTask as exc:
            raise InvalidInput(str(exc).removeprefix("input: ").removeprefix("input ")) from exc
        return self._carrying(payload)

    def _carrying(self, payload: Payload) -> Task:
        """The task with this input; checked parts put together, nothing checked twice."""
        return self.task.model_copy(update={"input": payload})

    def judge(self, result: Result[Any]) -> B:
        """The answer in a result, or the failure it is."""
        if result.status is Status.TIMEOUT:
            if result.limit == "cpu":
                raise ExecutionTimeout(result, f"{self.policy.limits.cpu:g}s of processor time")
            raise ExecutionTimeout(result, f"{self.policy.limits.wall:g}s")
        if not result.ok:
            raise ExecutionFailed(result, result.summary())
        return self._lift(result.value, result)


class SandboxExecutor(TaskExecutor[A, B]):
    """
    The function `entry` of some source text, behind the walls of a jail.

        stats = SandboxExecutor[list[float], Stats](source, entry="describe", timeout=3)
        stats([1, 2, 3])
    """

    def __init__(  # noqa: PLR0913 - everything that can be said about the program and its walls
        self,
        source: str,
        *,
        entry: str,
        language: str = "python",
        filename: str | None = None,
        timeout: float | str = TIMEOUT,
        limits: Limits | Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        environment: Environment | None = None,
        packages: str | Iterable[str] = (),
        files: Mapping[str, bytes | str] | Iterable[File] = (),
        env: Mapping[str, str] | None = None,
        driver: str | None = None,
        platform: Platform | None = None,
        schema_in: "Source | None" = None,
        schema_out: "Source | None" = None,
    ) -> None:
        registry.language(language)  # a name nobody has is the caller's mistake, made here
        code = Inline(text=source) if filename is None else Inline(text=source, filename=filename)
        task = Task.of(
            Program(code=code, language=language, entry=entry),
            environment=environment,
            packages=packages,
            files=files,
            env=env,
        )
        super().__init__(
            task,
            closed(policy, limits, timeout),
            driver=driver,
            platform=platform,
            schema_in=schema_in,
            schema_out=schema_out,
        )

    @classmethod
    def of_file(cls, path: str | PathLike[str], *, entry: str, **options: Any) -> Self:
        """The same for a source file; its ending says its language, unless `language` does."""
        place = Path(path)
        try:
            source = place.read_text(encoding="utf-8")
        except (OSError, ValueError) as exc:
            raise InvalidTask(f"cannot read {str(place)!r:.200}: {exc}") from None
        if "language" not in options:
            options["language"] = LANGUAGES.get(place.suffix, "python")
        return cls(source, entry=entry, filename=place.name, **options)


def closed(
    policy: Policy | None, limits: Limits | Mapping[str, Any] | None, timeout: float | str
) -> Policy:
    """The policy of an executor: the closed one unless given, its wall clock the timeout."""
    wanted = policy or Policy()
    if isinstance(limits, Limits):
        return wanted.replace(limits=limits)
    said = {"wall": timeout, **(limits or {})}
    try:
        return wanted.replace(limits=wanted.limits.replace(**said))
    except InvalidTask as exc:
        raise InvalidTask(str(exc).replace("limits.wall", "timeout", 1)) from None
