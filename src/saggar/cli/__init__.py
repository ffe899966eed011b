"""The door of a terminal: `saggar run`, `doctor`, `gc`, `bench`. It prints and parses."""

from saggar.cli.main import main

__all__ = ["main"]
