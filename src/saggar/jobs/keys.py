"""
The names of what we keep in Redis, and the scripts that change it.

A script is one step for whoever looks on: a job is never between two states.
"""

from functools import cache
from importlib import resources
from typing import Final

PREFIX: Final = "saggar:"
CANCEL: Final = f"{PREFIX}cancel"
"""The channel on which workers hear of jobs that nobody wants any more."""
JOBS: Final = f"{PREFIX}jobs"
WORKERS: Final = f"{PREFIX}workers"
COUNTS: Final = f"{PREFIX}counts"
WEBHOOKS: Final = f"{PREFIX}webhooks"
"""Whom to tell of which end, and when."""
SWEPT: Final = f"{PREFIX}swept"
"""There for an hour after somebody removed what nobody wants any more."""


def record(job_id: str) -> str:
    """The hash of what is known of a job."""
    return f"{PREFIX}job:{job_id}"


def past(job_id: str) -> str:
    """When a job that is forgotten came to its end."""
    return f"{PREFIX}past:{job_id}"


def done(job_id: str) -> str:
    """The list that gets its entry when a job is final."""
    return f"{PREFIX}done:{job_id}"


def events(job_id: str) -> str:
    """The stream of what a run does."""
    return f"{PREFIX}events:{job_id}"


def watched(job_id: str) -> str:
    """There as long as somebody looks on, or did lately."""
    return f"{PREFIX}watched:{job_id}"


def result(job_id: str, token: str) -> str:
    """In the database of results: what came of the attempt under this lease."""
    return f"{PREFIX}result:{job_id}:{token}"


def blob(digest: str) -> str:
    """In the database of results: bytes by what they are."""
    return f"{PREFIX}blob:{digest}"


@cache
def script(name: str) -> str:
    """The text of a script, with what all have in common before it."""
    folder = resources.files("saggar.jobs") / "scripts"
    return "\n".join((folder / f"{part}.lua").read_text() for part in ("prelude", name))
