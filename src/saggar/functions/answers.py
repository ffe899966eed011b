"""What came of a call, as its caller has it: the value, or the exception that it is."""

from collections.abc import Callable
from typing import Any

from saggar.functions.capture import opened
from saggar.functions.errors import InvalidAnswer, failure, like
from saggar.model.codec import Answer
from saggar.model.result import Result


def settled(result: Result[Any], name: str, lift: Callable[[Any], Any], *, pickles: bool) -> Any:
    """The answer in a result, made what it was annotated as; or the failure that the result is."""
    answer, raised = _answer(result), raised_in(result)
    if not result.ok:
        raise failure(result, raised, name)
    if raised is not None:
        raise like(raised, result)
    if answer is None:
        raise InvalidAnswer(result, f"{name}: it ended without an answer")
    value = value_of(answer, result, pickles=pickles)
    try:
        return lift(value)
    except ValueError as exc:
        raise InvalidAnswer(result, f"{name}: its answer is not as annotated: {exc}") from exc


def raised_in(result: Result[Any]) -> dict[str, Any] | None:
    """What the function said that it raised, in its own words."""
    answer = _answer(result)
    raised = None if answer is None else answer.document.get("raised")
    return raised if isinstance(raised, dict) else None


def _answer(result: Result[Any]) -> Answer | None:
    """What a result has for a value; a queue keeps it as JSON."""
    match result.value:
        case Answer() as answer:
            return answer
        case {"document": dict(document), **rest} if rest.keys() <= {"data"}:
            return _from_json(document, rest.get("data", b""))
    return None


def _from_json(document: dict[str, Any], data: Any) -> Answer:
    import base64

    plain = base64.urlsafe_b64decode(data) if isinstance(data, str) else data
    return Answer(document=document, data=plain)


def value_of(answer: Any, result: Result[Any] | None, *, pickles: bool) -> Any:
    """What an answer says. InvalidAnswer if it says nothing that was asked for."""
    try:
        return opened(answer, pickles=pickles)
    except ValueError as exc:
        raise InvalidAnswer(result, str(exc)) from exc
