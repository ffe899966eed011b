"""A call that was left to a worker: the handle on a job, which answers as its function does."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

from saggar.model.event import Event, Output
from saggar.model.policy import Policy
from saggar.model.result import Result
from saggar.model.task import Task

R = TypeVar("R")


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

    def __init__(self, job: Submitted, settled: Callable[[Result[Any]], R]) -> None:
        self._job, self._settled = job, settled
        self.id = job.id

    def __repr__(self) -> str:
        return f"<remote job {self.id}>"

    def result(self, timeout: float | None = None) -> R:
        """
        What the function answered; raises what it raised.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
        """
        return self._settled(self._job.result(timeout))

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
                found.set_result(self._job.result(None))
            except BaseException as exc:  # noqa: BLE001 - it is raised by who asks for the result
                found.set_exception(exc)

        Thread(target=wait, name=f"saggar-job-{self.id[:8]}", daemon=True).start()
        return found


def submitted(
    task: Task, policy: Policy | None, settled: Callable[[Result[Any]], R]
) -> RemoteJob[R]:
    """A new job. PlatformError if the queue does not take it."""
    from saggar.jobs.submission import submit

    return RemoteJob(submit(task, policy=policy), settled)


def reattached(job_id: str, settled: Callable[[Result[Any]], R]) -> RemoteJob[R]:
    """A job that was submitted before, by this process or another."""
    from saggar.jobs.submission import desk

    return RemoteJob(desk().of(job_id), settled)
