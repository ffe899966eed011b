"""What both examples call: a function of plain JSON, which knows nothing of executors."""


def describe(given):
    """Count, sum and mean of the values."""
    values = given["values"]
    total = sum(values)
    return {"count": len(values), "sum": total, "mean": total / len(values)}


execute_function = describe
"""What a container of the Python runner calls."""
