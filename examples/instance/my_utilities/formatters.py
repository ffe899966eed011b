"""Loaded into an instance before its first execution."""


def format_currency(amount):
    """An amount of dollars."""
    return f"${amount:,.2f}"


def format_percentage(value):
    """With one digit behind the point."""
    return f"{value:.1f}%"


print("Formatters loaded")
