"""
The year in two cities: a curve through 2,922 days, fitted by numpy in a jail.

This process needs no numpy. The first call builds the layer it is in; later ones find it there.
"""

import csv
from datetime import date
from pathlib import Path

import saggar

WEATHER = Path(__file__).parents[1] / "weather.csv"


@saggar.remote(environment=saggar.Environment(packages=("numpy>=1.26",)), timeout=60)
def year(days: list[int], highs: list[float]) -> dict[str, float]:
    """Mean, swing and warmest day of the curve mean + a cos(t) + b sin(t) that fits best."""
    import numpy as np

    angle = 2 * np.pi * np.asarray(days) / 365.25
    terms = np.column_stack([np.ones_like(angle), np.cos(angle), np.sin(angle)])
    (mean, a, b), *_ = np.linalg.lstsq(terms, np.asarray(highs), rcond=None)
    warmest = np.arctan2(b, a) % (2 * np.pi) / (2 * np.pi) * 365.25
    return {"mean": float(mean), "swing": float(np.hypot(a, b)), "warmest": float(warmest)}


def measured(city: str) -> tuple[list[int], list[float]]:
    """The days of a city, as numbers of their years, and their highs."""
    with WEATHER.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["location"] == city]
    days = [date.fromisoformat(row["date"]).timetuple().tm_yday for row in rows]
    return days, [float(row["temp_max"]) for row in rows]


if __name__ == "__main__":
    for city in ("Seattle", "New York"):
        found = year(*measured(city))
        print(
            f"{city}: {found['mean']:.1f} degrees, {found['swing']:.1f} more or less,"
            f" warmest on day {found['warmest']:.0f}"
        )
