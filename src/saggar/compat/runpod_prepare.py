"""Dependencies of a request: packages, system packages and models, there before anything runs."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio

from saggar.compat.runpod import FunctionRequest
from saggar.compat.runpod_log import JobLog
from saggar.errors import InvalidTask, PrepareFailed, SaggarError
from saggar.model.environment import Environment
from saggar.model.policy import Network, Policy
from saggar.platform import Platform

LAST_WORDS: Final = 4000
_FIELDS: Final = {
    "system_dependencies": ("system_packages", "system_dependencies"),
    "python_dependencies": ("packages", "dependencies"),
    "hf_models": ("models", "hf_models_to_cache"),
}


class NotPrepared(Exception):
    """Something that a request needs cannot be had; its text is the response's."""


def environment_of(request: FunctionRequest, base: Environment) -> Environment:
    """
    What a request wants around it. NotPrepared where a name is none.

    Raises:
        NotPrepared: A package's name is something else, as an option.
    """
    said, failed = {}, []
    for task, (field, asked) in _FIELDS.items():
        if names := getattr(request, asked):
            try:
                base.replace(**{field: tuple(names)})
            except InvalidTask as exc:
                failed.append(f"{task}: {exc}")
            said[field] = (*getattr(base, field), *names)
    if failed:
        raise NotPrepared(f"Failed tasks: {'; '.join(failed)}")
    if not request.accelerate_downloads:
        said.pop("models", None)  # as it has always been: fetching ahead is an acceleration
    return base.replace(**said) if said else base


async def prepare(
    platform: Platform, request: FunctionRequest, whole: Environment, policy: Policy, log: JobLog
) -> None:
    """
    Have all of it, at the same time where downloads are accelerated; else in order.

    Raises:
        NotPrepared: One of them cannot be had; says which, and what its installer said.
    """
    jobs = _jobs(platform, whole, policy, log)
    failed: dict[str, str] = {}

    async def one(task: str) -> None:
        try:
            await jobs[task]()
        except SaggarError as exc:
            failed[task] = _words(exc)

    if jobs and request.accelerate_downloads:
        async with anyio.create_task_group() as tasks:
            for task in jobs:
                tasks.start_soon(one, task)
        done = f"{len(jobs) - len(failed)}/{len(jobs)}"
        log.say(f"Parallel installation: {done} tasks completed successfully")
    else:
        for task in jobs:
            if not failed:
                await one(task)
    if failed:
        words = "; ".join(f"{task}: {failed[task]}" for task in jobs if task in failed)
        raise NotPrepared(f"Failed tasks: {words}")


def _jobs(
    platform: Platform, whole: Environment, policy: Policy, log: JobLog
) -> dict[str, Callable[[], Awaitable[object]]]:
    """What prepares each kind of dependency that there is."""
    bare = Environment(python=whole.python, host_packages=whole.host_packages)
    offline = policy.network is not Network.HOST
    jobs: dict[str, Callable[[], Awaitable[object]]] = {}
    for task, (field, _) in _FIELDS.items():
        if names := getattr(whole, field):
            log.say(f"Preparing {task}: {', '.join(names)}")
            part = bare.replace(**{field: names})
            jobs[task] = partial(platform.prepare, part, progress=log.detail, offline=offline)
    return jobs


def _words(exc: SaggarError) -> str:
    if isinstance(exc, PrepareFailed) and exc.log:
        return f"{exc}\n{exc.log[-LAST_WORDS:]}".strip()
    return str(exc)
