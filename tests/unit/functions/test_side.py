"""What may stand on one side, and how it becomes JSON and comes back."""

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict

import pytest
import typing_extensions
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_serializer

from saggar.errors import InvalidTask
from saggar.functions.side import Side


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass
class Path:
    points: list[Point]
    name: str | None = None


@dataclass
class Other:
    z: int


class Reading(BaseModel):
    model_config = ConfigDict(extra="forbid")

    at: dt.date
    value: int = Field(alias="Value")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.value


class Row(TypedDict):
    a: int
    b: NotRequired[list[str]]


class Day(TypedDict, total=False):
    when: dt.date
    where: Point


class Tree(typing_extensions.TypedDict):
    kids: "list[Tree]"


WITHOUT_ADAPTER: list[tuple[Any, Any]] = [
    (Any, {"any": ["thing"]}),
    (None, None),
    (int, 1),
    (float, 1.5),
    (str, "a"),
    (bool, True),
    (list, [1, "a"]),
    (dict, {"a": 1}),
    (list[int], [1, 2]),
    (dict[str, list[float]], {"a": [1.0]}),
    (int | None, None),
    (Optional[str], "a"),  # noqa: UP045 - both spellings
    (Literal["a", 2], 2),
    (Row, {"a": 1, "b": ["x"]}),
    (list[Row], [{"a": 1}]),
    (Tree, {"kids": [{"kids": []}]}),
]
WITH_ADAPTER: list[tuple[Any, Any, Any]] = [
    (Point, Point(1.0, 2.0), {"x": 1.0, "y": 2.0}),
    (Path, Path([Point(1.0)]), {"points": [{"x": 1.0, "y": 0.0}], "name": None}),
    (list[Point], [Point(1.0)], [{"x": 1.0, "y": 0.0}]),
    (Point | None, None, None),
    (dict[str, Point], {"a": Point(1.0)}, {"a": {"x": 1.0, "y": 0.0}}),
    (dict[int, str], {1: "a"}, {"1": "a"}),
    (tuple[int, str], (1, "a"), [1, "a"]),
    (set[int], {7}, [7]),
    (bytes, b"abc", "abc"),
    (dt.date, dt.date(2026, 1, 2), "2026-01-02"),
    (
        Reading,
        Reading(at=dt.date(2026, 1, 2), Value=3),
        {"at": "2026-01-02", "Value": 3},
    ),
    (Day, {"when": dt.date(2026, 1, 2)}, {"when": "2026-01-02"}),
    (Day, {"where": Point(1.0)}, {"where": {"x": 1.0, "y": 0.0}}),
    (Annotated[list[int], Field(max_length=2)], [1, 2], [1, 2]),
]


@pytest.mark.parametrize(("kind", "value"), WITHOUT_ADAPTER)
def test_a_type_of_json_is_passed_as_it_is(kind, value):
    side: Side[Any] = Side(kind)

    assert side.plain
    assert side.lower(value) is value
    assert side.lift(value) is value
    assert side.problem(value) is None


@pytest.mark.parametrize(("kind", "value", "plain"), WITH_ADAPTER)
def test_any_other_type_goes_to_json_and_back(kind, value, plain):
    side: Side[Any] = Side(kind)

    assert plain == side.lower(value)
    assert side.problem(plain) is None
    assert value == side.lift(plain)
    assert type(value) is type(side.lift(plain))
    assert not side.plain


