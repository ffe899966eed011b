"""`saggar submit`: a program that a worker runs, now or later; waited for, if that is wanted."""

import json
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import Parser, split
from saggar.cli.main import INTERRUPTED, OURS, READER_GONE, complain, say
from saggar.cli.options import answer, program, secrets, surroundings
from saggar.errors import InvalidTask, UsageError

if TYPE_CHECKING:
    from saggar.config import Settings
    from saggar.jobs.submission import SyncJob
    from saggar.model.policy import Policy
    from saggar.model.task import Task

SUMMARY = "Leave a program to a worker. Its id is printed; saggar jobs says what became of it."
EXAMPLES = """\
examples:
  saggar submit -c 'print(6 * 7)' --wait
  id=$(saggar submit train.py --queue code_execution_heavy --memory 1GiB)
  saggar jobs logs -f "$id"
  saggar submit report.py --delay 10m --key report-2026-11 --webhook https://example.org/done

Limits are those of jobs where none are named: 90s and 30s more, 120s of processor time, 1GiB, 10
processes. --queue code_execution_heavy has 240s and 60s more. With no broker named, one of our own
is started, and a worker beside it.
Exit code: 0 it was submitted; with --wait as of saggar run; 2 a mistake in the call; 70 the queue
does not answer; 130 Ctrl-C while waiting, and the job goes on.
"""
FIELD = re.compile(r"^(?:job\.)?(queue|tenant|delay|key|webhook): ")
WISHES = ("key", "priority", "queue", "tenant", "delay", "webhook", "retry_on")


def main(words: Sequence[str]) -> int:
    """Submit what the words ask for."""
    ours, theirs = split(words)
    options = parser().read(ours)
    if options.driver is not None:
        raise UsageError("--driver: a worker's own choice; SAGGAR_DRIVER names it there")

    from saggar.cli.request import request
    from saggar.config import load
    from saggar.jobs.submission import desk

    settings = load()
    said = wishes(options)
    task, asked = request(options, theirs)
    policy = narrowed(asked, options.queue, settings)
    with as_options():
        job = desk(settings).submit(task, policy, **said)
    if not options.wait:
        found = {"id": job.id, "came": job.came}
        say((json.dumps(found) if options.json else job.id) + "\n")
        return 0
    try:
        return waited(job, task, policy, options)
    except KeyboardInterrupt:
        complain(f"the job goes on: saggar jobs logs -f {job.id}")
        return INTERRUPTED


@contextmanager
def as_options() -> Iterator[None]:
    """What is said of a job's fields, said of options."""
    try:
        yield
    except InvalidTask as exc:
        raise InvalidTask(FIELD.sub(r"--\1: ", str(exc))) from None


def parser() -> Parser:
    """Everything `saggar submit` understands before `--`."""
    made = Parser("submit", SUMMARY, EXAMPLES)
    made.usage = "saggar submit (FILE | -c CODE | -) [OPTION...] [-- ARGUMENT...]"
    made.elsewhere = "the program's own arguments go after --"
    program(made)
    _job(made)
    secrets(made, "where it is run, SAGGAR_SECRET_NAME there")
    surroundings(made)
    answer(made)
    return made


def _job(made: Parser) -> None:
    group = made.add_argument_group("the job")
    group.add_argument("--wait", action="store_true", help="show what it prints, until its end")
    group.add_argument("--queue", metavar="NAME", help="where it waits (code_execution)")
    group.add_argument("--priority", metavar="N", help="0 to 9 among your jobs; 0 is first (5)")
    group.add_argument("--tenant", metavar="NAME", help="for whom it is (default)")
    group.add_argument("--delay", metavar="TIME", help="how long it waits at least")
    group.add_argument("--key", metavar="TEXT", help="another submission with it joins this one")
    group.add_argument(
        "--cache",
        action="store_true",
        help="the same work, submitted within the hour, is served from one run",
    )
    group.add_argument("--webhook", metavar="URL", help="is told of its end")
    group.add_argument(
        "--retry-on",
        metavar="WHY",
        nargs="+",
        choices=("timeout", "memory", "oserror"),
        help="try again what fails by itself like that: timeout, memory, oserror",
    )


def wishes(options: Namespace) -> Any:
    """What was said about the job."""
    from saggar.model.quantity import parse_seconds

    said = {name: getattr(options, name) for name in WISHES if getattr(options, name) is not None}
    if options.cache:
        said["cache"] = True
    try:
        if "delay" in said:
            said["delay"] = parse_seconds(said["delay"])
    except ValueError as exc:
        raise UsageError(f"--delay: {exc}") from None
    if said.get("key") == "":
        raise UsageError("--key: wanted up to 200 printable characters, found none")
    if "priority" in said:
        if not (said["priority"].isdecimal() and int(said["priority"]) <= 9):
            raise UsageError(f"--priority: wanted 0 to 9, found {said['priority']!r:.60}")
        said["priority"] = int(said["priority"])
    return said


def narrowed(asked: "Policy", queue: str | None, settings: "Settings") -> "Policy":
    """The policy, with a job's limits where none were named, and below the operator's ceiling."""
    from saggar.jobs.job import STANDARD, job_limits

    named = {name: getattr(asked.limits, name) for name in asked.limits.model_fields_set}
    wanted = asked.replace(limits=job_limits(queue or STANDARD, **named))
    return wanted if settings.ceiling is None else wanted.within(settings.ceiling)


def waited(job: "SyncJob", task: "Task", policy: "Policy", options: Namespace) -> int:
    """What it prints, and how it ended; the exit code."""
    import anyio

    from saggar.cli.ending import exit_code, verdict
    from saggar.cli.following import follow
    from saggar.cli.run import Run
    from saggar.config import Settings, load

    if options.json:
        result = job.result()
        say(result.model_dump_json() + "\n")
        if not options.quiet:
            complain(verdict(result, policy.limits))
        return exit_code(result)
    try:
        finished = anyio.run(follow, load(), job.id)
    except BrokenPipeError:
        return READER_GONE
    if finished is None:
        job.result()  # what went wrong on our side is raised
        return OURS
    return Run(task, policy, Settings(), quiet=options.quiet).conclude(finished)
