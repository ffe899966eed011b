import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.errors import InvalidTask
from saggar.model import LIMIT_NAMES, Limits

FLOORS = {"memory": 1 << 20, "disk": 64 << 10, "inodes": 8}
LIMITS = st.fixed_dictionaries(
    {name: st.integers(FLOORS.get(name, 1), FLOORS.get(name, 1) + 1000) for name in LIMIT_NAMES}
).map(lambda fields: Limits(**fields))  # fmt: skip


def test_quantities_may_be_written_as_text():
    limits = Limits(wall="1.5s", memory="1 GiB", output="128MiB")

    assert (1.5, 1 << 30, 128 << 20) == (limits.wall, limits.memory, limits.output)


@pytest.mark.parametrize("name", LIMIT_NAMES)
@pytest.mark.parametrize("nonsense", [0, -1, math.inf, math.nan, True, None, "x", 1e30, 10**30])
def test_every_limit_is_finite_and_positive(name, nonsense):
    with pytest.raises(InvalidTask, match=rf"^limits\.{name}: "):
        Limits(**{name: nonsense})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("memory", 256, "must be at least 1 MiB, found 256 B"),
        ("memory", "1023KiB", "must be at least 1 MiB, found 1023 KiB"),
        ("memory", "17TiB", "must be at most 16 TiB, found 17 TiB"),
        ("memory", 10**400, "must be at most 16 TiB, found far more"),
        ("disk", "63KiB", "must be at least 64 KiB, found 63 KiB"),
        ("inodes", 7, "must be at least 8, found 7"),
        ("file_size", 0, "must be at least 1 B, found 0 B"),
        ("output", 0, "must be at least 1 B, found 0 B"),
        ("wall", "8d", "must be at most 7 d, found 8 d"),
        ("open_files", "12345678901", "must be at most 1,048,576, found 12,345,678,901"),
    ],
)
def test_what_is_too_little_or_too_much_is_told_with_its_unit(name, value, said):
    with pytest.raises(InvalidTask) as refused:
        Limits(**{name: value})

    assert f"limits.{name}: {said}" == str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [*FLOORS.items(), ("file_size", 1), ("output", 1), ("memory", "16TiB"), ("wall", "7d")],
)
def test_the_bounds_themselves_are_allowed(name, value):
    Limits(**{name: value})


def test_the_schema_has_the_bounds():
    found = Limits.model_json_schema()["properties"]["memory"]

    assert (1 << 20, 16 << 40) == (found["minimum"], found["maximum"])


@given(LIMITS, LIMITS)
def test_limits_within_others_are_the_smaller_of_each(one, other):
    within = one.within(other)

    assert all(
        min(getattr(one, name), getattr(other, name)) == getattr(within, name)
        for name in LIMIT_NAMES
    )


def test_limits_within_looser_ones_are_the_same_object():
    limits = Limits(memory="1MiB")

    assert limits is limits.within(Limits())


def test_limits_come_back_from_json_as_they_were():
    limits = Limits(wall=0.25, memory="1GiB")

    assert limits == Limits.model_validate_json(limits.model_dump_json())
