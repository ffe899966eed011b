"""What can be said about a remote function or class, and what is none of it."""

from typing import Any

import pytest

from saggar.errors import UsageError
from saggar.functions.options import Retry, Said
from saggar.functions.remote import remote
from saggar.model.environment import Environment
from saggar.model.limits import Limits
from saggar.model.policy import Policy

FITTING: list[dict[str, Any]] = [
    {},
    {"retries": 0, "log": print, "idle": 5, "max_age": 0.5, "restart": True},
    {"retries": Retry(2, on=(KeyError,), delay=0.1), "env": {"A": "b"}, "models": ["org/name"]},
    {"environment": Environment(), "policy": Policy(), "limits": Limits()},
    {"environment": None, "policy": None, "limits": None, "idle": None, "driver": "process"},
]
UNFIT: list[tuple[str, Any]] = [
    ("retries", -1),
    ("retries", "x"),
    ("retries", True),
    ("retries", Retry(-1)),
    ("retries", Retry(1, on=[KeyError])),  # type: ignore[arg-type]
    ("retries", Retry(1, delay=-1)),
    ("log", 5),
    ("idle", -1),
    ("idle", 0),
    ("idle", float("nan")),
    ("max_age", -5),
    ("max_age", "1h"),
    ("restart", "x"),
    ("environment", "numpy"),
    ("policy", 5),
    ("limits", 5),
    ("env", ["A=b"]),
    ("env", {"A": 1}),
    ("models", "abc"),
    ("models", [1]),
    ("driver", 5),
    ("where", 5),
]


@pytest.mark.parametrize("options", FITTING)
def test_what_can_be_meant_is_taken(options):
    assert all(getattr(Said().but(options), name) == value for name, value in options.items())


@pytest.mark.parametrize(("name", "value"), UNFIT)
def test_what_cannot_be_meant_is_named_when_it_is_said(name, value):
    with pytest.raises(UsageError, match=rf"{name}: wanted .*, found "):
        Said().but({name: value})  # type: ignore[misc]


@pytest.mark.parametrize("many", [0, -1, "x", 1.5])
def test_as_many_calls_at_once_as_there_can_be(many):
    with pytest.raises(UsageError, match=rf"concurrency: wanted .*, found {many!r}"):
        remote(lambda x: x).map([1], concurrency=many)
