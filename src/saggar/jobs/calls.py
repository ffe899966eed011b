"""What is asked of Redis and what its answers mean, without asking: one for both clients."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from saggar.errors import Conflict, Expired, NotFound, Overloaded
from saggar.jobs import keys, message
from saggar.jobs.job import Failure, Job, JobState
from saggar.jobs.queue import KEPT, LEASE, Again, Beat, Bury, Done, Lease, Outcome, Receipt, Terms
from saggar.jobs.queue import kept as may_be_served
from saggar.model.event import Displayed, Event, Finished, Output, Started
from saggar.model.result import Result

T = TypeVar("T")
Words = Sequence[str | bytes | float]
_CONSTANT: Final = {
    "id", "task", "policy", "tenant", "queue", "priority", "retry_on", "webhook", "code_hash",
}  # fmt: skip
_KEEP: Final = int(KEPT * 1000)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A script, what it is given, and how its answer is read."""

    script: str
    words: Words
    read: Callable[[Any], T]


@dataclass(frozen=True, slots=True)
class Tick:
    """What a tick found to do."""

    silent: list[tuple[Lease, str]]
    """Leases that ran out, with the worker that had them."""
    ends: list[tuple[str, str, int]]
    """Jobs whose end somebody is to be told of now, where, and the how manieth try it is."""
    lying: int
    """Messages in the lists that this worker reads."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How it stands."""

    at: float
    depth: Mapping[str, int]
    """Jobs that wait, by queue: in lines and in Celery's lists."""
    oldest: Mapping[str, float]
    """Seconds that the oldest of them has waited."""
    listed: Mapping[str, int]
    """Messages in Celery's lists."""
    running: int
    delayed: int
    dead: int
    unacked: int
    totals: Mapping[str, int]
    """Since the beginning, by names such as `done:ok`, `retries`, `wait:QUEUE:0.05`."""
    workers: Mapping[str, Mapping[str, Any]]
    """What each living worker says of itself."""


def body(job: Job) -> bytes:
    """What does not change of a job."""
    return job.model_dump_json(include=_CONSTANT).encode()


def submit(
    job: Job, packed: bytes, terms: Terms, databases: tuple[str, str] | None = None
) -> Call[tuple[Receipt, str]]:
    """
    Take a job in; its body may have been packed into a reference.

    What comes back beside the receipt is the lease under which a cached result was made. Where one
    server has both databases, it is known that the result is there.
    """
    quota = terms.quota
    words: Words = (
        job.id, packed, message.execution(job), job.tenant, job.queue, job.priority,
        int(terms.delay * 1000), job.key, "" if quota.running is None else quota.running,
        quota.waiting, quota.rate or 0, quota.burst, job.code_hash, job.webhook,
        *(databases or ("", "")),
    )  # fmt: skip

    def read(answer: Any) -> tuple[Receipt, str]:
        match answer[0].decode():
            case "new" | "joined" | "cached" as came:
                token = answer[2].decode() if len(answer) > 2 else ""
                return Receipt(answer[1].decode(), came), token
            case "hooks":
                raise Overloaded(
                    "as many are told of the end of this job as there can be; drop the webhook",
                    retry_after=answer[1] / 1000,
                )
            case "waiting":
                raise Overloaded(
                    f"tenant {job.tenant} has {quota.waiting} jobs waiting",
                    retry_after=answer[1] / 1000,
                )
        raise Overloaded(
            f"tenant {job.tenant} may submit {quota.rate:g} jobs a second",
            retry_after=answer[1] / 1000,
        )

    return Call("submit", words, read)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that is ours to run, its body perhaps still packed."""

    attempt: int
    packed: bytes
    created: float
    started: float


def claim(job_id: str, worker: str, token: str) -> Call[Claimed | None]:
    """The right to run a job."""

    def read(answer: Any) -> Claimed | None:
        if answer[0] != b"yours":
            return None
        return Claimed(answer[1], answer[2], float(answer[3]) / 1000, answer[4] / 1000)

    return Call("claim", (job_id, worker, token, int(LEASE * 1000)), read)


def renew(leases: Sequence[Lease]) -> Call[list[Beat]]:
    """A sign of life for each lease."""
    pairs = [word for lease in leases for word in (lease.job.id, lease.token)]
    return Call("renew", (int(LEASE * 1000), *pairs), lambda said: [one.decode() for one in said])


def settle(
    lease: Lease,
    outcome: Outcome,
    *,
    letter: bytes = b"",
    ran: float = 0,
    inside: tuple[str, str, bytes] = ("", "", b""),
) -> Call[bool]:
    """
    Record how an attempt ended.

    `inside`: the databases of jobs and results and the packed result, where one server has both;
    else the result was stored before.
    """
    failure: Failure | None = None
    result: Result[Any] | None = None
    wait = 0.0
    match outcome:
        case Done(result=result):
            name = "done"
        case Again(failure=failure, delay=wait):
            name = "again"
        case Bury(failure=failure, result=result):
            name = "bury"
    words: Words = (
        lease.job.id, lease.token, name, _KEEP, failure.model_dump_json() if failure else "",
        int(wait * 1000), result.status if result else "", int(may_be_served(result)), letter,
        message.burial(lease.job) if name == "bury" else b"", int(ran * 1000), *inside,
    )  # fmt: skip
    return Call("settle", words, bool)


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of a job, as it is stored."""

    fields: Mapping[bytes, bytes]
    past: bool
    packed: bytes | None

    @property
    def result_name(self) -> str | None:
        """The second part of the name of its result, if it has one."""
        token = self.fields.get(b"settled")
        return token.decode() if token and self.fields.get(b"status") else None


