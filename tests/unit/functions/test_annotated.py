from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pytest

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


def annotated(kind):
    def function() -> None: ...

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
        (Iterator[Point], {"x": 1}, Point(1.0)),
        (AsyncIterator[Point], {"x": 1}, Point(1.0)),
        ("no.such.name", {"x": 1}, {"x": 1}),
    ],
)
def test_a_value_is_made_what_it_is_annotated_as(kind, plain, wanted):
    found = annotated(kind).lifted(plain)

    assert (type(wanted), wanted) == (type(found), found)


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
