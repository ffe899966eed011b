from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import InitVar, dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NewType, NotRequired, TypeVar

import numpy as np
import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from saggar.functions.annotated import Annotation, rebuilt


@dataclass
class Point:
    x: float
    tags: tuple[str, ...] = ()


@dataclass
class Fit:
    """One that pydantic has no schema for."""

    weights: np.ndarray
    at: Point | None
    near: list[Point]


@dataclass
class Seeded:
    seed: InitVar[int]
    n: int = 0


class Plain(TypedDict):
    a: int
    more: NotRequired[Any]


class Tree(TypedDict):
    inner: list["Tree"]


class Endless(BaseModel):
    f: float = float("inf")


class Strict(BaseModel, extra="forbid"):
    s: str


T = TypeVar("T")
Kind = NewType("Kind", int)


def annotated(kind):
    def function() -> Any: ...

    function.__annotations__["return"] = kind
    return Annotation(function)


@pytest.mark.parametrize(
    ("kind", "plain", "wanted"),
    [
        (Any, {"x": 1}, {"x": 1}),
        (None, None, None),
        (int, 3, 3),
        (Point, {"x": 1, "tags": ["a"]}, Point(1.0, ("a",))),
        (list[Point], [{"x": 1}], [Point(1.0)]),
        (Point | None, None, None),
        (date, "2012-01-01", date(2012, 1, 1)),
        (set[int], {1, 2}, {1, 2}),
        (Iterable[Point], [{"x": 1}], [Point(1.0)]),
        (Iterable[int], (1, 2), (1, 2)),
        (list[int], (1, 2), [1, 2]),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict, {1: "a"}, {1: "a"}),
        (float, 5, 5),
        (int, True, True),
        (int | str | None, "a", "a"),
        (Literal["a", 1], 1, 1),
        (Plain, {"a": 1, "more": None}, {"a": 1, "more": None}),
        (Tree, {"inner": [{"inner": []}]}, {"inner": [{"inner": []}]}),
        (Kind, 3, 3),
        (T, {"x": 1}, {"x": 1}),
        (Decimal, Decimal("1.10"), Decimal("1.10")),
        (Path, Path("/a"), Path("/a")),
        (Endless, {"f": float("inf")}, Endless()),
        (Strict, {"s": "x"}, Strict(s="x")),
        (list[Any], [1, {}], [1, {}]),
        ("no.such.name", {"x": 1}, {"x": 1}),
    ],
)
def test_a_value_is_made_what_it_is_annotated_as(kind, plain, wanted):
    found = annotated(kind).lifted(plain)

    assert (type(wanted), wanted) == (type(found), found)


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (int, "abc"),
        (int, "5"),
        (int, 5.5),
        (str, 5),
        (bool, 1),
        (None, 5),
        (list, {}),
        (list[int], ["a"]),
        (list[int], 5),
        (dict[str, int], {"a": "b"}),
        (dict[str, int], {1: 1}),
        (int | None, "a"),
        (Literal["a", 1], "c"),
        (Literal["a", 1], True),
        (Plain, {"more": 1}),
        (Plain, {"a": "x"}),
        (Iterable[int], ["a"]),
        (Tree, {"inner": [{"inner": [5]}]}),
    ],
)
def test_a_value_of_jsons_own_types_is_looked_at_as_well(kind, plain):
    with pytest.raises(ValueError, match=r"wanted|wants"):
        annotated(kind).lifted(plain)


def test_what_yields_is_annotated_with_its_items():
    def one() -> Iterator[Point]:
        yield Point(1)

    async def other() -> AsyncIterator[Point]:
        yield Point(1)

    assert Point(1.0) == Annotation(one).lifted({"x": 1})
    assert Point(1.0) == Annotation(other).lifted({"x": 1})


def test_a_dataclass_that_wants_what_it_does_not_keep_is_refused_in_words():
    with pytest.raises(ValueError, match=r"Seeded cannot be made .*wants 'seed'.*result='pickle'"):
        annotated(Seeded).lifted({"n": 1})


def test_what_pydantic_has_no_schema_for_is_made_of_its_fields():
    array = np.ones(2)
    fit = annotated(Fit).lifted({"weights": array, "at": {"x": 1}, "near": [{"x": 2}]})

    assert isinstance(fit, Fit)
    assert fit.weights is array
    assert (Point(1), [Point(2)]) == (fit.at, fit.near)
    assert array is annotated(np.ndarray).lifted(array)


@pytest.mark.parametrize("plain", [{"weights": 1}, {"other": 1}])
def test_fields_too_few_or_too_many_are_refused(plain):
    with pytest.raises(ValueError, match=r"near|other"):
        rebuilt(Fit, plain)


def test_what_is_no_value_of_the_type_is_refused():
    with pytest.raises(ValueError, match="/x"):
        annotated(Point).lifted({"x": "much"})