def look(job_id: str, databases: tuple[str, str] | None) -> Call[Stored]:
    """What is known of a job; with its result where one server has both."""

    def read(answer: Any) -> Stored:
        fields, past, *packed = answer
        return Stored(dict(_pairs(fields)), bool(past), packed[0] if packed else None)

    return Call("look", (job_id, *(databases or ("", ""))), read)


def cancel(job_id: str, database: str, revoked: str = "") -> Call[JobState]:
    """
    Nobody wants it any more; says in which state it was. NotFound, Expired.

    With the id of a task of Celery's that was revoked: only if that is the job's task still.
    """

    def read(answer: bytes) -> JobState:
        return JobState(_known(job_id, answer))

    told = (message.control(database), message.revocation(), message.TASK)
    return Call("cancel", (job_id, _KEEP, *told, revoked), read)


def unserve(job: Job, other: str) -> Call[None]:
    """Another job of the same key is not served any more: what came of it is gone."""
    return Call("unserve", (job.tenant, job.key, other), lambda _: None)


def tick(worker: str, said: Mapping[str, Any], room: int = 0, held: float = 0) -> Call[Tick]:
    """What is due; with as many ends to be told as there is `room` for, within `held` seconds."""
    return Call("tick", (worker, json.dumps(said), room, int(held * 1000)), _tick)


def _tick(answer: Any) -> Tick:
    silent, ends, lying = answer
    return Tick(
        [_silent(*(word.decode() for word in one)) for one in silent],
        [(job_id.decode(), url.decode(), tries) for job_id, url, tries in ends],
        lying,
    )


def told(job_id: str, url: str) -> Call[None]:
    """Somebody was told of an end, and need not be again."""
    return Call("told", (job_id, url, -1), lambda _: None)


def given_up(job_id: str, url: str) -> Call[None]:
    """Nobody there takes it."""
    return Call("told", (job_id, url, -2), lambda _: None)


def tell_later(job_id: str, url: str, seconds: float) -> Call[None]:
    """He could not be told, and is to be after these seconds."""
    return Call("told", (job_id, url, int(seconds * 1000)), lambda _: None)


def _silent(*words: str) -> tuple[Lease, str]:
    """A lease as far as its successor needs it."""
    job_id, token, attempt, worker, tenant, queue, code_hash, created = words
    job = Job(
        id=job_id,
        attempt=int(attempt),
        state=JobState.RUNNING,
        tenant=tenant,
        queue=queue,
        code_hash=code_hash,
        created=float(created) / 1000,
    )
    return Lease(job, token), worker


def leave(worker: str) -> Call[None]:
    """A worker ends: nobody is to count on it."""
    return Call("leave", (worker,), lambda _: None)


