"""A warm model: trained once, kept in its jail, asked again and again."""

import csv
from collections import Counter, defaultdict
from pathlib import Path
from time import perf_counter

import saggar

WEATHER = Path(__file__).parents[1] / "weather.csv"
Day = tuple[float, float, float, float]


@saggar.remote(idle=600)
class Weather:
    """Names a day's weather by its rain, temperatures and wind: naive Bayes, in plain Python."""

    def __init__(self, days: list[Day], names: list[str]) -> None:
        self.days, self.names = days, names

    @saggar.enter
    def train(self) -> None:
        """Means and variances of each kind of weather; what they were made of is let go."""
        groups = defaultdict(list)
        for day, name in zip(self.days, self.names, strict=True):
            groups[name].append(day)
        self.shares = {name: len(group) / len(self.days) for name, group in groups.items()}
        self.curves = {name: [curve(c) for c in zip(*g, strict=True)] for name, g in groups.items()}
        self.asked: Counter[str] = Counter()
        del self.days, self.names

    def name(self, day: Day) -> str:
        """What such a day is called."""
        from math import log

        def likely(kind: str) -> float:
            return log(self.shares[kind]) + sum(
                -log(spread) / 2 - (x - mean) ** 2 / (2 * spread)
                for x, (mean, spread) in zip(day, self.curves[kind], strict=True)
            )

        found = max(self.shares, key=likely)
        self.asked[found] += 1
        return found


def curve(column: tuple[float, ...]) -> tuple[float, float]:
    """Mean and variance; a little more than none, so that nothing is impossible."""
    mean = sum(column) / len(column)
    return mean, sum((x - mean) ** 2 for x in column) / len(column) + 0.1


if __name__ == "__main__":
    with WEATHER.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("precipitation", "temp_max", "temp_min", "wind")
    days: list[Day] = [tuple(float(row[c]) for c in columns) for row in rows]  # type: ignore[misc]
    names = [row["weather"] for row in rows]

    with Weather(days[:2000], names[:2000]) as model:
        begun = perf_counter()
        right = sum(
            model.name(day) == name for day, name in zip(days[2000:], names[2000:], strict=True)
        )
        took = perf_counter() - begun
        asked_for = model.asked
        asked = len(days) - 2000
        print(f"{right} of {asked} days named as they were, calls {model.metadata.method_calls}")
        print(f"named most often: {max(asked_for, key=asked_for.get)}")
        print(f"{took / asked * 1e3:.2f} ms a call")
