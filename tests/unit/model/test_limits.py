import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.errors import InvalidTask
from saggar.model import LIMIT_NAMES, Limits

NUMBERS = {"wall", "grace", "cpu", "cpu_share"}
LIMITS = st.fixed_dictionaries(
    {name: st.integers(1, 1000) for name in LIMIT_NAMES}
).map(lambda fields: Limits(**fields))  # fmt: skip


def test_quantities_may_be_written_as_text():
    limits = Limits(wall="1.5s", memory="1 GiB", output="128MiB")

    assert (1.5, 1 << 30, 128 << 20) == (limits.wall, limits.memory, limits.output)


@pytest.mark.parametrize("name", LIMIT_NAMES)
@pytest.mark.parametrize("nonsense", [0, -1, math.inf, math.nan, True, None, "x", 1e30, 10**30])
def test_every_limit_is_finite_and_positive(name, nonsense):
    with pytest.raises(InvalidTask, match=rf"^limits\.{name}: "):
        Limits(**{name: nonsense})


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
