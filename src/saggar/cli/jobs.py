"""`saggar jobs`: what was submitted, and what became of it."""

import json
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import Parser
from saggar.cli.main import READER_GONE, complain, say
from saggar.cli.ps import lines, plain, plain_json, span
from saggar.errors import NotFound, UsageError

if TYPE_CHECKING:
    from saggar.jobs.job import Job
    from saggar.jobs.listing import Listed
    from saggar.jobs.submission import SyncDesk
    from saggar.model.event import Event

SUMMARY = "The jobs in the queue and those of the last hour: ls, show, logs, cancel, retry."
EXAMPLES = """\
examples:
  saggar jobs ls
  saggar jobs ls --state running --json
  saggar jobs show 4f3a
  saggar jobs logs -f 4f3a
  saggar jobs cancel 4f3a 90bc
  saggar jobs retry 4f3a

The beginning of an id is enough where it is unique. retry starts anew what is dead or cancelled.
Exit code: 0; 2 there is no such job, it is forgotten, or it is in no state for that; 70 the queue
does not answer; of logs -f as of saggar run.
"""
TITLES = ("ID", "STATE", "STATUS", "QUEUE", "TENANT", "TRIES", "AGE", "TOOK", "WORKER")
SHORT = 8


def main(words: Sequence[str]) -> int:
    """What the first word asks for."""
    return chosen("jobs", SUMMARY, EXAMPLES, ACTIONS, words)


def chosen(
    command: str,
    summary: str,
    examples: str,
    actions: "Mapping[str, tuple[str, Callable[[Sequence[str]], int]]]",
    words: Sequence[str],
) -> int:
    """One of a command's actions, by its first word."""
    if words and words[0] in actions:
        return actions[words[0]][1](words[1:])
    made = Parser(command, summary, examples)
    made.usage = f"saggar {command} ({' | '.join(actions)}) [OPTION...]"
    made.elsewhere = f"wanted one of {', '.join(actions)}"
    group = made.add_argument_group("what to do")
    for name, (text, _) in actions.items():
        group.add_argument(f"({name})", nargs="?", help=text, metavar=name)
    if words and not words[0].startswith("-"):
        raise NotFound.among("action", words[0], actions)
    made.read([word for word in words if word.startswith("-")])
    raise UsageError(f"saggar {command}: wanted one of {', '.join(actions)}")


def ls(words: Sequence[str]) -> int:
    """The newest."""
    made = Parser("jobs ls", "The newest jobs, without what they printed.", "")
    states = ("delayed", "queued", "running", "done", "dead", "cancelled")
    made.add_argument("--state", choices=states, help="only those")
    made.add_argument("--tenant", metavar="NAME", help="only his")
    made.add_argument("--limit", type=int, default=50, metavar="N", help="how many at most (50)")
    made.add_argument("--json", action="store_true", help="print them as one JSON document")
    options = made.read(words)
    if options.limit < 1:
        raise UsageError(f"--limit: wanted a number above 0, found {options.limit}")

    from saggar.jobs import listing
    from saggar.jobs.job import JobState

    state = JobState(options.state) if options.state else None
    found = listing.ls(desk().store, state=state, tenant=options.tenant, limit=options.limit)
    if options.json:
        say(json.dumps({"jobs": [asdict(job) for job in found]}) + "\n")
        return 0
    now = time.time()
    say("\n".join(lines(TITLES, *(cells(job, now) for job in found))) + "\n")
    return 0


def cells(job: "Listed", now: float) -> tuple[str, ...]:
    """A line of the table."""
    took = "-"
    if job.started is not None:
        took = f"{(job.finished or now) - job.started:.1f}s"
    return (
        job.id[:SHORT],
        job.state,
        job.status or "-",
        job.queue,
        job.tenant,
        str(job.attempts),
        span(now - job.created),
        took,
        job.worker or "-",
    )


def show(words: Sequence[str]) -> int:
    """One of them."""
    made = Parser("jobs show", "How a job stands, and what came of it.", "")
    made.add_argument("id", metavar="ID", help="its id, or how it begins")
    made.add_argument("--json", action="store_true", help="print all of it as one JSON document")
    options = made.read(words)

    from saggar.cli.following import found

    job = found(desk(), options.id).job()
    if options.json:
        say(plain_json(job.model_dump_json()) + "\n")
        return 0
    # What a program says of its failure may move the cursor or worse.
    say("\n".join(f"{name:<10}{plain(text)}" for name, text in said(job)) + "\n")
    return 0


