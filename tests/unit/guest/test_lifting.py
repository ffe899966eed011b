"""Between JSON and what annotations say."""

import datetime as dt
import decimal
import enum
import json
import pathlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import pytest
from pydantic import BaseModel

from saggar.guest.lifting import Signature, lifter, lowered


class Color(enum.Enum):
    RED = "red"


@dataclass
class Pot:
    size: int
    lids: "list[Pot]" = field(default_factory=list)


class Named(NamedTuple):
    at: dt.date
    n: int = 0


class Typed(TypedDict, total=False):
    pot: Pot


class Model(BaseModel):
    when: dt.date


Size = NewType("Size", float)
DAY = dt.date(2024, 1, 2)
SAME: list[tuple[Any, Any]] = [
    (int, 1),
    (Any, {"a": [1]}),
    (list[int], [1]),
    (Literal["a"], "a"),
    (dict[str, int], {"a": 1}),
    ("forward", 1),
]
LIFTED: list[tuple[Any, Any, Any]] = [
    (float, 1, 1.0),
    (Size, 1, 1.0),
    (bytes, "a", b"a"),
    (complex, "(1+2j)", 1 + 2j),
    (set[int], [1, 1], {1}),
    (frozenset[str], ["a"], frozenset("a")),
    (tuple[int, Pot], [1, {"size": 2}], (1, Pot(2))),
    (tuple[float, ...], [1], (1.0,)),
    (Sequence[Color], ["red"], [Color.RED]),
    (Mapping[int, Pot], {"3": {"size": 1}}, {3: Pot(1)}),
    (dict[Color, int], {"red": 1}, {Color.RED: 1}),
    (Pot, {"size": 1, "lids": [{"size": 2}]}, Pot(1, [Pot(2)])),
    (Pot | None, None, None),
    (Pot | None, {"size": 1}, Pot(1)),
    (int | Pot, {"size": 1}, Pot(1)),
    (int | Pot, 3, 3),
    (Annotated[Pot, "any"], {"size": 1}, Pot(1)),
    (Named, ["2024-01-02", 3], Named(DAY, 3)),
    (Typed, {"pot": {"size": 1}}, {"pot": Pot(1)}),
    (Model, {"when": "2024-01-02"}, Model(when=DAY)),
    (dt.date, "2024-01-02", DAY),
    (dt.datetime, "2024-01-02T03:04:05+00:00", dt.datetime(
        2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC
    )),
    (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
    (uuid.UUID, str(uuid.UUID(int=1)), uuid.UUID(int=1)),
    (pathlib.Path, "/a", pathlib.Path("/a")),
]  # fmt: skip
LOWERED: list[tuple[Any, Any]] = [
    (Pot(1, [Pot(2)]), {"size": 1, "lids": [{"size": 2, "lids": []}]}),
    ({3: Color.RED}, {"3": "red"}),
    ({"a"}, ["a"]),
    ((1, b"b"), [1, "b"]),
    (Named(DAY), ["2024-01-02", 0]),
    (Model(when=DAY), {"when": "2024-01-02"}),
    (dt.timedelta(minutes=2), "PT120S"),
    (decimal.Decimal("1.10"), "1.10"),
    (pathlib.Path("/a"), "/a"),
]


@pytest.mark.parametrize(("kind", "plain"), SAME)
def test_what_json_has_is_left_as_it_is(kind, plain):
    assert lifter(kind) is None


@pytest.mark.parametrize(("kind", "plain", "value"), LIFTED)
def test_a_plain_value_becomes_what_it_is_annotated_as(kind, plain, value):
    lift = lifter(kind)

    assert lift is not None
    assert (value, type(value)) == ((found := lift(plain)), type(found))


@pytest.mark.parametrize(("value", "plain"), LOWERED)
def test_a_value_becomes_json(value, plain):
    assert plain == json.loads(lowered(value))


def test_what_has_no_json_form_is_named_with_its_place():
    with pytest.raises(TypeError, match=r"at /a/0: Object of type object is not JSON serializable"):
        lowered({"a": [object()]})
    with pytest.raises(ValueError, match="nests deeper"):
        lowered(itself())


def itself():
    found: list[Any] = []
    found.append(found)
    return found


def test_arguments_are_lifted_wherever_they_stand():
    def fire(pot: Pot, *more: Pot, at: dt.date, **others: float): ...

    args, named = Signature(fire).lifted([{"size": 1}, {"size": 2}], {"at": "2024-01-02", "x": 1})

    assert [Pot(1), Pot(2)] == args
    assert ({"at": DAY, "x": 1.0}, float) == (named, type(named["x"]))


def test_a_class_has_the_annotations_of_its_constructor():
    class Kiln:
        def __init__(self, pot: Pot): ...

    assert ([Pot(1)], {}) == Signature(Kiln, Kiln.__init__).lifted([{"size": 1}], {})


def test_annotations_that_cannot_be_read_lift_nothing():
    def fire(pot: "Nowhere"): ...  # type: ignore[name-defined]  # noqa: F821

    assert ([1], {}) == Signature(fire).lifted([1], {})
