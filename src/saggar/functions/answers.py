"""What came of a call, as its caller has it: the value, or the exception that it is."""

from collections.abc import Callable
from typing import Any

from saggar.functions.capture import opened
from saggar.functions.errors import InvalidAnswer
from saggar.functions.likeness import failure, like
from saggar.model.codec import Answer
from saggar.model.event import Yielded
from saggar.model.result import ErrorInfo, Result, Status


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
    if _is_pickle(answer):
        return value  # the very object that it answered with
    try:
        return lift(value)
    except ValueError as exc:
        raise InvalidAnswer(result, f"{name}: its answer is not as annotated: {exc}") from exc


def whole(result: Result[Any], name: str, lift: Callable[[Any], Any], *, pickles: bool) -> Any:
    """The result with the function's own value in it. What is no answer is a failure, and none."""
    if not result.ok or raised_in(result) is not None:
        return result.model_copy(update={"value": None})
    try:
        value = settled(result, name, lift, pickles=pickles)
    except InvalidAnswer as exc:
        error = ErrorInfo(type="InvalidAnswer", message=str(exc))
        return result.model_copy(update={"status": Status.ERROR, "value": None, "error": error})
    return result.model_copy(update={"value": value})


def item_of(event: Yielded, lift: Callable[[Any], Any], *, pickles: bool) -> Any:
    """One of the values that a generator gave. InvalidAnswer if it is none."""
    try:
        answer = event.value()
        if not isinstance(answer, Answer):
            raise InvalidAnswer(None, "what it gave is no answer")
        value = value_of(answer, None, pickles=pickles)
        return value if _is_pickle(answer) else lift(value)
    except InvalidAnswer:
        raise
    except ValueError as exc:
        raise InvalidAnswer(None, f"what it gave: {exc}") from exc


def raised_in(result: Result[Any]) -> dict[str, Any] | None:
    """What the function said that it raised, in its own words."""
    answer = _answer(result)
    raised = None if answer is None else answer.document.get("raised")
    if answer is None or not isinstance(raised, dict):
        return None
    try:
        more = answer.value()  # its arguments and attributes
    except ValueError:
        more = None
    return {**raised, **more} if isinstance(more, dict) else raised


def worth_another(result: Result[Any], on: tuple[type[Exception], ...]) -> bool:
    """Whether a failure is one of those after which a call is made again."""
    return not result.ok and bool(on) and isinstance(failure(result, raised_in(result), ""), on)


def _is_pickle(answer: Answer) -> bool:
    return answer.document.get("pickle") is not None


def _answer(result: Result[Any]) -> Answer | None:
    """What a result has for a value; a queue keeps it as JSON."""
    match result.value:
        case Answer() as answer:
            return answer
        case {"document": dict(document), **rest} if rest.keys() <= {"data"}:
            return _from_json(document, rest.get("data", b""))
    return None


def _from_json(document: dict[str, Any], data: Any) -> Answer | None:
    import base64

    try:
        plain = base64.urlsafe_b64decode(data) if isinstance(data, str) else data
        return Answer(document=document, data=plain)
    except ValueError:  # a guest's JSON that only looks like one
        return None


def value_of(answer: Any, result: Result[Any] | None, *, pickles: bool) -> Any:
    """What an answer says. InvalidAnswer if it says nothing that was asked for."""
    try:
        return opened(answer, pickles=pickles)
    except ValueError as exc:
        raise InvalidAnswer(result, str(exc)) from exc
