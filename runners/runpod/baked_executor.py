"""Baked programs, under the name by which applications import them."""

from saggar.compat.runpod_baked import BakedExecutor
from saggar.functions.baked import is_baked_mode_enabled

__all__ = ["BakedExecutor", "is_baked_mode_enabled"]