def said(job: "Job") -> list[tuple[str, str]]:
    """What there is to know of it, in words."""
    rows = {
        "id": job.id,
        "state": job.state,
        "queue": f"{job.queue}, priority {job.priority}",
        "tenant": job.tenant,
        "attempts": str(job.attempt),
        "created": moment(job.created),
        "started": moment(job.started),
        "finished": moment(job.finished),
        "worker": job.worker or "",
        "code": job.code_hash,
        "failure": f"{job.failure.code}: {job.failure.message}" if job.failure else "",
        "status": "",
    }
    if job.result is not None:
        from saggar.cli.ending import verdict

        rows["status"] = verdict(job.result, job.policy.limits)
    return [(name, text) for name, text in rows.items() if text]


def moment(at: float | None) -> str:
    """A time, as one reads it here."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def logs(words: Sequence[str]) -> int:
    """What it printed."""
    made = Parser("jobs logs", "What a job printed so far.", "")
    made.add_argument("id", metavar="ID", help="its id, or how it begins")
    made.add_argument(
        "-f", "--follow", action="store_true", help="and goes on to print, to its end"
    )
    made.add_argument("-q", "--quiet", action="store_true", help="do not say how it ended")
    options = made.read(words)

    import anyio

    from saggar.cli.following import follow, found, shown

    at = desk()
    job = found(at, options.id)
    stand = job.job()
    try:
        if not options.follow and not stand.state.final:
            anyio.run(shown, so_far(at, job.id))
            return 0
        finished = anyio.run(follow, at.settings, job.id)
    except BrokenPipeError:
        return READER_GONE
    if not options.follow:
        return 0
    return ended(job.job(), finished, options)


async def so_far(at: "SyncDesk", job_id: str) -> "AsyncGenerator[Event]":
    """What there is to read of a job that still runs."""
    from saggar.jobs import keys
    from saggar.jobs.store import EVENTS

    with at.store.guarded():
        entries = at.store.jobs.xrange(keys.events(job_id))
    packed = [fields[b"events"] for _, fields in entries if b"events" in fields]
    for event in (event for each in packed for event in EVENTS.validate_json(each)):
        yield event


def ended(job: "Job", finished: Any, options: Namespace) -> int:
    """How it ended, as an exit code and in a line."""
    from saggar.cli.ending import exit_code, verdict
    from saggar.jobs.submission import ended as came

    outcome = finished or came(job)  # what went wrong on our side is raised
    if not options.quiet:
        complain(verdict(outcome, job.policy.limits))
    return exit_code(outcome)


def cancel(words: Sequence[str]) -> int:
    """Nobody wants them any more."""
    options = _several("jobs cancel", "Jobs that need not start, or are to be killed.", words)

    from saggar.cli.following import found

    at = desk()
    jobs = [found(at, word) for word in options.ids]
    for job in jobs:
        job.cancel()
    return _told("cancelled", [job.id for job in jobs], options)


def retry(words: Sequence[str]) -> int:
    """From the beginning."""
    options = _several("jobs retry", "Start anew what is dead or cancelled.", words)

    from saggar.cli.following import found
    from saggar.jobs import deadletters

    at = desk()
    jobs = [found(at, word) for word in options.ids]
    for job in jobs:
        deadletters.replay(at.store, job.id)
        at.assure(job.job().queue)
    return _told("started", [job.id for job in jobs], options)


def desk() -> "SyncDesk":
    """The queue that the environment names."""
    from saggar.jobs.submission import desk as ours

    return ours()


def _several(command: str, summary: str, words: Sequence[str]) -> Namespace:
    made = Parser(command, summary, "")
    made.add_argument("ids", nargs="+", metavar="ID", help="its id, or how it begins")
    made.add_argument("--json", action="store_true", help="say which they were as JSON")
    return made.read(words)


def _told(what: str, ids: list[str], options: Namespace) -> int:
    if options.json:
        say(json.dumps({what: ids}) + "\n")
    return 0


ACTIONS = {
    "ls": ("the newest of them", ls),
    "show": ("one of them", show),
    "logs": ("what it printed; -f to read along", logs),
    "cancel": ("they need not start, or are killed", cancel),
    "retry": ("start anew what is dead or cancelled", retry),
}
