import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.model.quantity import (
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1024, "1024"),
        (1024, 1024.0),
        (812, "812 B"),
        (256 * 1024**2, "256MiB"),
        (256 * 1024**2, " 256 mib "),
        (256 * 1024**2, "256M"),
        (1_500_000_000, "1.5 GB"),
        (1_610_612_736, "1.5GiB"),
        (100_000_000, "0.1GB"),
        (2 * 1024**4, "2T"),
    ],
)
def test_sizes_are_read_as_people_write_them(size, text):
    assert size == parse_bytes(text)


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (10.0, "10"),
        (10.0, 10),
        (1.5, "1.5s"),
        (0.2, "200ms"),
        (0.0000005, "0.5us"),
        (120.0, "2m"),
        (120.0, "2 min"),
        (5400.0, "1.5h"),
        (86400.0, "1d"),
    ],
)
def test_times_are_read_as_people_write_them(time, text):
    assert time == parse_seconds(text)


NONSENSE = [
    "", " ", "MiB", "12 parsecs", "-1", "1e3", "0x10", "1,5s", "1.", ".5", "٣", "1 2", "1\n2",
    "9" * 400, "inf", "nan", True, False, None, -1, -0.5, math.nan, math.inf, b"1", [1],
]  # fmt: skip


@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.parametrize("parse", [parse_bytes, parse_seconds, parse_count])
def test_nonsense_is_refused_with_an_example_of_what_is_wanted(parse, nonsense):
    with pytest.raises(ValueError, match=r"^wanted a .* such as .*, found .{0,70}$"):
        parse(nonsense)


@pytest.mark.parametrize(
    ("count", "text"), [(64, "64"), (10_000, "10_000"), (0, 0), (12345678901, "12345678901")]
)
def test_counts_are_whole_numbers(count, text):
    assert count == parse_count(text)


@pytest.mark.parametrize("nonsense", [1.5, "1.5", "_1", "1_", "6 4", "1__0"])
def test_a_count_that_is_not_whole_is_refused(nonsense):
    with pytest.raises(ValueError, match="wanted a whole number"):
        parse_count(nonsense)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_a_shown_size_reads_back_as_nearly_itself(size):
    assert math.isclose(size, parse_bytes(format_bytes(size)), rel_tol=0.06)


@given(st.floats(min_value=1e-3, max_value=1e6))
def test_a_shown_time_reads_back_as_nearly_itself(time):
    assert math.isclose(time, parse_seconds(format_seconds(time)), rel_tol=0.06)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0 B", 0),
        ("812 B", 812),
        ("1 KiB", 1023.9),
        ("256 MiB", 1 << 28),
        ("1 GiB", (1 << 30) - 1),
        ("1.5 GiB", 3 << 29),
        ("2 TiB", 1 << 41),
        ("4096 TiB", 1 << 52),
    ],
)
def test_sizes_are_shown_short(text, size):
    assert text == format_bytes(size)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("0 us", 0),
        ("12 us", 12e-6),
        ("999 us", 999.4e-6),
        ("1 ms", 999.6e-6),
        ("200 ms", 0.2),
        ("960 ms", 0.96),
        ("1 s", 0.9996),
        ("1.5 s", 1.5),
        ("1 min", 59.96),
        ("2 min", 120),
        ("1 h", 3600),
        ("7 d", 604800),
    ],
)
def test_times_are_shown_short(text, time):
    assert text == format_seconds(time)
