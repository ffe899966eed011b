"""Between RunPod's words and ours: a request as the sandbox reads it, a reply as clients do."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from saggar.compat.runpod import FunctionRequest, FunctionResponse
from saggar.compat.runpod_log import JobLog, level
from saggar.errors import InvalidTask
from saggar.functions.kept import Held, Reply
from saggar.model.codec import JSON, decode_value
from saggar.model.paths import relative
from saggar.model.quantity import format_bytes

LARGEST_MODULES: Final = 8 << 20


def said_of(request: FunctionRequest) -> dict[str, Any]:
    """
    A request as `guest/foreign.py` reads it.

    Raises:
        InvalidTask: Something in it is not what it should be.
    """
    form = request.serialization_format
    if form not in {"json", "cloudpickle"}:
        raise InvalidTask(
            f"serialization_format: wanted 'cloudpickle' or 'json', found {form!r:.60}"
        )
    values = (
        *request.args,
        *request.kwargs.values(),
        *request.constructor_args,
        *request.constructor_kwargs.values(),
    )
    if form == "cloudpickle" and not all(isinstance(value, str) for value in values):
        raise InvalidTask(
            "wanted every argument as base64 of a pickle; plain ones need"
            " serialization_format 'json'"
        )
    return {
        "kind": "class" if request.is_class else "function",
        "name": request.name,
        "code": request.code,
        "format": form,
        "args": request.args,
        "kwargs": request.kwargs,
        "made_args": request.constructor_args,
        "made_kwargs": request.constructor_kwargs,
        "method": request.method_name,
        "modules": checked(request.modules),
        "log_level": level(),
    }


def checked(modules: Mapping[str, str]) -> dict[str, str]:
    """Modules whose paths stay in their folder. InvalidTask for others, and for too many."""
    weight = sum(map(len, modules.values()))
    if weight > LARGEST_MODULES:
        most = format_bytes(LARGEST_MODULES)
        raise InvalidTask(f"modules: {format_bytes(weight)} of source, more than {most}")
    for path in modules:
        try:
            relative(path)
        except ValueError as exc:
            raise InvalidTask(f"modules: {exc}") from None
    return dict(modules)


def response(
    reply: Reply,
    log: JobLog,
    instance_id: str | None = None,
    about: dict[str, Any] | None = None,
) -> FunctionResponse:
    """A reply as clients read it: what was printed by stream, and not by time."""
    stdout = log.before(reply.stdout + reply.stderr + reply.log)
    result, plain, error = reply.text, None, reply.error
    if reply.result is not None:
        result = base64.b64encode(reply.result).decode()
    if reply.json is not None:
        try:
            plain = decode_value(reply.json, JSON)
        except ValueError as exc:  # a guest may say anything in the place of JSON
            error = f"its answer is no JSON: {exc}"
    if not reply.success and not error:
        error = "it ended without an answer"
    return FunctionResponse(
        success=reply.success and error is None,
        result=result,
        json_result=plain,
        error=error,
        stdout=stdout,
        instance_id=instance_id,
        instance_info=about,
    )


def info(name: str, held: Held) -> dict[str, Any]:
    """What is known of an instance; its times have no zone, as clients have it."""

    def naive(moment: float) -> str:
        return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None).isoformat()

    return {
        "class_name": name,
        "created_at": naive(held.created),
        "last_used": naive(held.used),
        "method_calls": held.calls,
    }
