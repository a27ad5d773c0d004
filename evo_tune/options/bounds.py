"""Bounds of recipe fields, checked before any data or model is built.

Bools are not numbers here and NaN lies outside every range; all errors are `RecipeError`. Knows nothing
of what the fields mean.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from evo_tune.errors import RecipeError

__all__ = ["check_integer", "check_name", "check_number"]


def check_integer(field: str, value: object, low: int, high: int | None = None) -> None:
    """Require a whole number in [low, high].

    Raises:
        RecipeError: It is something else (a bool and 2.0 are).
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        upper = "or more" if high is None else f"to {high}"
        raise RecipeError(field, value, f"a whole number, {low} {upper}")


def check_number(field: str, value: object, interval: str) -> None:
    """Require a finite number in an interval, written as in mathematics: '[0, 1)', '(0, inf)'.

    Raises:
        RecipeError: It is no number, is NaN or infinite, or lies outside.
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number:
        above = value >= low if interval[0] == "[" else value > low  # type: ignore[operator]
        below = value <= high if interval[-1] == "]" else value < high  # type: ignore[operator]
        number = above and below
    if not number:
        raise RecipeError(field, value, f"a number in {interval}")


def check_name(field: str, value: object, names: Collection[str]) -> None:
    """Require one of several names.

    Raises:
        RecipeError: It is another.
    """
    if not isinstance(value, str) or value not in names:
        raise RecipeError(field, value, f"one of {', '.join(names)}")
