"""
Which month is which, in two cities: an ordinary script that knows nothing of sandboxes.

Reads `weather.csv` beside it, prints a table, writes `summary.csv`.
"""

import csv
from collections import Counter, defaultdict
from datetime import date
from statistics import mean, quantiles


def days(path):
    """The rows, with numbers as numbers."""
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            yield {
                "city": row["location"],
                "date": date.fromisoformat(row["date"]),
                "rain": float(row["precipitation"]),
                "high": float(row["temp_max"]),
                "low": float(row["temp_min"]),
                "weather": row["weather"],
            }


def longest_dry_spell(city):
    """Days in a row without rain, and the day on which they ended."""
    best, run, end = 0, 0, None
    for day in sorted(city, key=lambda day: day["date"]):
        run = run + 1 if day["rain"] == 0 else 0
        if run > best:
            best, end = run, day["date"]
    return best, end


def summary(group):
    """One line of the table."""
    cuts = quantiles([day["high"] for day in group], n=10)
    return {
        "days": len(group),
        "low": round(mean(day["low"] for day in group), 1),
        "high": round(mean(day["high"] for day in group), 1),
        "hot": round(cuts[-1], 1),
        "wet_%": round(100 * mean(day["rain"] > 0 for day in group)),
        "rain_mm": round(mean(day["rain"] for day in group), 2),
        "mostly": Counter(day["weather"] for day in group).most_common(1)[0][0],
    }


def main():
    """Read, group, print, write."""
    cities, months = defaultdict(list), defaultdict(list)
    for day in days("weather.csv"):
        cities[day["city"]].append(day)
        months[day["city"], day["date"].month].append(day)

    table = [
        {"city": city, "month": date(2000, month, 1).strftime("%b"), **summary(group)}
        for (city, month), group in sorted(months.items())
    ]
    for line in [{name: name for name in table[0]}, *table]:
        print("".join(f"{value!s:>8}" for value in line.values()))

    for city, group in sorted(cities.items()):
        length, end = longest_dry_spell(group)
        wettest = max(group, key=lambda day: day["rain"])
        print(
            f"{city}: {len(group)} days, {length} dry days in a row until {end}, "
            f"wettest {wettest['date']} with {wettest['rain']} mm"
        )

    with open("summary.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=table[0])
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
