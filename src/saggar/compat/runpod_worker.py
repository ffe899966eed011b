"""
The worker: what a request does, and the response that comes of it.

Functions run in fresh sandboxes, instances of classes in ones that are kept for as long as the
worker lives. Nothing that user code does reaches the worker's own process.
"""

import hashlib
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from saggar.compat.runpod import FunctionRequest, FunctionResponse
from saggar.compat.runpod_baked import BakedExecutor, refusal
from saggar.compat.runpod_log import LOGGER, JobLog
from saggar.compat.runpod_prepare import NotPrepared, environment_of, prepare
from saggar.compat.runpod_words import info, response, said_of
from saggar.config import Settings, load_plain, names_only
from saggar.errors import InvalidTask, SaggarError, UsageError
from saggar.functions.baked import check_words, is_baked_mode_enabled, is_strict
from saggar.functions.kept import Kept, Terms, once
from saggar.model.environment import Environment
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.program import Inline, Program
from saggar.model.task import Task
from saggar.platform import background, configure

DEFAULTS: Final = {"wall": 600.0, "memory": "2GiB", "cpu_share": 4.0, "processes": 256}
"""Of a request, unless the operator says otherwise."""
VARIABLES: Final = {
    "wall": "EXECUTION_TIMEOUT",
    "memory": "EXECUTION_MEMORY",
    "cpu_share": "EXECUTION_CPUS",
    "processes": "EXECUTION_PROCESSES",
    "isolation": "EXECUTION_ISOLATION",
    "network": "EXECUTION_NETWORK",
    "gpu": "EXECUTION_GPU",
}


def terms(environ: Mapping[str, str] = os.environ, settings: Settings | None = None) -> Terms:
    """
    What requests may touch, as the variables say: nothing, if they say nothing, but the GPUs.

    Raises:
        UsageError: One of them does not fit.
    """
    found = {
        name: environ[variable] for name, variable in VARIABLES.items() if environ.get(variable)
    }
    floor: dict[str, Any] = {"gpu": _gpus(settings)}
    floor |= {name: found.pop(name) for name in ("isolation", "network", "gpu") if name in found}
    said: dict[str, Any] = {**DEFAULTS, **found}
    listed = environ.get("EXECUTION_BEST_EFFORT", "").replace(",", " ").split()
    shown = environ.get("EXECUTION_HOST_PACKAGES", "").strip().lower() in {"true", "1", "yes"}
    try:
        limits = Limits(**said)
        disk = min(limits.memory, 1 << 40)
        cpu = min(limits.wall * max(1.0, limits.cpu_share), 7 * 86400.0)
        limits = limits.replace(cpu=cpu, file_size=disk, disk=disk, output="16MiB")
        policy = Policy(
            limits=limits,
            host_packages=shown,
            best_effort=frozenset(name.replace("-", "_") for name in listed),
            **floor,
        )
    except InvalidTask as exc:
        complaint = str(exc)
        for name, variable in VARIABLES.items():
            complaint = complaint.replace(f"limits.{name}: ", f"{variable}: ")
            complaint = complaint.replace(f"policy.{name}: ", f"{variable}: ")
        raise UsageError(complaint) from None
    driver = environ.get("SAGGAR_DRIVER") or (settings.driver if settings else None)
    return Terms(Environment(host_packages=shown), policy, driver)


def _gpus(settings: Settings | None) -> int:
    """All that can be shown: a worker has them for its requests, where the operator allows it."""
    if os.geteuid() != 0:  # nor can everybody's walls show them
        return 0
    from saggar.drivers import gpu

    machine = gpu.look()
    ceiling = settings.ceiling if settings else None
    there = 0 if gpu.lacking(machine, 1) else len(machine.cards)
    return min(there, there if ceiling is None else ceiling.gpu)


@cache
def current() -> "Worker":
    """The worker of this process: instances live as long as it does."""
    return configured(None)


def configured(registry: Path | None) -> "Worker":
    """
    A worker as variables and settings have it, those of Saggar included.

    Raises:
        UsageError: One of them does not fit.
    """
    settings = load_plain()
    baked = registry is not None or is_baked_mode_enabled()
    # Every other door of this process takes names only then, and so none of them opens.
    configure(names_only(settings) if baked and is_strict() else settings)
    return Worker(terms_of(settings), registry=registry)


