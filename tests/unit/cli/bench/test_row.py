import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.cli.bench.row import back_to_back, median, quantile, timed


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1))
def test_a_quantile_is_a_time_that_was_measured(times, part):
    found = quantile(times, part)

    assert found in times
    assert part * len(times) <= sum(time <= found for time in times) + 1e-6


@pytest.mark.parametrize(
    ("times", "middle", "late"),
    [([1], 1, 1), ([3, 1, 2], 2, 3), ([1, 2, 3, 4], 2, 4), (list(range(1, 101)), 50, 95)],
)
def test_median_and_95th_percentile(times, middle, late):
    assert (middle, late) == (median(times), quantile(times, 0.95))


def test_a_rate_counts_the_slow_ones_too():
    """One over the median would hide them."""
    assert 1.0 == back_to_back("x", "y", [0.1, 0.1, 0.1, 3.7]).rate


def test_a_row_of_times_counts_them():
    assert 3 == timed("x", "y", [1, 2, 3]).n
