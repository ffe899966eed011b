"""A call that was left to a worker: the handle on a job, which answers as its function does."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Thread
from time import sleep
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from saggar.functions.answers import worth_another
from saggar.model.event import Event, Output
from saggar.model.policy import Policy
from saggar.model.result import Result
from saggar.model.task import Task

if TYPE_CHECKING:
    from saggar.functions.options import Log, Retry

R = TypeVar("R")
LAST_WORDS: Final = 5.0
"""Seconds for what a job has printed to arrive, once it has ended."""


class Submitted(Protocol):
    """What is used of a job, whichever queue it is in."""

    id: str

    def result(self, timeout: float | None = None) -> Result[Any]:
        """What came of it."""
        ...

    def job(self) -> Any:
        """How it stands."""
        ...

    def events(self) -> Iterator[Event]:
        """What it does."""
        ...

    def cancel(self) -> None:
        """Nobody wants it any more."""
        ...


class RemoteJob(Generic[R]):
    """A call of a remote function that a worker makes. Another process finds it by its `id`."""

    def __init__(
        self, job: Submitted, settled: Callable[[Result[Any]], R], log: "Log | None" = None
    ) -> None:
        self._job, self._settled, self._log = job, settled, log
        self.id = job.id

    def __repr__(self) -> str:
        return f"<remote job {self.id}>"

    def result(self, timeout: float | None = None) -> R:
        """
        What the function answered; raises what it raised.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
        """
        return self._settled(followed(self._job, self._log, timeout))

    @property
    def status(self) -> str:
        """How it stands: queued, running, done, failed, cancelled, ..."""
        return str(self._job.job().state)

    def cancel(self) -> None:
        """Nobody wants it any more: it does not start, or it is killed."""
        self._job.cancel()

    def logs(self) -> Iterator[tuple[str, str]]:
        """What it prints, from the beginning and while it runs: stream and text."""
        for event in self._job.events():
            if isinstance(event, Output):
                yield event.stream, event.data.decode(errors="replace")

    def future(self) -> "Future[Result[Any]]":
        """Its result, for whoever waits for several at once."""
        found: Future[Result[Any]] = Future()

        def wait() -> None:
            try:
                found.set_result(followed(self._job, self._log))
            except BaseException as exc:  # noqa: BLE001 - it is raised by who asks for the result
                found.set_exception(exc)

        Thread(target=wait, name=f"saggar-job-{self.id[:8]}", daemon=True).start()
        return found


def followed(job: Submitted, log: "Log | None", timeout: float | None = None) -> Result[Any]:
    """What came of a job; shown meanwhile is what it prints, if that is wanted."""
    if log is None:
        return job.result(timeout)

    def show() -> None:
        for event in job.events():
            if isinstance(event, Output):
                log(event.stream, event.data.decode(errors="replace"))

    follower = Thread(target=show, name=f"saggar-log-{job.id[:8]}", daemon=True)
    follower.start()
    found = job.result(timeout)
    follower.join(LAST_WORDS)
    return found


def waited(task: Task, policy: Policy | None, retry: "Retry", log: "Log | None") -> Result[Any]:
    """What came of a job that somebody waits for, and of those that were made again after it."""
    from saggar.jobs.submission import submit

    left, delay = retry.times, retry.delay
    while True:
        result = followed(submit(task, policy=policy), log)
        if not left or not worth_another(result, retry.on):
            return result
        left -= 1
        sleep(delay)
        delay *= 2


def submitted(
    task: Task,
    policy: Policy | None,
    settled: Callable[[Result[Any]], R],
    log: "Log | None" = None,
) -> RemoteJob[R]:
    """A new job. PlatformError if the queue does not take it."""
    from saggar.jobs.submission import submit

    return RemoteJob(submit(task, policy=policy), settled, log)


def reattached(job_id: str, settled: Callable[[Result[Any]], R]) -> RemoteJob[R]:
    """A job that was submitted before, by this process or another."""
    from saggar.jobs.submission import desk

    return RemoteJob(desk().of(job_id), settled)
