"""
`BakedExecutor`: baked programs for requests of RunPod's protocol, with the documented methods.

    if is_baked_mode_enabled():
        executor = BakedExecutor(workspace_manager)
        response = executor.execute(request)
"""

import logging
import os
from functools import partial
from typing import Any, Final

from saggar.compat import runpod_log
from saggar.compat.runpod import FunctionRequest, FunctionResponse
from saggar.compat.runpod_log import JobLog
from saggar.compat.runpod_words import info, response, said_of
from saggar.config import load_plain
from saggar.errors import InvalidTask, NotFound, SaggarError
from saggar.functions.baked import Baked, is_baked_mode_enabled, is_strict, located
from saggar.functions.kept import Terms
from saggar.functions.manifest import Registry
from saggar.platform import background

LOGGER: Final = logging.getLogger(runpod_log.LOGGER)


class BakedExecutor:
    """
    Executes what was baked, by its name: imported, never given as text.

    Args:
        workspace_manager: A folder with `baked_code` in it, or whatever it was elsewhere.
        registry_path: Where the registry is; /app/baked_code/registry.json in images.
        terms: What programs may touch.

    Raises:
        InvalidTask: The registry is missing or bad. With SAGGAR_BAKED_STRICT off that is a warning,
            and there is nothing to execute.
    """

    def __init__(
        self,
        workspace_manager: object = None,
        registry_path: "str | os.PathLike[str] | None" = None,
        *,
        terms: Terms | None = None,
    ) -> None:
        self.workspace_manager = workspace_manager
        self.registry_path = located(workspace_manager, registry_path)
        self.strict = is_strict()
        self._registry = self._loaded()
        self._terms = terms or _usual()
        self._baked = Baked(self._registry, self._terms)
        LOGGER.info("Initialized BakedExecutor with %d registered callables", len(self.registry))

    @property
    def registry(self) -> dict[str, Any]:
        """What is registered, by name, as the file has it."""
        return {
            name: {"type": entry.type, "module": entry.module, "name": entry.name}
            for name, entry in self._registry.entries.items()
        }

    def _loaded(self) -> Registry:
        try:
            return Registry.load(self.registry_path)
        except InvalidTask as exc:
            if self.strict:
                raise
            LOGGER.warning("%s; nothing is registered", exc)
            return Registry(self.registry_path.parent.absolute(), {})

    def is_baked(self, name: str) -> bool:
        """Whether something was baked under this name."""
        return name in self._registry.entries

    def takes(self, request: FunctionRequest) -> bool:
        """Whether it is for us: the name is registered, and no code came along."""
        return self.is_baked(request.name) and request.code is None

    def execute(self, request: FunctionRequest) -> FunctionResponse:
        """Call what the request names, and wait; also inside a running loop, which then waits."""
        return background().call(self._executed, request, JobLog())

    async def aexecute(
        self, request: FunctionRequest, log: JobLog | None = None
    ) -> FunctionResponse:
        """The same for code with an event loop, whichever."""
        return await background().acall(self._executed, request, log or JobLog())

    def execute_function(self, request: FunctionRequest) -> FunctionResponse:
        """`execute`, for functions."""
        return self.execute(request.model_copy(update={"execution_type": "function"}))

    def execute_class_method(self, request: FunctionRequest) -> FunctionResponse:
        """`execute`, for methods of classes."""
        return self.execute(request.model_copy(update={"execution_type": "class"}))

    async def _executed(self, request: FunctionRequest, log: JobLog) -> FunctionResponse:
        try:
            return await self._called(request, log)
        except SaggarError as exc:
            return FunctionResponse(success=False, error=str(exc), stdout=log.before(""))

    async def _called(self, request: FunctionRequest, log: JobLog) -> FunctionResponse:
        if self.strict and (reason := refusal(request)):
            raise InvalidTask(reason)
        entry = self._registry.entries.get(request.name)
        if entry is None or entry.type != ("class" if request.is_class else "function"):
            what = "Class" if request.is_class else "Function"
            return FunctionResponse(
                success=False, error=f"{what} '{request.name}' not found in baked registry"
            )
        said = said_of(request.model_copy(update={"modules": {}}))
        if not request.is_class:
            log.say(f"Executing baked function: {request.name}")
            reply, _ = await self._baked.call(request.name, said, log=log.say)
            return response(reply, log)
        return await self._method(request, said, log)

    async def _method(
        self, request: FunctionRequest, said: dict[str, Any], log: JobLog
    ) -> FunctionResponse:
        instance = request.instance_id or request.name
        log.say(f"Executing baked class method: {request.name}.{request.method_name}")
        there = self._baked.has(request.name, instance)
        if there and not request.create_new_instance:
            log.say(f"Reusing existing instance: {instance}")
        else:
            log.say(f"Creating new instance of baked class: {request.name}")
        reply, held = await self._baked.call(
            request.name, said, instance, anew=request.create_new_instance, log=log.say
        )
        return response(reply, log, instance, info(request.name, held))

    def _load_callable(self, module: str, name: str) -> Any:
        """
        What is registered as `name` of `module`, to be called with plain arguments, behind walls.

        Raises:
            ImportError: Nothing of this module is registered.
            AttributeError: Something is, and not this.
        """
        ours = {key: e for key, e in self._registry.entries.items() if e.module == module}
        if not ours:
            raise ImportError(f"Failed to import baked module '{module}': it is not registered")
        found = next((key for key, entry in ours.items() if entry.name == name), None)
        if found is None:
            raise AttributeError(f"Callable '{name}' not found in module '{module}'")
        return partial(self._plainly, found)

    def _plainly(self, name: str, /, *args: Any, **named: Any) -> Any:
        request = FunctionRequest(
            function_name=name,
            args=list(args),
            kwargs=named,
            serialization_format="json",
            baked=True,
        )
        found = self.execute(request)
        if not found.success:
            raise NotFound(found.error or name)
        return found.json_result


def refusal(request: FunctionRequest) -> str:
    """Why a request is none for production mode; empty if it is one."""
    carried = {
        "code": request.function_code or request.class_code,
        "modules": request.modules,
        "dependencies": request.dependencies,
        "system_dependencies": request.system_dependencies,
        "hf_models_to_cache": request.hf_models_to_cache,
        "pickled arguments": request.pickles,
    }
    for what, there in carried.items():
        if there:
            return (
                f"baked mode takes names and JSON only, and {request.name} came with {what};"
                " bake it, or set SAGGAR_BAKED_STRICT=false, which executes what is sent"
            )
    return ""


def _usual() -> Terms:
    from saggar.compat.runpod_worker import terms_of

    return terms_of(load_plain())


__all__ = ["BakedExecutor", "is_baked_mode_enabled", "refusal"]