@pytest.mark.parametrize(("kind", "value", "plain"), WITH_ADAPTER)
def test_its_json_form_is_as_good(kind, value, plain):
    side: Side[Any] = Side(kind)

    assert value == side.lift(side.lower(plain))


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (int, "x", '"x" is not of type "integer"'),
        (int, True, 'true is not of type "integer"'),
        (list[float], [1, None], 'at /1: null is not of type "number"'),
        (list[float], [math.nan], "at /0: nan has no JSON form"),
        (Row, {"a": "x"}, 'at /a: "x" is not of type "integer"'),
        (Row, {}, '"a" is a required property'),
        (Literal["a", "b"], "c", '"c" is not one of "a" or "b"'),
        (Annotated[list[int], Field(max_length=2)], [1, 2, 3], "[1,2,3] has more than 2 items"),
        (Path, Path([Point("x")]), 'at /points/0/x: "x" is not of type "number"'),  # type: ignore[arg-type]
        (Path, {"points": [{"x": "x"}]}, 'at /points/0/x: "x" is not of type "number"'),
        (Path, 5, '5 is not of type "object"'),
        (list[Point], [Point(1), Point(None)], 'at /1/x: null is not of type "number"'),  # type: ignore[arg-type]
        (Tree, {"kids": [{"kids": 3}]}, 'at /kids/0/kids: 3 is not of type "array"'),
    ],
)
def test_the_schema_of_a_type_says_where_and_what(kind, value, problem):
    side: Side[Any] = Side(kind)

    assert problem == side.problem(side.lower(value))


def test_a_value_of_another_class_is_refused_by_name():
    with pytest.raises(ValueError, match="wanted Point, found Other"):
        Side(Point).lower(Other(1))


def test_a_value_that_pydantic_cannot_write_is_refused():
    class Opaque:
        pass

    with pytest.raises(ValueError, match="Opaque"):
        Side(Path).lower({"points": [Opaque()]})


def test_a_value_that_holds_itself_is_refused():
    @dataclass
    class Ring:
        rings: list[Any]

    ring = Ring([])
    ring.rings.append(ring)

    with pytest.raises(ValueError, match="Circular reference"):
        Side(Ring).lower(ring)


def test_a_serializer_that_raises_is_a_refusal():
    class Broken(BaseModel):
        x: int

        @field_serializer("x")
        def not_today(self, _value: int) -> int:
            raise RuntimeError("not today")

    with pytest.raises(ValueError, match="RuntimeError: not today"):
        Side(Broken).lower(Broken(x=1))


def test_a_given_schema_wins_over_that_of_the_type():
    side: Side[Any] = Side(Path, {"properties": {"points": {"maxItems": 1}}})

    assert "at /points: [{},{}] has more than 1 item" == side.problem({"points": [{}, {}]})
    assert side.problem({"points": "not even a list"}) is None


def test_the_type_still_says_what_it_can_be_made_of():
    side: Side[Any] = Side(Path, True)

    with pytest.raises(ValueError, match=r"^at /points/0/x: Input should be a valid number"):
        side.lift({"points": [{"x": "x"}]})


def test_a_given_schema_may_stand_alone():
    side: Side[Any] = Side(schema={"type": "integer"})

    assert '"x" is not of type "integer"' == side.problem("x")


def test_without_type_or_schema_anything_may_pass():
    side: Side[Any] = Side()

    assert side.is_valid is None
    assert side.problem({1: math.nan}) is None


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (type("Mine", (), {}), "is no type of an input or output; there are"),
        (Callable[[int], int], "no JSON Schema for"),
        ("Elsewhere", "not fully defined"),
    ],
)
def test_a_type_that_has_no_json_form_is_refused_when_it_is_given(kind, message):
    with pytest.raises(InvalidTask, match=message):
        Side(kind)


def test_a_recursive_model_is_a_type_like_any_other():
    class Node(BaseModel):
        kids: "list[Node]" = []

    Node.model_rebuild(_types_namespace={"Node": Node})
    side: Side[Node] = Side(Node)

    assert Node(kids=[Node()]) == side.lift(side.lower(Node(kids=[Node()])))
    assert side.problem({"kids": [{"kids": 1}]}) is not None


def test_a_default_need_not_be_given():
    @dataclass
    class Options:
        names: list[str] = field(default_factory=list)

    side: Side[Any] = Side(Options)

    assert side.problem({}) is None
    assert Options() == side.lift({})