def revive(job: Job) -> Call[None]:
    """Start a dead or cancelled job anew. NotFound, Expired, Conflict."""

    def read(answer: bytes) -> None:
        if (state := _known(job.id, answer)) != "revived":
            raise Conflict(f"job {job.id} is {state}; only what is dead or cancelled starts anew")

    return Call("revive", (job.id, message.repetition(job)), read)


def drop(job_id: str) -> Call[bool]:
    """Forget a dead letter."""
    return Call("drop", (job_id, _KEEP), bool)


def counts(queues: Sequence[str]) -> Call[Counts]:
    """How it stands."""
    return Call("counts", tuple(queues), _counts)


def _counts(answer: Any) -> Counts:
    at, queues, running, delayed, dead, unacked, totals, workers = answer
    names = [name.decode() for name, *_ in queues]
    totals = {name.decode(): int(number) for name, number in _pairs(totals)}
    known = {name.decode(): json.loads(said) for name, said in _pairs(workers)}
    return Counts(
        at=at / 1000,
        depth={name: one[1] for name, one in zip(names, queues, strict=True)},
        oldest={name: one[2] / 1000 for name, one in zip(names, queues, strict=True)},
        listed={name: one[3] for name, one in zip(names, queues, strict=True)},
        running=running,
        delayed=delayed,
        dead=dead,
        unacked=unacked,
        totals=totals,
        workers={name: said for name, said in known.items() if said["until_ms"] >= at},
    )


def _pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _known(job_id: str, answer: bytes) -> str:
    match answer.decode():
        case "gone":
            raise unknown(job_id)
        case "past":
            raise forgotten(job_id)
        case state:
            return state


def unknown(job_id: str) -> NotFound:
    """There never was such a job, or more than a day ago."""
    return NotFound(f"there is no job {job_id!r:.80}; `saggar jobs ls` tells which there are")


def forgotten(job_id: str) -> Expired:
    """There was one."""
    return Expired(f"job {job_id} has ended, and its result is no longer kept: {KEPT / 60:g} min")


def assembled(
    job_id: str, fields: Mapping[bytes, bytes], packed: bytes | None, result: bytes | None
) -> Job:
    """A job from what is stored of it."""
    known = {name.decode(): value for name, value in fields.items()}
    base = Job.model_validate_json(packed) if packed else None
    state = JobState(known["state"].decode())
    changes: dict[str, Any] = {
        "state": state,
        "attempt": int(known["attempt"]),
        "created": _seconds(known["created"]),
        "started": _seconds(known.get("started")),
        "finished": _seconds(known.get("finished")),
        "worker": known["worker"].decode() if "worker" in known else None,
        "failure": Failure.model_validate_json(known["failure"]) if "failure" in known else None,
        "result": Result[Any].model_validate_json(result) if result else None,
    }
    if base is not None:
        return base.model_copy(update=changes)
    plain = {name: known[name].decode() for name in ("tenant", "queue", "code_hash")}
    return Job(id=job_id, priority=int(known["priority"]), **plain, **changes)


def _seconds(milliseconds: bytes | None) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000


def letter(job: Job, outcome: Bury, *, worker: str, now: float) -> bytes:
    """What lies in the list of dead letters: the job by reference, readable as it stands."""
    said = {
        "job_id": job.id,
        "task": keys.record(job.id),
        "code_hash": job.code_hash,
        "tenant": job.tenant,
        "queue": job.queue,
        "error": {"kind": outcome.failure.kind, "code": outcome.failure.code,
                  "message": outcome.failure.message[:2000]},
        "attempts": job.attempt,
        "created": job.created,
        "buried": now,
        "worker": worker,
    }  # fmt: skip
    return json.dumps(said, ensure_ascii=False).encode()


def unfolded(result: Result[Any]) -> Iterator[Event]:
    """Events that a result is the sum of."""
    if result.isolation:
        yield Started(isolation=result.isolation)
    if result.stdout_bytes:
        yield Output(stream="stdout", data=result.stdout_bytes)
    if result.stderr_bytes:
        yield Output(stream="stderr", data=result.stderr_bytes)
    for display in result.displays:
        yield Displayed(display=display)
    said = {name: getattr(result, name) for name in Finished.model_fields if name != "kind"}
    yield Finished(**said)
