"""
What an error looks like over HTTP: RFC 9457, `application/problem+json`.

One table says which status an error of ours is. A program that fails is no error here: it is a
result, and comes with 200.
"""

import http
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from saggar.errors import (
    Conflict,
    DriverUnavailable,
    Expired,
    InvalidTask,
    NotFound,
    Overloaded,
    PlatformError,
    PolicyDenied,
    QueueUnavailable,
    SaggarError,
    UsageError,
)

MEDIA_TYPE: Final = "application/problem+json"
STATUS: Final[Mapping[type[SaggarError], int]] = {
    InvalidTask: 422,
    PolicyDenied: 403,
    NotFound: 404,
    Expired: 410,
    Conflict: 409,
    UsageError: 400,
    Overloaded: 503,
    QueueUnavailable: 503,
    DriverUnavailable: 503,
    PlatformError: 500,
}
"""By the nearest class of an error that is named here."""
CODES: Final = {
    400: "bad-request",
    401: "no-key",
    404: NotFound.code,
    405: "method-not-allowed",
    408: "too-slow",
    413: "too-large",
    415: "not-json",
}
"""Where no error of ours has a better one. Titles differ between versions of Python."""
_KNOWN: Final = frozenset(map(int, http.HTTPStatus))
OURS: Final = "something of ours failed; the server's log says what"


def status_of(exc: SaggarError) -> int:
    """Which status an error is."""
    return next((STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS), 500)


def problem(
    status: int,
    detail: str,
    *,
    code: str = "",
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """The answer that says what is wrong; `code` is a slug that stays the same for ever."""
    title = http.HTTPStatus(status).phrase if status in _KNOWN else "Error"
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code or CODES.get(status, "http"),
        **(more or {}),
    }
    # In ASCII: what was found may be quoted, and holds whatever the caller sent.
    content = json.dumps(document).encode()
    return Response(content, status, dict(headers or {}), MEDIA_TYPE)


def of(exc: SaggarError, status: int | None = None) -> Response:
    """The answer for an error of ours; with another status, where that says more."""
    headers = {}
    if isinstance(exc, Overloaded):
        headers["Retry-After"] = str(math.ceil(exc.retry_after or 1))
    return problem(status or status_of(exc), str(exc), code=exc.code, headers=headers)


def install(app: FastAPI) -> None:
    """Whatever goes wrong in a route of this application is answered in this form."""
    app.add_exception_handler(SaggarError, _ours)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ExceptionGroup, _group)
    app.add_exception_handler(Exception, _mistake)


def alone(exc: BaseException) -> BaseException:
    """What a task group wrapped, if it is one thing."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


async def _ours(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, SaggarError)  # noqa: S101 - it is registered for these
    return of(exc)


async def _group(_request: Request, exc: Exception) -> Response:
    inner = alone(exc)
    if isinstance(inner, SaggarError):
        return of(inner)
    raise exc


async def _not_valid(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101
    return problem(422, "; ".join(map(_complaint, exc.errors())), code=InvalidTask.code)


def _complaint(found: Mapping[str, Any]) -> str:
    rule = str(found["msg"]).replace("Input should ", "must ", 1)
    return f"{'.'.join(map(str, found['loc']))}: {rule[:1].lower()}{rule[1:]}"


async def _http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101
    detail = str(exc.detail)
    if exc.status_code == 404:
        detail = f"there is nothing at {request.url.path!r:.120}"
    elif exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "another method")
        detail = f"{request.url.path!r:.120} takes {allowed}, found {request.method!r:.20}"
    return problem(exc.status_code, detail, headers=exc.headers)


async def _mistake(_request: Request, _exc: Exception) -> Response:
    # The exception goes on to the server, which logs it; the caller learns nothing of our inside.
    return problem(500, OURS, code=PlatformError.code)
