"""Loaded into every session before its first execution; `tests/test_code_folder.py` calls it."""

import math


def calculate_circle_area(radius):
    """The area of a circle."""
    return math.pi * radius**2


def factorial(n):
    """N times all whole numbers below it."""
    return 1 if n <= 1 else n * factorial(n - 1)


def add_numbers(a, b):
    """Their sum."""
    return a + b


print("Math utilities loaded")  # noqa: T201 - into the log of the instance
