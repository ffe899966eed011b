"""
RunPod's worker protocol: what a request is, what a response is, and `handler(event)`.

Every field of every generation of clients is here, and what is unknown is ignored. What a request
does is `runpod_worker`'s to say.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

TEXTS = {
    "function_name": 'function_name is required when execution_type is "function"',
    "function_code": 'function_code is required when execution_type is "function" and baked=False',
    "class_name": 'class_name is required when execution_type is "class"',
    "class_code": 'class_code is required when execution_type is "class" and baked=False',
}


class FunctionRequest(BaseModel):  # type: ignore[no-redef]  # pydantic's plugin has a kwargs, too
    """A function or a method to call, as clients send it."""

    model_config = ConfigDict(extra="ignore")

    function_name: str | None = None
    function_code: str | None = None
    args: list[Any] = Field(default_factory=list)
    """Each of them pickled, as base64; with serialization_format "json" as it is."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    dependencies: list[str] | None = None
    system_dependencies: list[str] | None = None
    execution_type: str = "function"
    """ "class" is one; everything else is a function, as it has always been."""
    class_name: str | None = None
    class_code: str | None = None
    constructor_args: list[Any] = Field(default_factory=list)
    constructor_kwargs: dict[str, Any] = Field(default_factory=dict)
    method_name: str = "__call__"
    instance_id: str | None = Field(default=None, max_length=512)
    create_new_instance: bool = True
    """False, which clients send: the instance of this id, made if there is none."""
    accelerate_downloads: bool = True
    hf_models_to_cache: list[str] | None = None
    serialization_format: str = "cloudpickle"
    modules: dict[str, str] = Field(default_factory=dict)
    """Source by its path: importable beside the code."""
    baked: bool = Field(
        default=False,
        description="Use baked execution (production mode) - code is pre-installed in container",
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_the_default(cls, said: Any) -> Any:
        """Clients send null for what they do not use."""
        if not isinstance(said, dict):
            return said
        return {name: value for name, value in said.items() if value is not None}

    @model_validator(mode="after")
    def validate_execution_requirements(self) -> "FunctionRequest":
        """A name, and code unless it was baked."""
        what = "class" if self.is_class else "function"
        if self.execution_type not in {"function", "class"}:
            return self
        for field in (f"{what}_name", f"{what}_code"):
            if getattr(self, field) is None and not (self.baked and field.endswith("_code")):
                raise ValueError(TEXTS[field])
        return self

    @property
    def is_class(self) -> bool:
        """Whether a method is called."""
        return self.execution_type == "class"

    @property
    def name(self) -> str:
        """Of the function or class."""
        return (self.class_name if self.is_class else self.function_name) or "unknown"

    @property
    def code(self) -> str | None:
        """The source that came along."""
        return self.class_code if self.is_class else self.function_code

    @property
    def pickles(self) -> bool:
        """Whether something in it is pickled."""
        held = (self.args, self.kwargs, self.constructor_args, self.constructor_kwargs)
        return self.serialization_format != "json" and any(held)


class FunctionResponse(BaseModel):
    """What came of a request, as clients read it."""

    success: bool
    result: str | None = None
    """A pickle as base64, made inside; of None as well."""
    json_result: Any = None
    error: str | None = None
    stdout: str | None = None
    instance_id: str | None = None
    instance_info: dict[str, Any] | None = None


async def handler(event: dict[str, Any]) -> dict[str, Any]:
    """
    Do the request in `event["input"]`; what goes wrong is a response as well.

    Give it to `runpod.serverless.start({"handler": handler})`, or await it yourself. What requests
    may touch is said by variables; see `docs/runpod.md`.
    """
    from saggar.compat.runpod_worker import current

    return await current().handle(event)
