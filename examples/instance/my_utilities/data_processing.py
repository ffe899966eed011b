"""Loaded into an instance before its first execution."""


def process_list(data):
    """Twice of each that is more than nothing."""
    return [x * 2 for x in data if x > 0]


def calculate_stats(numbers):
    """Sum, mean and count."""
    return {"sum": sum(numbers), "avg": sum(numbers) / len(numbers), "count": len(numbers)}


print("Data processing utilities loaded")