def terms_of(settings: Settings) -> Terms:
    """What requests may touch where the operator has a ceiling."""
    found = terms(settings=settings)
    ceiling = settings.ceiling
    return found if ceiling is None else replace(found, policy=found.policy.within(ceiling))


class Worker:
    """Does requests, on one kind of terms. One with a registry is in baked mode."""

    def __init__(
        self, terms: Terms, *, kept: Kept | None = None, registry: Path | None = None
    ) -> None:
        check_words()
        self._terms = terms
        self._kept = kept or Kept()
        self.baked_executor: BakedExecutor | None = None
        self._strict = is_strict()
        if registry is not None or is_baked_mode_enabled():
            self.baked_executor = BakedExecutor(None, registry, terms=terms)
            line = "✅ Baked execution mode ENABLED - using pre-installed code"
        else:
            # As documented, letter by letter.
            line = "ℹ️  Baked execution mode DISABLED - using dynamic code execution"  # noqa: RUF001
        logging.getLogger(LOGGER).info(line)

    async def handle(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The response to an event, as a document. Never raises for what a request holds."""
        try:
            request = self._read(event)
            response = await self.execute(request)
        except (ValueError, TypeError, SaggarError) as exc:
            response = FunctionResponse(success=False, error=f"Error in handler: {exc}")
        return response.model_dump()

    def _read(self, event: object) -> FunctionRequest:
        said = event.get("input") if isinstance(event, Mapping) else None
        if not isinstance(said, Mapping):
            raise InvalidTask("wanted an event such as {'input': {...}}")
        plain = dict(said)
        if self.baked_executor is not None and not plain.get("baked"):
            kind = "class" if plain.get("execution_type") == "class" else "function"
            # Clients that deploy beforehand send no code and know nothing of this word.
            plain["baked"] = plain.get(f"{kind}_code") is None
        return FunctionRequest.model_validate(plain)

    async def execute(self, request: FunctionRequest) -> FunctionResponse:
        """Do it, in a sandbox. A failure is a response; SaggarError where it could not be tried."""
        log = JobLog()
        if (baked := self.baked_executor) is not None:
            if self._strict and (reason := refusal(request)):
                raise InvalidTask(reason)
            if not self._strict and not baked.takes(request):
                log.doubt(f"{request.name} is not baked; its code is executed dynamically")
            else:
                log.say(f"Using baked execution for {request.name}")
                return await baked.aexecute(request, log)
        if request.code is None and baked is not None:
            names = ", ".join(sorted(baked.registry)[:20]) or "nothing"
            raise InvalidTask(
                f"{request.name}: no code came along, and it was not baked; there is: {names}"
            )
        if request.code is None:
            raise InvalidTask(
                f"{request.name}: no code came along, and baked mode is off:"
                " TETRA_BAKED_MODE=true turns it on"
            )
        return await self._dynamic(request, log)

    async def _dynamic(self, request: FunctionRequest, log: JobLog) -> FunctionResponse:
        self._terms.policy.admit(Task(program=Program(code=Inline(text=request.code or ""))))
        said, here = said_of(request), background()
        try:
            environment = environment_of(request, self._terms.environment)
            await here.acall(prepare, here.platform, request, environment, self._terms.policy, log)
        except NotPrepared as exc:
            return FunctionResponse(success=False, error=str(exc), stdout=log.before(""))
        around = Terms(environment, self._terms.policy, self._terms.driver, self._terms.secrets)
        if not request.is_class:
            log.say(f"Executing function: {request.name}")
            return response(await here.acall(once, here.platform, around, said), log)
        key = request.instance_id or f"{request.name}_{uuid.uuid4().hex[:8]}"
        log.say(f"Executing method: {request.name}.{request.method_name} of {key}")
        if request.create_new_instance and request.instance_id:
            await here.acall(self._kept.end, key)
        # Whoever names an instance finds that of his own code only.
        of = hashlib.sha256(f"{request.name}\0{request.code}\0{environment!r}".encode()).hexdigest()
        reply, held = await here.acall(self._kept.call, here.platform, key, of, around, said)
        return response(reply, log, key, info(request.name, held))
