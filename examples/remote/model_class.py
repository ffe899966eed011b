"""
A warm model: scikit-learn's, trained once on 2,000 days, kept in its jail, asked again and again.

This process needs no scikit-learn. The first use builds the layer it is in, from the package index;
later ones find it there.
"""

import csv
from pathlib import Path
from time import perf_counter

import saggar

WEATHER = Path(__file__).parents[1] / "weather.csv"
COLUMNS = ("precipitation", "temp_max", "temp_min", "wind")
TAUGHT = 2000
Day = tuple[float, ...]


@saggar.remote(
    environment=saggar.Environment(packages=("scikit-learn>=1.4",)),
    limits={"memory": "1GiB", "processes": 128},
    timeout=60,
    idle=600,
)
class Weather:
    """Names a day's weather by its rain, temperatures and wind."""

    def __init__(self, days: list[Day], names: list[str]) -> None:
        self.days, self.names = days, names

    @saggar.enter
    def train(self) -> None:
        """Once, when the instance is made; what it was made of is let go."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        self.model.fit(self.days, self.names)
        self.kinds = [str(name) for name in self.model.classes_]
        del self.days, self.names

    def name(self, day: Day) -> str:
        """What such a day is called."""
        return str(self.model.predict([day])[0])

    def right(self, days: list[Day], names: list[str]) -> float:
        """The share of these days that it names as they were."""
        return float(self.model.score(days, names))


def measured() -> tuple[list[Day], list[str]]:
    """Every day, and what its weather was called."""
    with WEATHER.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [tuple(float(row[c]) for c in COLUMNS) for row in rows], [row["weather"] for row in rows]


if __name__ == "__main__":
    days, names = measured()
    begun = perf_counter()
    with Weather(days[:TAUGHT], names[:TAUGHT]) as model:
        print(f"trained in {perf_counter() - begun:.1f} s: it knows {', '.join(model.kinds)}")
        share = model.right(days[TAUGHT:], names[TAUGHT:])
        print(f"{share:.0%} of {len(days) - TAUGHT} days named as they were")

        same = Weather.get(model.id)  # whoever knows its id finds the same one
        begun = perf_counter()
        for day in days[-100:]:
            same.name(day)
        took = (perf_counter() - begun) / 100
        print(f"{model.metadata.method_calls} calls of one instance, {took * 1e3:.2f} ms each")
