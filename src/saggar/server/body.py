"""
JSON in and out, for routes of our own.

A little more is read than the standard allows, as the documents' own examples need it: text may
hold line breaks as they are. What is written can always be read.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar, cast

from fastapi import Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from saggar.errors import InvalidTask
from saggar.model.value import Value

V = TypeVar("V", bound=Value)

DEEPEST: Final = 64


async def read(request: Request) -> Any:
    """
    The JSON of a request's body. How large it may be, the doors have said.

    Raises:
        HTTPException: 400, it is no JSON, or nested deeper than anything we take.
    """
    return parse(await request.body())


def parse(content: bytes) -> Any:
    """JSON, with line breaks and tabs allowed in text."""
    try:
        found = json.loads(content.decode(), strict=False, parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        raise _not_json(f"not UTF-8 at byte {exc.start}") from None
    except json.JSONDecodeError as exc:
        raise _not_json(f"{exc.msg}, line {exc.lineno} column {exc.colno}") from None
    except ValueError as exc:  # a number with thousands of digits, NaN
        raise _not_json(str(exc)) from None
    except RecursionError:
        raise _not_json(f"nested deeper than {DEEPEST}") from None
    if deeper_than(found, DEEPEST):
        raise _not_json(f"nested deeper than {DEEPEST}")
    return found


def of(model: type[V]) -> Any:
    """`body: Annotated[M, of(M)]`, in a route: its body as a value. InvalidTask if none fits."""

    async def given(request: Request) -> V:
        found = await read(request)
        if not isinstance(found, dict):
            wanted = f"an object with {', '.join(model.model_fields)}"
            raise InvalidTask(f"wanted {wanted}, found {_kind(found)}")
        return model(**found)

    return Depends(cast("Callable[[Request], Awaitable[V]]", given))


def described(model: type[Value]) -> dict[str, Any]:
    """What a route says of its body in the application's own description (`openapi_extra`)."""
    schema = model.model_json_schema()
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def write(document: object) -> bytes:
    """
    One line of JSON, whatever a guest put in.

    Half a character, which Python's text can hold and UTF-8 cannot, becomes a question mark.
    """
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode(errors="replace")


class Answer(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Its bytes."""
        return write(content)


def deeper_than(found: object, most: int) -> bool:
    """Whether there are more than `most` arrays and objects inside each other."""
    level = [found]
    for _ in range(most):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return False
    return True


def _inside(found: object) -> list[object]:
    if isinstance(found, dict):
        return list(found.values())
    return found if isinstance(found, list) else []


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} has no JSON form")


def _kind(found: object) -> str:
    names = {list: "an array", str: "text", type(None): "null", bool: "a boolean"}
    return names.get(type(found), "a number")


def _not_json(reason: str) -> HTTPException:
    return HTTPException(400, f"the body is not JSON: {reason}")


Json = Annotated[Any, Depends(read)]
"""The JSON of a route's body, whatever it is."""
