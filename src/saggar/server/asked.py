"""
What is asked for: a task as its JSON, and what is said beside it.

The short form `{"code": "print(1)"}` is a program; all of one goes under `program`.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from pydantic import ValidationError

from saggar.errors import InvalidTask
from saggar.jobs.job import job_limits
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.secrets import NO_SECRETS, Secrets
from saggar.model.task import Task
from saggar.model.value import Value

V = TypeVar("V", bound=Value)
B = TypeVar("B", bound="Bounds")

SHORT: Final = ("code", "language", "entry", "environment")
"""Fields of a program that may be said without it."""


class Bounds(Value):
    """What a run may touch and consume."""

    policy: Policy | None = None
    limits: Mapping[str, Any] | None = None
    leave: bool = False
    """Whether what is large in the answer is left behind, to be fetched as an upload is."""

    def within(self, ceiling: Policy, usual: Limits | None = None) -> Policy:
        """The policy that is meant; `usual` are the limits of what has none."""
        wanted = self.policy or Policy()
        if usual is not None and "limits" not in wanted.model_fields_set:
            wanted = wanted.replace(limits=usual)
        if self.limits is not None:
            wanted = wanted.replace(limits=wanted.limits.replace(**self.limits))
        return wanted.within(ceiling)


class Submission(Bounds):
    """What is said about a job beside its task."""

    key: str | None = None
    cache: bool = False
    priority: int | None = None
    queue: str = "code_execution"
    tenant: str | None = None
    delay: float = 0.0
    webhook: str | None = None
    retry_on: tuple[Literal["timeout", "memory", "oserror"], ...] | None = None

    def policy_within(self, ceiling: Policy) -> Policy:
        """The policy of the job."""
        return self.within(ceiling, job_limits(self.queue))


def run(document: Any) -> tuple[Task, Bounds]:
    """A run. InvalidTask."""
    return _divided(document, Bounds)


def job(document: Any) -> tuple[Task, Submission]:
    """A job. InvalidTask."""
    if isinstance(document, dict) and isinstance(document.get("secrets"), dict):
        raise InvalidTask(
            "secrets: a job waits in a queue, where no value should lie; name them, and its"
            " operator keeps them as SAGGAR_SECRET_<NAME>"
        )
    return _divided(document, Submission)


def with_secrets(document: Any) -> tuple[Any, Secrets]:
    """A run's document with the names of its secrets only, and the values that came along."""
    if not isinstance(document, dict) or not isinstance(document.get("secrets"), dict):
        return document, NO_SECRETS
    given = Secrets(document["secrets"])
    return {**document, "secrets": list(given.names)}, given


def described(model: type[Bounds]) -> dict[str, Any]:
    """What a route says of its body in the application's own description."""
    schema = {"allOf": [Task.model_json_schema(), model.model_json_schema()]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _divided(document: Any, beside: type[B]) -> tuple[Task, B]:
    if not isinstance(document, dict):
        raise InvalidTask('wanted an object such as {"code": "print(1)"}')
    known = {*Task.model_fields, *beside.model_fields, *SHORT}
    for name in document.keys() - known:
        raise InvalidTask(f"no field named {name!r:.60}{_near(name, known)}")
    said = {name: document[name] for name in document if name in beside.model_fields}
    task = {name: document[name] for name in document if name in Task.model_fields}
    if short := {name: document[name] for name in document if name in SHORT}:
        if "program" in task:
            raise InvalidTask(f"{', '.join(short)}: a program has them inside; say one of both")
        task["program"] = {**short, "code": _code(short.get("code"))}
    return _read(Task, task), _read(beside, said)


def _code(code: object) -> object:
    return {"kind": "inline", "text": code} if isinstance(code, str) else code


def _read(model: type[V], found: Mapping[str, Any]) -> V:
    try:
        # As JSON, in which bytes are base64, and not as Python, where text is taken for them.
        return model.model_validate_json(json.dumps(found))
    except ValidationError as exc:
        raise InvalidTask.from_validation(exc, model.model_fields) from None


def _near(name: str, known: set[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(known))}"
